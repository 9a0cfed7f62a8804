//! Where in a response the program stands.
//!
//! What a model thought (up to `</think>`) is passed over. Of fenced blocks, those count whose label
//! is the language's; without any, those without a label. Without a fence the whole response is the
//! program. It does not know whether the code is any good.

use milpa_sandbox::Language;
use serde::{Deserialize, Serialize};

/// Which of several blocks is the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// The last: models correct themselves.
    #[default]
    Last,
    /// The first: models show how to use it.
    First,
    /// All of them, one after the other.
    All,
}

/// The program of a response; `None` without any.
pub fn code_in(response: &str, language: Language, block: Block) -> Option<String> {
    let response = response.rsplit_once("</think>").map_or(response, |(_, answer)| answer);
    let fenced = blocks(response);
    let labelled = |wanted: fn(&str, Language) -> bool| -> Vec<&str> {
        let ours = fenced.iter().filter(|(label, _)| wanted(label, language));
        ours.map(|(_, code)| *code).filter(|code| !code.trim().is_empty()).collect()
    };
    let mut found = labelled(|label, language| language.labels().contains(&label));
    if found.is_empty() {
        found = labelled(|label, _| label.is_empty());
    }
    if fenced.is_empty() && !response.trim().is_empty() {
        found.push(response);
    }
    let program = match block {
        Block::Last => (*found.last()?).to_owned(),
        Block::First => (*found.first()?).to_owned(),
        Block::All if found.is_empty() => return None,
        Block::All => found.join("\n"),
    };
    Some(match language {
        Language::JavaScript => without_exports(&program),
    })
}

/// Label in lower case and text of each fenced block; one that does not close ends with the text.
fn blocks(text: &str) -> Vec<(String, &str)> {
    let mut found = Vec::new();
    // Fence, label and start of the block that is open.
    let mut open: Option<(&str, String, usize)> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let bare = line.trim();
        let mark = if bare.starts_with('~') { '~' } else { '`' };
        let length = bare.len() - bare.trim_start_matches(mark).len();
        if length < 3 {
            continue;
        }
        let (fence, rest) = bare.split_at(length);
        match &open {
            None if !rest.contains('`') => {
                let label = rest.trim().split([' ', ',', '{', '=']).next().unwrap_or("");
                open = Some((fence, label.to_lowercase(), at));
            }
            Some((begin, label, from)) if rest.is_empty() && fence.starts_with(begin) => {
                found.push((label.clone(), &text[*from..start]));
                open = None;
            }
            _ => {}
        }
    }
    if let Some((_, label, from)) = open {
        found.push((label, &text[from..]));
    }
    found
}

/// A program as a script: `export` before a declaration is taken away, since nobody imports it.
fn without_exports(program: &str) -> String {
    let mut script = String::with_capacity(program.len());
    for line in program.split_inclusive('\n') {
        let rest = line.strip_prefix("export default ").or_else(|| line.strip_prefix("export "));
        let declares = |rest: &&str| {
            ["function", "async function", "class ", "const ", "let ", "var "]
                .iter()
                .any(|word| rest.starts_with(word))
        };
        script.push_str(rest.filter(declares).unwrap_or(line));
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found() {
        let check = |response: &str, block: Block, expect: Option<&str>| {
            let found = code_in(response, Language::JavaScript, block);
            assert_eq!(found.as_deref(), expect, "{response:?}");
        };
        let two = "Así:\n```js\nlet a;\n```\ny luego\n```JavaScript\nlet b;\n```\nListo.";
        check(two, Block::Last, Some("let b;\n"));
        check(two, Block::First, Some("let a;\n"));
        check(two, Block::All, Some("let a;\n\nlet b;\n"));
        check("```\nlet a;\n```\n```bash\nnode a.js\n```", Block::Last, Some("let a;\n"));
        check("```python\nprint(1)\n```", Block::Last, None);
        check("```js\nlet a = `x`;\n", Block::Last, Some("let a = `x`;\n"));
        check("````js\nlet a = `\n```\n`;\n````", Block::Last, Some("let a = `\n```\n`;\n"));
        check("  ~~~js title=\"a\"\nlet a;\n  ~~~", Block::Last, Some("let a;\n"));
        check("function f() {}", Block::Last, Some("function f() {}"));
        check("<think>```js\nlet mal;\n```</think>let a;", Block::Last, Some("let a;"));
        check(" \n", Block::Last, None);
        check("```js\n```", Block::All, None);
        let module =
            "```js\nexport default async function f() {}\nexport const a = 1;\nexport { a };\n```";
        let script = "async function f() {}\nconst a = 1;\nexport { a };\n";
        check(module, Block::Last, Some(script));
    }
}
