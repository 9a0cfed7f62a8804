//! What is done with personal data: kept, masked, or the document dropped, by kind and country.
//!
//! In a recipe: `[corpus.personal_data]` with `default = "mask"` and any of the names that
//! [`Policies::names`] lists, such as `ip = "keep"`, `br = "drop"`, `ruc-pe = "keep"`.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use serde::{Deserialize, Serialize};

use super::{Found, Kind, find, mask_found};

/// What is done with one kind of personal data; the later, the stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// It stays.
    Keep,
    /// It is covered by the name of its kind.
    #[default]
    Mask,
    /// The document goes.
    Drop,
}

/// A name that is no kind of personal data and no country.
#[derive(Debug, thiserror::Error)]
#[error("personal data: {name:?} is no kind and no country; known are {}", Policies::names().join(", "))]
pub struct UnknownKind {
    /// The name.
    pub name: String,
}

/// What is done with each kind of personal data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    by_kind: BTreeMap<Kind, Policy>,
}

/// A text after its personal data was dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied<'a> {
    /// The text, with what is masked covered by its kind.
    pub text: Cow<'a, str>,
    /// How many of each kind were covered.
    pub masked: BTreeMap<Kind, usize>,
    /// The first kind for which the document goes; then nothing is covered.
    pub drop: Option<Kind>,
}

impl Default for Policies {
    /// All kinds are masked.
    fn default() -> Self {
        Self { by_kind: Kind::all().map(|kind| (kind, Policy::Mask)).collect() }
    }
}

impl Policies {
    /// `default` for all kinds but those in `named`: a kind in a country (`ruc-pe`) goes before a
    /// kind (`ruc`), and that before a country (`pe`). Of several countries that a number can be of
    /// the strictest counts. Upper and lower case are the same.
    ///
    /// # Errors
    /// If a name is none of [`Policies::names`].
    pub fn new(default: Policy, named: &BTreeMap<String, Policy>) -> Result<Self, UnknownKind> {
        let known = Self::names();
        let named: BTreeMap<String, Policy> =
            named.iter().map(|(name, policy)| (name.to_lowercase(), *policy)).collect();
        if let Some(name) = named.keys().find(|name| !known.contains(name)) {
            return Err(UnknownKind { name: name.clone() });
        }
        let of = |kind: Kind| {
            let name = kind.name().to_lowercase();
            let strictest =
                |names: Vec<String>| names.iter().filter_map(|name| named.get(name)).max().copied();
            let countries = kind.jurisdictions().iter().map(|country| country.to_lowercase());
            strictest(countries.clone().map(|country| format!("{name}-{country}")).collect())
                .or_else(|| named.get(&name).copied())
                .or_else(|| strictest(countries.collect()))
                .unwrap_or(default)
        };
        Ok(Self { by_kind: Kind::all().map(|kind| (kind, of(kind))).collect() })
    }

    /// All names that a policy can be set for: kinds, countries, kinds in a country.
    pub fn names() -> Vec<String> {
        let mut names = BTreeSet::new();
        for kind in Kind::all() {
            let name = kind.name().to_lowercase();
            for country in kind.jurisdictions() {
                names.insert(format!("{name}-{}", country.to_lowercase()));
                names.insert(country.to_lowercase());
            }
            names.insert(name);
        }
        names.into_iter().collect()
    }

    /// The policy for a kind.
    pub fn of(&self, kind: Kind) -> Policy {
        self.by_kind[&kind]
    }

    /// Finds personal data in `text` and does with it what is asked.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use milpa_text::personal::{Policies, Policy};
    /// let named = BTreeMap::from([("ip".to_owned(), Policy::Keep)]);
    /// let policies = Policies::new(Policy::Mask, &named)?;
    /// let applied = policies.apply("ana@correo.example desde 190.12.45.44");
    /// assert_eq!(applied.text, "[EMAIL] desde 190.12.45.44");
    /// # Ok::<(), milpa_text::personal::UnknownKind>(())
    /// ```
    pub fn apply<'a>(&self, text: &'a str) -> Applied<'a> {
        let mut applied =
            Applied { text: Cow::Borrowed(text), masked: BTreeMap::new(), drop: None };
        if self.by_kind.values().all(|policy| *policy == Policy::Keep) {
            return applied;
        }
        let mut found = find(text);
        applied.drop = found.iter().map(|one| one.kind).find(|&kind| self.of(kind) == Policy::Drop);
        if applied.drop.is_some() {
            return applied;
        }
        found.retain(|Found { kind, .. }| self.of(*kind) == Policy::Mask);
        for one in &found {
            *applied.masked.entry(one.kind).or_default() += 1;
        }
        applied.text = mask_found(text, &found);
        applied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "ana@correo.example, CPF 529.982.247-25, RUC 20131312955, DNI 12345678";

    fn check(default: Policy, named: &[(&str, Policy)], expect: &str, dropped: Option<&str>) {
        let named = named.iter().map(|(name, policy)| ((*name).to_owned(), *policy)).collect();
        let policies = Policies::new(default, &named).unwrap();
        let applied = policies.apply(TEXT);
        assert_eq!((&*applied.text, applied.drop.map(Kind::name)), (expect, dropped));
    }

    #[test]
    fn the_most_particular_name_counts() {
        use Policy::{Drop, Keep, Mask};
        check(Keep, &[], TEXT, None);
        check(Mask, &[], "[EMAIL], CPF [CPF], RUC [RUC], DNI [DNI]", None);
        let masked = "ana@correo.example, CPF 529.982.247-25, RUC [RUC], DNI 12345678";
        check(Keep, &[("RUC", Mask)], masked, None);
        check(Keep, &[("pe", Drop), ("ruc-PE", Mask), ("dni", Keep)], masked, None);
        check(Keep, &[("pe", Drop), ("ruc", Mask)], TEXT, Some("DNI"));
        check(Mask, &[("br", Drop)], TEXT, Some("CPF"));
        // A DNI can be Peru's or Argentina's: the stricter counts.
        check(Keep, &[("ar", Mask), ("pe", Keep)], &TEXT.replace("12345678", "[DNI]"), None);
    }

    #[test]
    fn counts_tell_what_was_covered_and_names_are_checked() {
        let applied = Policies::default().apply(TEXT);
        assert_eq!(applied.masked.values().sum::<usize>(), 4);
        let named = BTreeMap::from([("passport".to_owned(), Policy::Drop)]);
        let error = Policies::new(Policy::Mask, &named).unwrap_err().to_string();
        assert!(error.contains("\"passport\"") && error.contains("ruc-pe"), "{error}");
    }
}
