//! Whether two tokenizers give the same ids where both have them: what must hold before the weights of
//! their models are merged.
//!
//! One may have more tokens than the other, as after an extension. What ends a document and how a
//! conversation is written changes no id of a text, and is not compared.

use serde_json::Value;

use crate::tokenizer::{Model, Names, Tokenizer};

impl Tokenizer {
    /// Says in what the ids of two tokenizers differ; `None` where every id of the smaller one means the
    /// same in both, and text is cut alike but for tokens that only one of them has.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.hash() == other.hash() {
            return None;
        }
        if self.kind() != other.kind() {
            return Some(format!(
                "one is {}, the other {}",
                self.kind().name(),
                other.kind().name()
            ));
        }
        let shared = self.vocab_size().min(other.vocab_size()) as u32;
        let differs = |id: &u32| {
            self.token_bytes(*id) != other.token_bytes(*id)
                || self.is_special(*id) != other.is_special(*id)
        };
        if let Some(id) = (0..shared).find(differs) {
            let said = |tokenizer: &Self| {
                let kind = if tokenizer.is_special(id) { " (special)" } else { "" };
                format!("{:?}{kind}", tokenizer.decode(&[id]))
            };
            return Some(format!(
                "the token {id} is {} in one and {} in the other",
                said(self),
                said(other)
            ));
        }
        match (&self.spec().model, &other.spec().model) {
            (Model::ByteLevel(one), Model::ByteLevel(two)) => {
                if one.pre_split != two.pre_split || one.nfc != two.nfc {
                    return Some("they cut text into words differently".to_owned());
                }
                let first = one.merges.iter().zip(&two.merges).position(|(one, two)| one != two);
                // The merges of new tokens come after those that both have.
                first.map(|rank| format!("merge {} is another one", rank + 1))
            }
            _ => self.other_pipeline(other),
        }
    }

    /// The first part of two `tokenizer.json` that decides on ids and is not the same.
    fn other_pipeline(&self, other: &Self) -> Option<String> {
        let parse = |tokenizer: &Self| serde_json::from_slice::<Value>(tokenizer.json());
        let (Ok(one), Ok(two)) = (parse(self), parse(other)) else {
            return Some("their files are not the same".to_owned());
        };
        let compared: &[&str] = if self.vocab_size() == other.vocab_size() {
            &["normalizer", "pre_tokenizer", "model"]
        } else {
            &["normalizer", "pre_tokenizer"]
        };
        let part = compared.iter().find(|part| one[**part] != two[**part])?;
        Some(format!("their {part} is not the same"))
    }

    /// The same tokenizer with the end of text, BOS and chat template that another one declares, as far
    /// as this one has those tokens under the same ids.
    pub fn with_names_of(&self, other: &Self) -> Self {
        let (own, names) = (self.spec().names.clone(), other.spec().names.clone());
        let known = |id: &u32| self.token_bytes(*id) == other.token_bytes(*id);
        let bos = names.bos.filter(known);
        let names = Names {
            eos: names.eos.filter(known).or(own.eos),
            bos: bos.or(own.bos),
            begins_with_bos: if bos.is_some() {
                names.begins_with_bos
            } else {
                own.begins_with_bos
            },
            template: names.template.or(own.template),
        };
        self.with_names(names).expect("only names are other than in a sound tokenizer")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{PreSplit, TokenizerParts, byte_level};

    fn parts(merges: &[(&str, &str)]) -> TokenizerParts {
        let mut tokens: Vec<String> = vec!["<|endoftext|>".to_owned()];
        tokens.extend(byte_level::alphabet().iter().map(|&byte| byte_level::write(&[byte])));
        tokens.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
        TokenizerParts {
            tokens,
            merges: merges.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
            special: vec![0],
            user_defined: Vec::new(),
            pre_split: PreSplit::Qwen35,
            eos: Some(0),
            bos: None,
        }
    }

    fn check(change: impl FnOnce(&mut TokenizerParts), expect: Option<&str>) {
        let base = Tokenizer::from_parts(&parts(&[("a", "b"), ("ab", "c")])).unwrap();
        let mut other = parts(&[("a", "b"), ("ab", "c")]);
        change(&mut other);
        let other = Tokenizer::from_parts(&other).unwrap();
        let (one, two) = (base.difference(&other), other.difference(&base));
        assert_eq!(one.is_some(), two.is_some());
        match (one, expect) {
            (None, None) => {}
            (Some(found), Some(part)) => assert!(found.contains(part), "{found}"),
            (found, _) => panic!("{found:?} instead of {expect:?}"),
        }
    }

    #[test]
    fn what_changes_ids_is_named() {
        check(|_| {}, None);
        check(|parts| *parts = self::parts(&[("a", "b"), ("ab", "c"), ("abc", "d")]), None);
        check(|parts| *parts = self::parts(&[("a", "b"), ("ab", "d")]), Some("the token 258 is"));
        check(|parts| parts.merges.swap(0, 1), Some("merge 1 is another"));
        check(|parts| parts.pre_split = PreSplit::Llama3, Some("cut text"));
        check(|parts| parts.special.clear(), Some("(special)"));
    }

    #[test]
    fn names_are_taken_over_where_the_tokens_are_there() {
        let base = Tokenizer::from_parts(&parts(&[("a", "b")])).unwrap();
        let mut with_turns = parts(&[("a", "b")]);
        with_turns.tokens.push("<|im_end|>".to_owned());
        with_turns.special.push(258);
        with_turns.eos = Some(258);
        let chat = Tokenizer::from_parts(&with_turns).unwrap();
        assert_eq!(base.with_names_of(&chat).eos_id(), Some(0));
        with_turns.eos = Some(0);
        let plain = Tokenizer::from_parts(&with_turns).unwrap();
        assert_eq!(plain.with_names_of(&chat).eos_id(), Some(258));
        assert_eq!(plain.with_names_of(&chat).json(), plain.json());
        assert!(Tokenizer::from_json(plain.json(), Path::new("t.json")).is_ok());
    }
}
