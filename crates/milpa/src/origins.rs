//! Where a model comes from: the name of its base, and the licences of all that it was made from.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use anyhow::Result;
use milpa_base::{Manifest, manifest::MANIFEST_FILE};

use crate::recipe::{Origin, Recipe};

/// The model card of a folder.
const CARD_FILE: &str = "README.md";
/// Most bytes of a model card in which its front matter is looked for.
const MAX_CARD_BYTES: u64 = 256 << 10;
/// Longest name of a licence, in bytes.
const MAX_LICENCE_BYTES: usize = 128;

/// The name of the model in a folder: a bundle's own, that of the repository in the cache of the Hugging
/// Face hub, that of the run in whose `train` it lies, or the folder's.
pub fn model_name(path: &Path) -> String {
    if let Some(name) = milpa_package::bundle_name(path) {
        return name;
    }
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let names: Vec<&str> = path.iter().filter_map(|name| name.to_str()).collect();
    let repository = names.iter().rev().find_map(|name| name.strip_prefix("models--"));
    if let Some(repository) = repository {
        return repository.replacen("--", "/", 1);
    }
    let run = names.iter().rposition(|name| *name == "train").filter(|at| *at > 1);
    let name = match run {
        Some(at) if path.join(MANIFEST_FILE).exists() => names.get(at - 1),
        _ => names.last(),
    };
    name.map_or_else(|| "model".to_owned(), |name| (*name).to_owned())
}

/// Licences that bind what is made from the model in a folder: those of its manifest and of its model
/// card. Where neither says one there is one all the same, and it is named after the model.
pub fn model_licences(path: &Path) -> Vec<String> {
    let mut licences = Manifest::read(path).map(|manifest| manifest.licences).unwrap_or_default();
    for licence in card_licences(&path.join(CARD_FILE)) {
        // A card writes them in small letters.
        if !licences.iter().any(|known| known.eq_ignore_ascii_case(&licence)) {
            licences.push(licence);
        }
    }
    if licences.is_empty() {
        licences.push(format!("licence of the base {}", model_name(path)));
    }
    licences
}

/// Licences of everything that a training reads: its own tokens, the base, replay and general text.
///
/// # Errors
/// Token shards whose manifest cannot be read.
pub fn training_licences(recipe: &Recipe, own: Vec<String>) -> Result<Vec<String>> {
    let mut licences = own;
    if let Origin::Base(base) = recipe.origin() {
        licences.extend(model_licences(&base.model.path));
    }
    let replay = recipe.train.replay.iter().filter_map(|replay| replay.tokens.as_ref());
    let general = recipe.train.forgetting.iter().map(|forgetting| &forgetting.general);
    for tokens in replay.chain(general) {
        licences.extend(Manifest::read(&tokens.path)?.licences);
    }
    licences.sort();
    licences.dedup();
    Ok(licences)
}

/// What the front matter of a model card gives as `license`; nothing where it cannot be read.
fn card_licences(path: &Path) -> Vec<String> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    let mut lines = BufReader::new(file.take(MAX_CARD_BYTES)).lines().map_while(Result::ok);
    if lines.next().is_none_or(|line| line.trim_end() != "---") {
        return Vec::new();
    }
    let front: Vec<String> = lines.take_while(|line| line.trim_end() != "---").collect();
    let mut licences = values(&front, "license");
    // What has no identifier has a name.
    if licences == ["other"] {
        let named = values(&front, "license_name");
        licences = if named.is_empty() { Vec::new() } else { named };
    }
    licences
}

/// The value of a key in the lines of a front matter, or the values of its list.
fn values(lines: &[String], key: &str) -> Vec<String> {
    let of_key = |line: &String| line.strip_prefix(key)?.strip_prefix(':').map(str::to_owned);
    let Some((at, value)) =
        lines.iter().enumerate().find_map(|(at, line)| Some((at, of_key(line)?)))
    else {
        return Vec::new();
    };
    let plain = |value: &str| {
        let value = value.split(" #").next().unwrap_or_default();
        let value = value.trim().trim_matches(['"', '\'']).to_owned();
        let is_name = !value.is_empty()
            && value.len() <= MAX_LICENCE_BYTES
            && !value.contains(|c: char| c.is_control() || "[]{}|<>".contains(c));
        is_name.then_some(value)
    };
    let value = value.trim();
    if let Some(list) = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return list.split(',').filter_map(plain).collect();
    }
    if !value.is_empty() {
        return plain(value).into_iter().collect();
    }
    let items = lines[at + 1..].iter().map_while(|line| line.trim_start().strip_prefix("- "));
    items.filter_map(plain).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_card_gives_its_licences() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("some-model");
        fs::create_dir(&root).unwrap();
        let check = |card: &str, expect: &[&str]| {
            fs::write(root.join(CARD_FILE), card).unwrap();
            assert_eq!(model_licences(&root), expect, "{card}");
        };
        assert_eq!(model_licences(&root), ["licence of the base some-model"]);
        check("---\nlanguage: es\nlicense: cc-by-nc-4.0 # or ask\n---\n", &["cc-by-nc-4.0"]);
        check("---\r\nlicense: \"Apache-2.0\"\r\n---\r\n", &["Apache-2.0"]);
        check("---\nlicense:\n- mit\n- gemma\ntags:\n- x\n---\n", &["mit", "gemma"]);
        check("---\nlicense: [mit, 'gpl-3.0']\n---\n", &["mit", "gpl-3.0"]);
        check("---\nlicense: other\nlicense_name: llama3.1\n---\n", &["llama3.1"]);
        let unnamed = &["licence of the base some-model"];
        check("---\nlicense: other\n---\n", unnamed);
        check("license: mit\n", unnamed);
        check("---\nlanguage: es\n---\nlicense: mit\n", unnamed);
        check(&format!("---\nlicense: {}\n---\n", "x".repeat(4000)), unnamed);
        check("", unnamed);
        fs::write(root.join(CARD_FILE), [0xff, 0xfe, b'\n']).unwrap();
        assert_eq!(model_licences(&root), unnamed);
    }

    #[test]
    fn a_model_has_the_name_that_people_know() {
        let folder = tempfile::tempdir().unwrap();
        let check = |path: &str, expect: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(&path).unwrap();
            assert_eq!(model_name(&path), expect);
        };
        check("hub/models--org--model-1B/snapshots/0123abc", "org/model-1B");
        check("models/Llama-3.2-1B", "Llama-3.2-1B");
        let run = folder.path().join("runs/novelas/train/checkpoint");
        fs::create_dir_all(&run).unwrap();
        fs::write(run.join(MANIFEST_FILE), "").unwrap();
        assert_eq!(model_name(&run), "novelas");
        assert_eq!(model_name(Path::new("not/there")), "there");
    }
}
