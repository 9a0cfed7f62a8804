//! The benchmark of the region, built from invented dumps and from the places of `MILPA_DATA`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use milpa_base::{Kind, Seed, Silent, StopFlag, manifest::Verify, open_artifact};
use milpa_eval::{
    EvalError, PromptStyle, TaskSpec,
    choclo::{
        BuildWatch, ChocloConfig, ChocloItem, ChocloReport, Language, Mode, Object, Popularity,
        Reading, Tier, build_choclo,
    },
    read_items,
};

#[path = "../../examples/synthetic_dump/generate.rs"]
mod generate;

use generate::{Spec, write_dump};

const DATE: &str = "2026-11-20";

/// A small dump: one entity of each class for each country.
fn small(seed: u64) -> Vec<u8> {
    synthetic(27, seed)
}

fn synthetic(per_class: u32, seed: u64) -> Vec<u8> {
    let mut dump = Vec::new();
    let spec = Spec { per_class, noise: 1, weight: 1, seed: Seed(seed) };
    write_dump(&mut dump, &spec).unwrap();
    dump
}

fn build_with(
    dump: &Path,
    out: &Path,
    change: impl Fn(&mut ChocloConfig),
) -> Result<ChocloReport, EvalError> {
    let mut config = ChocloConfig::new(dump);
    config.dump_date = Some(DATE.to_owned());
    change(&mut config);
    let stop = StopFlag::default();
    build_choclo(&config, out, BuildWatch { progress: &Silent, stop: &stop })
}

fn build(bytes: &[u8], name: &str) -> (tempfile::TempDir, Result<ChocloReport, EvalError>) {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join(name);
    fs::write(&dump, bytes).unwrap();
    let report = build_with(&dump, &dir.path().join("out"), |_| {});
    (dir, report)
}

/// One build that the tests share.
fn shared() -> &'static (tempfile::TempDir, ChocloReport) {
    static BUILT: OnceLock<(tempfile::TempDir, ChocloReport)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let (dir, report) = build(&synthetic(54, 1), "dump.json");
        (dir, report.unwrap())
    })
}

fn items(out: &Path, file: &str) -> Vec<ChocloItem> {
    let text = fs::read_to_string(out.join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn all_items(out: &Path) -> Vec<ChocloItem> {
    let files = ["dev-es.jsonl", "dev-pt.jsonl", "test-es.jsonl", "test-pt.jsonl"];
    files.iter().flat_map(|file| items(out, file)).collect()
}

#[test]
fn every_relation_is_asked_in_both_languages() {
    let (dir, report) = shared();
    let out = dir.path().join("out");
    open_artifact(&out, Kind::Benchmark, Verify::Contents).unwrap();
    assert!(report.relations.len() >= 56, "{:?}", report.relations);
    assert_eq!(report.popularity, Popularity::Sitelinks);
    let mut languages: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let all = all_items(&out);
    assert_eq!(all.len() as u64, report.total());
    for item in &all {
        languages.entry(item.relation.clone()).or_default().insert(item.language.code());
        assert!(item.subject.starts_with('Q') && item.property.starts_with('P'));
        assert_eq!(item.dump_date, DATE);
        assert_eq!(item.paraphrases.len(), 2);
        assert!(item.canary.starts_with("CHOCLO-CANARY-"));
    }
    assert!(languages.values().all(|found| found.len() == 2), "{languages:?}");
    assert!(report.forms.values().all(|&count| count > 1000), "{:?}", report.forms);
}

#[test]
fn the_right_choice_is_right_and_the_others_are_not() {
    let (dir, _) = shared();
    for item in all_items(&dir.path().join("out")) {
        let reading = Reading { language: item.language, decimal_point: item.decimal == '.' };
        for (number, choice) in item.choices.iter().enumerate() {
            let grade = item.answer.grade(choice, reading);
            if Some(number) == item.answer_index {
                assert_eq!(grade, Some(Tier::Exact), "{choice:?} of {item:?}");
            } else if let Some(tier) = grade {
                // A name one letter away from the answer is a fair distractor, only the loosest
                // tier takes it for right.
                assert_eq!(tier, Tier::EditDistance, "{choice:?} of {item:?}");
            }
        }
        assert!(item.choices.is_empty() || item.choices.len() == 4);
        assert!(item.choices.is_empty() || item.cloze.is_none() || item.cloze_choices.len() == 4);
        for object in &item.answer.objects {
            assert_eq!(
                item.answer.mode == Mode::All,
                item.answer.grade(object.text(), reading).is_none()
            );
        }
    }
}

#[test]
fn nothing_leaks_across_the_splits() {
    let (dir, report) = shared();
    let out = dir.path().join("out");
    let entities = |file: &str| -> BTreeSet<String> {
        items(&out, file)
            .into_iter()
            .flat_map(|item| {
                let answers = item.answer.objects.into_iter().filter_map(|object| match object {
                    Object::Item { qid, .. } => Some(qid),
                    _ => None,
                });
                answers.chain([item.subject]).collect::<Vec<_>>()
            })
            .collect()
    };
    let hubs: BTreeSet<&str> = report.hubs.iter().map(String::as_str).collect();
    let is_country =
        |id: &str| all_items(&out).iter().any(|item| item.class == "country" && item.subject == id);
    for language in Language::ALL {
        let file = |split: &str| format!("{split}-{}.jsonl", language.code());
        let (dev, test) = (entities(&file("dev")), entities(&file("test")));
        assert!(dev.len() > 100 && test.len() > 100);
        let shared: Vec<&String> =
            dev.intersection(&test).filter(|id| !hubs.contains(id.as_str())).collect();
        assert!(shared.iter().all(|id| is_country(id)), "{shared:?}");
        let held_out = |item: &ChocloItem| ["neighbour", "notable work"].contains(&&*item.relation);
        assert!(!items(&out, &file("dev")).iter().any(held_out));
        assert!(items(&out, &file("test")).iter().any(held_out));
    }
    assert!(report.components.1 as f64 <= 0.06 * report.facts as f64, "{:?}", report.components);
}

#[test]
fn sampled_questions_are_grammatical() {
    let (_, report) = shared();
    assert_eq!(report.audit_sample.sentences, 400);
    assert!(report.audit_sample.share() >= 0.98, "{:?}", report.audit_sample);
    assert!(report.audit.share() >= 0.98, "{:?}", report.audit);
}

#[test]
fn the_same_dump_gives_the_same_bytes_in_any_compression_on_any_threads() {
    let text = small(2);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&text).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&text).unwrap();
    let dumps = [
        text.clone(),
        gzip.finish().unwrap(),
        bzip2.finish().unwrap(),
        zstd::encode_all(&text[..], 1).unwrap(),
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut found = BTreeSet::new();
    for (number, dump) in dumps.iter().enumerate() {
        let path = dir.path().join(format!("dump{number}"));
        fs::write(&path, dump).unwrap();
        let report =
            build_with(&path, &dir.path().join("out"), |config| config.threads = number + 1)
                .unwrap();
        found.insert(serde_json::to_string(&report).unwrap());
    }
    assert_eq!(found.len(), 1);
    // Nothing but the dumps and the folder stays.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), dumps.len() + 1);
    let other = build_with(&dir.path().join("dump0"), &dir.path().join("out"), |config| {
        config.seed = Seed(9);
    });
    assert!(!found.contains(&serde_json::to_string(&other.unwrap()).unwrap()));
}

#[test]
fn the_tasks_read_the_items() {
    let (dir, report) = shared();
    let out = dir.path().join("out");
    for kind in ["choice", "cloze"] {
        let text = fs::read_to_string(out.join(format!("{kind}-es.toml"))).unwrap();
        let task = TaskSpec::parse(&text, Path::new("task.toml")).unwrap();
        let path = out.join("test-es.jsonl");
        let set = read_items(&task, PromptStyle::Continuation, &path, None).unwrap();
        assert!(
            set.items.len() as u64 > report.items["test-es.jsonl"] / 2,
            "{kind}: {}",
            set.skips
        );
    }
}

#[test]
fn broken_lines_are_counted_and_the_rest_is_read() {
    let text = String::from_utf8(small(3)).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.insert(5, "{\"type\":\"item\",\"id\":\"Q77\",".to_owned());
    lines.insert(9, "{\"type\":\"item\",\"id\":\"Q78\",\"labels\":3},".to_owned());
    lines.insert(
        12,
        "{\"type\":\"item\",\"id\":\"Q79\",\"claims\":{\"P31\":[{\"rank\":\"normal\",\"mainsnak\":\
         {\"snaktype\":\"perhaps\"}},{\"rank\":\"normal\",\"mainsnak\":{\"snaktype\":\"value\",\
         \"datavalue\":{\"type\":\"odour\",\"value\":\"x\"}}}]}},"
            .to_owned(),
    );
    // An entity of 100 MB, almost all of it a label.
    lines.insert(
        20,
        format!("{{\"type\":\"item\",\"id\":\"Q80\",\"x\":\"{}\"}},", "y".repeat(100 << 20)),
    );
    let repeated = lines[40].clone();
    lines.insert(60, repeated);
    let (_dir, report) = build(lines.join("\n").as_bytes(), "dump.json");
    let report = report.unwrap();
    let skipped = &report.dump.skipped.0;
    assert_eq!(skipped["broken JSON"].first_lines, [6]);
    assert_eq!(skipped["not the data model of a dump"].first_lines, [10]);
    assert_eq!(skipped["longer than the bound"].first_lines, [21]);
    assert_eq!(report.dump.oddities["unknown snaktype \"perhaps\""], 1);
    assert_eq!(report.dump.oddities["unknown datatype \"odour\""], 1);
    let (_dir, clean) = build(text.as_bytes(), "dump.json");
    assert_eq!(report.content_hash, clean.unwrap().content_hash);
}

#[test]
fn a_cut_dump_and_a_foreign_file_are_named() {
    let check = |bytes: &[u8], expect: &str| {
        let (dir, result) = build(bytes, "dump.json");
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
        // No half artifact and no spool stay behind.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    };
    let text = small(4);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&text).unwrap();
    let gzip = gzip.finish().unwrap();
    check(&gzip[..gzip.len() / 2], "breaks off after");
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&text).unwrap();
    let bzip2 = bzip2.finish().unwrap();
    check(&bzip2[..bzip2.len() / 2], "breaks off after");
    check(b"[\n]\n", "yields no question");
    check(b"name,country\nLima,PE\n", "yields no question");
}

#[test]
fn a_stop_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump.json");
    fs::write(&dump, small(5)).unwrap();
    let stop = StopFlag::default();
    stop.stop();
    let mut config = ChocloConfig::new(&dump);
    config.dump_date = Some(DATE.to_owned());
    let watch = BuildWatch { progress: &Silent, stop: &stop };
    let result = build_choclo(&config, &dir.path().join("out"), watch);
    assert!(matches!(result, Err(EvalError::Interrupted)));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Entities and questions written by hand: `choclo_small/README.md`.
fn by_hand() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/choclo_small")
}

#[test]
fn what_is_asked_of_known_entities_is_what_was_written_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let report = build_with(&by_hand().join("entities.json"), &out, |config| {
        config.dev_share = 0.0;
        // One component may hold all of so few facts: no hub is cut.
        config.max_component_share = 1.0;
    })
    .unwrap();
    let mut items: BTreeMap<String, ChocloItem> =
        all_items(&out).into_iter().map(|item| (item.id.clone(), item)).collect();
    let expected = fs::read_to_string(by_hand().join("expected.tsv")).unwrap();
    let mut faults = Vec::new();
    for row in expected.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<&str> = row.split('\t').collect();
        let (&[id, question, answers], sentence) = columns.split_first_chunk::<3>().unwrap();
        let Some(item) = items.remove(id) else {
            faults.push(format!("{id} is not asked"));
            continue;
        };
        let mut questions = vec![&item.question];
        questions.extend(&item.paraphrases);
        if !questions.iter().any(|text| *text == question) {
            faults.push(format!("{id}: none of {questions:?} is {question:?}"));
        }
        let given: Vec<&str> = item.answer.objects.iter().map(Object::text).collect();
        if given.join("|") != answers {
            faults.push(format!("{id}: {given:?} instead of {answers:?}"));
        }
        let reading = Reading { language: item.language, decimal_point: item.decimal == '.' };
        if answers.split('|').count() == 1
            && item.answer.grade(answers, reading) != Some(Tier::Exact)
        {
            faults.push(format!("{id}: {answers:?} is not graded as exact"));
        }
        let whole = item
            .cloze
            .as_ref()
            .map(|cloze| format!("{cloze} {}", item.cloze_choices[item.cloze_index.unwrap()]));
        if let &[sentence] = sentence
            && whole.as_deref() != Some(sentence)
        {
            faults.push(format!("{id}: {whole:?} instead of {sentence:?}"));
        }
    }
    faults.extend(items.keys().map(|id| format!("{id} was not expected")));
    assert!(faults.is_empty(), "{}\n{:?}", faults.join("\n"), report.dropped_items);
    // Left out: the two named La Paz by where they are, "Santiago de Chile" and "Ciudad de México" by
    // what they say themselves, the team that Pelé left.
    assert_eq!(report.dropped_facts["ended"], 1);
    assert_eq!(report.dropped_items["es: an ambiguous name"], 2);
    assert!(report.dropped_items["es: the subject stands in the answer"] >= 2);
    assert_eq!(report.popularity, Popularity::Sitelinks);
}

#[test]
fn page_views_decide_what_is_well_known() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let views = dir.path().join("views.bz2");
    // Lima is read most, then Cusco; the views of both languages count together, and Brasilia is known
    // by its QID in a second file.
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2
        .write_all(
            "es.wikipedia Lima 1234 desktop 500 A500\n\
             es.wikipedia Lima 1234 mobile-web 700 B700\n\
             pt.wikipedia Lima 77 desktop 30 A30\n\
             en.wikipedia Lima 9 desktop 99999 A99999\n\
             es.wikipedia Cusco 5 desktop 600 A600\n\
             es.wikipedia Ciudad_de_México 6 desktop 10 A10\n\
             es.wikipedia La_Paz_(Cesar) null desktop 3 C3\n\
             half a line\n"
                .as_bytes(),
        )
        .unwrap();
    fs::write(&views, bzip2.finish().unwrap()).unwrap();
    let more = dir.path().join("more.tsv");
    fs::write(&more, "Q2844\t250\nQ999999999\t4\n").unwrap();
    let dump = by_hand().join("entities.json");
    let report = build_with(&dump, &out, |config| {
        config.page_views = vec![views.clone(), more.clone()];
    })
    .unwrap();
    assert_eq!(report.popularity, Popularity::PageViews);
    let counts = report.page_views.unwrap();
    assert_eq!((counts.lines, counts.used, counts.entities), (10, 7, 5));
    assert_eq!(counts.views, 1230 + 600 + 10 + 3 + 250);
    assert_eq!(counts.skipped.0["no number of views"].first_lines, [8]);
    let all = all_items(&out);
    let of = |subject: &str| {
        let item = all.iter().find(|item| item.subject == subject).unwrap();
        (item.popularity, item.difficulty)
    };
    assert_eq!(of("Q2868").0, 1230);
    assert_eq!(of("Q2844").0, 250);
    assert_eq!(of("Q1486").0, 0);
    // Peru has its country, two cities and a site; thirds are within category and country.
    assert!(of("Q2868").1 < of("Q5582862").1, "{:?} {:?}", of("Q2868"), of("Q5582862"));
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.contains("thirds by views of the pages"), "{card}");
    // Without files, and with those of other pages.
    let plain = build_with(&dump, &out, |_| {}).unwrap();
    assert_eq!((plain.popularity, plain.page_views), (Popularity::Sitelinks, None));
    fs::write(&more, "en.wikipedia Lima 9 desktop 99999 A99999\n").unwrap();
    let error = build_with(&dump, &out, |config| config.page_views = vec![more.clone()]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("none of the 1 lines of") && error.contains("QID views"), "{error}");
}

fn places() -> Option<PathBuf> {
    let data = crate::real_data::data()?;
    Some(data.join("wikidata").join("latam_places_dumpformat.json.zst"))
}

#[test]
fn real_places_become_questions() {
    let Some(dump) = places() else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let report = build_with(&dump, &out, |_| {}).unwrap();
    assert_eq!((report.dump.items, report.entities), (4038, 4038));
    assert_eq!(report.popularity, Popularity::Population);
    assert_eq!(report.dump.skipped.total(), 0);
    assert!(report.total() > 15_000, "{report}");
    assert!(report.audit_sample.share() >= 0.98);
    let item = all_items(&out).into_iter().find(|item| item.id == "Q77-P1082-pt").unwrap();
    assert_eq!(item.countries, ["UY"]);
    let reading = Reading { language: Language::Portuguese, decimal_point: false };
    assert_eq!(item.answer.grade("cerca de 3,5 milhões", reading), Some(Tier::WithinTolerance));
}
