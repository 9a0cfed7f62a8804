//! Prompt templates: `{field}` stands for a field of the item, and nothing else is special.
//!
//! - `{name}` — the field as text (a string, a number or a boolean); an item where it is missing
//!   or blank is skipped with that reason.
//! - `{name?}` — the same, or nothing. A line whose placeholders are all optional and all blank
//!   is left out, with its words.
//! - `{{` and `}}` — a brace.
//!
//! There are no conditions, loops or filters on purpose: what a prompt looks like can be read off
//! the task file. It knows nothing of questions or answers.

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    lines: Vec<Vec<Part>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field { name: String, optional: bool },
}

impl Template {
    /// Parses a template; an error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split('\n').map(parse_line).collect::<Result<_, _>>().map(|lines| Self { lines })
    }

    /// Names of the fields that the template uses, in order, perhaps repeated.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().flatten().filter_map(|part| match part {
            Part::Field { name, .. } => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Fills the template. `value(name)` returns the field's text or `None` where it is missing.
    ///
    /// # Errors
    /// The name of a required field that is missing or blank.
    pub fn render(&self, value: impl Fn(&str) -> Option<String>) -> Result<String, &str> {
        let mut rendered: Vec<String> = Vec::with_capacity(self.lines.len());
        for line in &self.lines {
            let mut text = String::new();
            let (mut fields, mut blank) = (0, 0);
            for part in line {
                match part {
                    Part::Text(literal) => text.push_str(literal),
                    Part::Field { name, optional } => {
                        let found = value(name).filter(|found| !found.trim().is_empty());
                        if found.is_none() && !optional {
                            return Err(name);
                        }
                        fields += 1;
                        blank += usize::from(found.is_none());
                        text.push_str(&found.unwrap_or_default());
                    }
                }
            }
            if fields == 0 || blank < fields {
                rendered.push(text);
            }
        }
        Ok(rendered.join("\n"))
    }
}

fn parse_line(line: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(['{', '}']) {
        literal.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix(brace) {
            literal.push_str(brace);
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err("there is a `}` without `{`; write `}}` for a brace".to_owned());
        }
        let (name, after) = after
            .split_once('}')
            .ok_or("there is a `{` without `}`; write `{{` for a brace".to_owned())?;
        let (name, optional) = name.strip_suffix('?').map_or((name, false), |name| (name, true));
        let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '-' || c == '.';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(format!("{{{name}}} is no field name; write {{name}} or {{name?}}"));
        }
        if !literal.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut literal)));
        }
        parts.push(Part::Field { name: name.to_owned(), optional });
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Text(literal));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(template: &str, expect: Result<&str, &str>) {
        let template = Template::parse(template).unwrap();
        let value = |name: &str| match name {
            "q" => Some("¿Dónde?".to_owned()),
            "blank" => Some(" ".to_owned()),
            "brace" => Some("{q}".to_owned()),
            _ => None,
        };
        assert_eq!(template.render(value), expect.map(str::to_owned));
    }

    #[test]
    fn fields_are_filled_in_once() {
        check("P: {q}\nR:", Ok("P: ¿Dónde?\nR:"));
        check("{brace}", Ok("{q}"));
        check("a {{{q}}} b", Ok("a {¿Dónde?} b"));
        check("", Ok(""));
    }

    #[test]
    fn a_missing_field_is_named_and_an_optional_line_goes() {
        check("{none}", Err("none"));
        check("{blank}", Err("blank"));
        check("Texto: {none?}\n{q}\n\nR: {blank?} {q}", Ok("¿Dónde?\n\nR:  ¿Dónde?"));
    }

    #[test]
    fn bad_templates_are_refused() {
        for text in ["{", "}", "{}", "{a b}", "x {a", "{a{b}"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_survives_escaping(text in "[^\n]{0,40}") {
            let escaped = text.replace('{', "{{").replace('}', "}}");
            let template = Template::parse(&escaped).unwrap();
            prop_assert_eq!(template.render(|_| None).unwrap(), text);
        }
    }
}
