//! Copies in real collections, as the building blocks find them.

use milpa_base::{
    Bytes,
    lines::{DEFAULT_MAX_LINE_BYTES, Line, LineReader},
};
use milpa_corpus::{
    decontaminate::{DecontaminationConfig, Decontaminator},
    dedup::{
        DuplicateSettings, Duplicates, Member, NearSettings, RepeatFinder, RepeatSettings, Scope,
        cut_ranges, text_key,
    },
};
use milpa_text::MinHasher;

use super::*;

/// The field `text` of each line of a file of the shared data.
fn texts(path: &Path) -> Vec<String> {
    let mut lines = LineReader::open(path, DEFAULT_MAX_LINE_BYTES).unwrap();
    let mut out = Vec::new();
    while let Some(line) = lines.next_line().unwrap() {
        let Line::Whole(line) = line else { panic!("{}: a long line", path.display()) };
        let row: serde_json::Value = serde_json::from_slice(line).unwrap();
        out.push(row["text"].as_str().unwrap().to_owned());
    }
    out
}

fn members(texts: &[String], settings: DuplicateSettings) -> Vec<Member> {
    let scratch = tempfile::tempdir().unwrap();
    let mut duplicates = Duplicates::new(scratch.path(), settings).unwrap();
    let hasher = MinHasher::default();
    for (ordinal, text) in texts.iter().enumerate() {
        let signature = hasher.signature(text);
        let ordinal = ordinal as u64;
        duplicates.add(ordinal, Scope::GLOBAL, text_key(text), signature.as_ref()).unwrap();
    }
    duplicates.find().unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn all_versions_of_a_constitution_are_one_cluster() {
    let Some(data) = data() else { return };
    let mut all = texts(&data.join("text/pt_constituicao_versions.jsonl.zst"));
    assert_eq!(all.len(), 17);
    // Among other texts, which must stay out of it.
    all.extend(texts(&data.join("text/pt_novels.jsonl.zst")));
    for verify in [None, Some(0.7)] {
        for memory in [Bytes(4 << 10), Bytes(1 << 30)] {
            let near = Some(NearSettings { verify });
            let found = members(&all, DuplicateSettings { exact: true, near, memory });
            let cluster: Vec<_> =
                found.iter().map(|m| (m.ordinal, m.kept, m.cluster_size)).collect();
            let expect: Vec<_> = (0..17).map(|ordinal| (ordinal, 0, 17)).collect();
            assert_eq!(cluster, expect, "{verify:?} {memory}");
        }
    }
}

#[test]
fn the_second_version_of_a_constitution_is_cut_to_what_is_new() {
    let Some(data) = data() else { return };
    let all = texts(&data.join("text/pt_constituicao_versions.jsonl.zst"));
    let scratch = tempfile::tempdir().unwrap();
    let settings = RepeatSettings { min_bytes: 200, memory: Bytes(1 << 20) };
    let mut finder = RepeatFinder::new(scratch.path(), settings).unwrap();
    for (ordinal, text) in all.iter().enumerate() {
        finder.add(ordinal as u64, text).unwrap();
    }
    let mut left = [0; 2];
    for repeats in finder.find().unwrap() {
        let repeats = repeats.unwrap();
        let text = &all[repeats.ordinal as usize];
        left[0] += text.len();
        left[1] += cut_ranges(text, &repeats.ranges).len();
    }
    assert!(left[0] > 6_000_000 && left[1] < left[0] / 10, "{left:?}");
}

#[test]
fn a_question_planted_in_a_law_is_found_and_the_law_alone_is_not() {
    let Some(data) = data() else { return };
    let path = data.join("eval/mgsm_es.jsonl");
    let written = format!("[[sets]]\nname = \"mgsm_es\"\npath = {path:?}\n");
    let config: DecontaminationConfig =
        milpa_base::parse_toml(&written, Path::new("recipe.toml")).unwrap();
    let decontaminator = Decontaminator::load(&config).unwrap();
    assert!(decontaminator.passages() >= 95, "{}", decontaminator.passages());
    let laws = texts(&data.join("text/es_law_peru.jsonl.zst"));
    let mut lines = LineReader::open(&path, DEFAULT_MAX_LINE_BYTES).unwrap();
    let Some(Line::Whole(line)) = lines.next_line().unwrap() else { panic!("an empty set") };
    let item: serde_json::Value = serde_json::from_slice(line).unwrap();
    let question = item["question"].as_str().unwrap();
    for law in laws.iter().take(100) {
        assert_eq!(decontaminator.check(law), []);
        let planted = format!("{law}\n{}\n{law}", question.to_uppercase());
        let found = decontaminator.check(&planted);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].passage, "mgsm_es mgsm/0 question");
        let stretch = &planted[found[0].range.clone()];
        assert!(question.to_uppercase().contains(stretch), "{stretch}");
    }
}
