//! Prompts of the LM Evaluation Harness: Jinja over the fields of a document.
//!
//! Its environment keeps white space, refuses fields that are missing and writes values as Python
//! does. Rendering is bounded as that of chat templates. It knows no task.

use minijinja::Value;
use serde_json::{Map, Value as Json};

use crate::{
    chat::{MAX_TEMPLATE_BYTES, Marks, collect_texts, explain, to_value},
    error::TokensError,
    template_guard::{self, Dialect, Surroundings},
};

/// A template over the fields of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentTemplate {
    source: String,
}

impl DocumentTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// A template that is too long or is no Jinja.
    pub fn new(source: &str) -> Result<Self, TokensError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(TokensError::Template(format!(
                "it has {} bytes; at most {MAX_TEMPLATE_BYTES} are read",
                source.len()
            )));
        }
        // Jinja reads every kind of line end as a newline.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        template_guard::check(&source, Dialect::Document).map_err(explain)?;
        Ok(Self { source })
    }

    /// Fills the template with the fields of `document`.
    ///
    /// # Errors
    /// A field that is missing, a fault in the template, or a limit that it passes.
    pub fn render(&self, document: &Map<String, Json>) -> Result<String, TokensError> {
        let mut input = String::new();
        let variables = document.iter().map(|(name, value)| {
            collect_texts(value, &mut input);
            (name.as_str(), to_value(value))
        });
        let variables = Value::from_pairs(variables);
        let marks = Marks::absent_from(&[]).expect("no text has a noncharacter");
        let surroundings = Surroundings { marks, now: None };
        let length = input.len() as u64;
        template_guard::render(&self.source, variables, length, surroundings, Dialect::Document)
            .map_err(explain)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(template: &str, expect: &str) {
        let document = json!({
            "q": "¿Dónde?", "n": 3, "yes": true, "options": ["a", "l'a"], "space": " x ",
        });
        let template = DocumentTemplate::new(template).unwrap();
        let rendered = template.render(document.as_object().unwrap());
        match expect.strip_prefix("error: ") {
            None => assert_eq!(rendered.unwrap(), expect),
            Some(part) => {
                let error = rendered.unwrap_err().to_string();
                assert!(error.contains(part), "{error}");
            }
        }
    }

    #[test]
    fn documents_are_rendered_as_the_harness_does() {
        check("{{q}}\nA:\n", "¿Dónde?\nA:\n");
        check("{{n}} {{yes}} {{options}} {{space.strip()}}", "3 True ['a', \"l'a\"] x");
        check("{% for o in options %}\n{{loop.index}}. {{o}}\n{% endfor %}", "\n1. a\n\n2. l'a\n");
        check("{{ 'A' if n == 3 else 'B' }}{{options[0]|upper}}", "AA");
        check("{{nothing}}", "error: ");
        check("{{nothing.deeper}}", "error: ");
    }
}
