//! Measures the language identifier that comes with the program.
//!
//! `cargo run --release -p milpa-text --example measure_language -- DATA_DIR OUT_DIR`
//! On texts that training never saw: macro-F1 over labels and languages, F1 of each American
//! language and of the neighbours of Spanish and Portuguese, calibration; false positives in a
//! stream of which 99 % is Spanish, Portuguese and English; planted splices of two languages; MB/s
//! over the bytes that are scored. There is no labelled mixed text at hand: splices of known
//! sentences are what mixture is measured on. Writes OUT_DIR/test.tsv and stream.tsv (label,
//! answer, text) for `reference/language_check.py`.

#![allow(clippy::print_stdout, reason = "a command for people")]

use std::{collections::BTreeMap, error::Error, fmt::Write as _, fs, hint::black_box, path::Path};

use milpa_base::seed::Seed;
use milpa_text::{
    LanguageModel,
    language::{evaluate, language_code, macrolanguage},
};

mod clock;
mod languages;
mod rows;
use clock::seconds;

/// Languages of the Americas among the labels, ISO 639-3.
const AMERICAN: &str = "acu agr ake amc ame amr amu arl arn auc ayr boa bsn bzd cab cak cbi cbr cbs cbt cbu chj \
    chq cic cjp cni cof cot cpu csa csw guc gug guu gyr hch hus huu hva ike jac jiv jmx kbh \
    kek kwi mam maz mbz mcd mcf mic mie mig miq mit mxb mxi mxv nah nav nhg nhn not ojb ote ots otz \
    pbb ppl qud qug quy quz qva qvc qvh qvm qvn quw qwh qxa qxn qxu quc sey shp snn tar tca tob toj \
    top tsz tzc tzh tzm ura usp vmc xtm xtn yad yua zam zro ztu";
/// What Spanish and Portuguese may swallow.
const NEIGHBOURS: &str =
    "glg ast cat oci lnc prv auv ext lad ita fra ron cos src vec fur eml pov kea cri cbk";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(data), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("usage: measure_language DATA_DIR OUT_DIR".into());
    };
    let (data, out) = (Path::new(&data), Path::new(&out));
    fs::create_dir_all(out)?;
    let model = LanguageModel::embedded();
    println!("{} labels of {} languages", model.labels().len(), model.languages().len());
    let texts = languages::texts(data)?;
    let test: Vec<(&str, &str)> =
        texts.test.iter().map(|(label, _, text)| (label.as_str(), text.as_str())).collect();
    held_out(model, &test);
    let large = languages::large_languages(data)?;
    let stream = stream_of(&large, &test);
    prevalence(model, &stream);
    splices(model, &test, &large);
    speed(model, &large, &test);
    for (name, rows) in [("test.tsv", &test), ("stream.tsv", &stream)] {
        let mut lines = String::new();
        for (label, text) in rows {
            let answer = model.identify(text).label;
            writeln!(lines, "{label}\t{answer}\t{}", text.replace(['\n', '\t'], " "))?;
        }
        fs::write(out.join(name), lines)?;
    }
    Ok(())
}

fn held_out(model: &LanguageModel, test: &[(&str, &str)]) {
    let same: fn(&str) -> &str = |label| label;
    let macros: fn(&str) -> &str = |label| macrolanguage(language_code(label));
    for (name, map) in [("label", same), ("language", language_code), ("macrolanguage", macros)] {
        let score = evaluate(model, test, map);
        let mut worst: Vec<_> = score.f1.iter().collect();
        worst.sort_by(|a, b| a.1.total_cmp(b.1));
        let worst: Vec<String> =
            worst.iter().take(20).map(|(label, f1)| format!("{label} {f1:.2}")).collect();
        println!(
            "held-out texts by {name}: macro-F1 {:.4} of {}, accuracy {:.4}, calibration error \
             {:.4}, {} texts\n  lowest: {}",
            score.macro_f1,
            score.f1.len(),
            score.accuracy,
            score.calibration_error,
            score.texts,
            worst.join(", ")
        );
    }
    let score = evaluate(model, test, language_code);
    for (name, list) in [("languages of the Americas", AMERICAN), ("neighbours", NEIGHBOURS)] {
        let found: Vec<(&str, f64)> = list
            .split_whitespace()
            .filter_map(|label| Some((label, *score.f1.get(label)?)))
            .collect();
        let mean = found.iter().map(|(_, f1)| f1).sum::<f64>() / found.len() as f64;
        let each: Vec<String> =
            found.iter().map(|(label, f1)| format!("{label} {f1:.3}")).collect();
        println!("F1 of {name}: mean {mean:.4} of {}\n  {}", found.len(), each.join(", "));
    }
}

/// 99 % lines of Spanish, Portuguese and English, 1 % of all other test texts.
fn stream_of<'a>(
    large: &'a [(String, String)],
    test: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut stream: Vec<(&str, &str)> =
        large.iter().map(|(label, text)| (label.as_str(), text.as_str())).collect();
    let rare: Vec<(&str, &str)> = test
        .iter()
        .copied()
        .filter(|(label, _)| !matches!(*label, "spa" | "por" | "eng"))
        .collect();
    let wanted = stream.len() / 99;
    stream.extend((0..wanted).map(|at| rare[at * rare.len() / wanted]));
    stream
}

fn prevalence(model: &LanguageModel, stream: &[(&str, &str)]) {
    let large = |label: &str| matches!(label, "spa" | "por" | "eng");
    let total = stream.iter().filter(|(label, _)| large(label)).count();
    println!(
        "a stream of {} lines, {} of them in other languages than Spanish, Portuguese, English",
        stream.len(),
        stream.len() - total
    );
    for least in [0.0, 0.5, 0.8] {
        let (mut taken, mut right, mut kept) = (0usize, 0usize, 0usize);
        let mut wrong: BTreeMap<&str, usize> = BTreeMap::new();
        let (mut american, mut american_right) = (0usize, 0usize);
        for (label, text) in stream {
            let answer = model.identify(text);
            if large(answer.label) || answer.label == "und" || answer.confidence < least {
                kept += usize::from(large(label) && answer.label == *label);
                continue;
            }
            let hit = answer.label == language_code(label);
            taken += 1;
            right += usize::from(hit);
            if AMERICAN.split_whitespace().any(|code| code == answer.label) {
                american += 1;
                american_right += usize::from(hit);
            }
            if large(label) {
                *wrong.entry(answer.label).or_default() += 1;
            }
        }
        let false_positives: usize = wrong.values().sum();
        let mut worst: Vec<(&str, usize)> = wrong.into_iter().collect();
        worst.sort_by_key(|&(label, count)| (std::cmp::Reverse(count), label));
        let worst: Vec<String> =
            worst.iter().take(12).map(|(label, count)| format!("{label} {count}")).collect();
        println!(
            "  confidence ≥ {least}: {taken} lines taken for a rare language, {right} rightly; \
             false positives {false_positives} of {total} ({:.3} %); as American {american}, \
             {american_right} rightly; Spanish, Portuguese, English found again {:.4}\n    {}",
            100.0 * false_positives as f64 / total as f64,
            kept as f64 / total as f64,
            worst.join(", ")
        );
    }
}

/// Plants documents of sentences in two languages, and of one, and counts what is called mixed.
fn splices(model: &LanguageModel, test: &[(&str, &str)], large: &[(String, String)]) {
    let mut sentences: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let known = test.iter().copied().chain(large.iter().map(|(l, t)| (l.as_str(), t.as_str())));
    for (label, text) in known {
        let letters = text.chars().filter(|c| c.is_alphabetic()).count();
        if (30..200).contains(&letters) {
            sentences.entry(macrolanguage(language_code(label))).or_default().push(text);
        }
    }
    let stream = Seed(0).derive("splices");
    let mut drawn = 0;
    let mut draw = |language: &str| -> &str {
        drawn += 1;
        let from = &sentences[language];
        from[(stream.u64_at(drawn) % from.len() as u64) as usize]
    };
    println!("planted splices, 400 documents of each kind:");
    for (first, second) in
        [("spa", "grn"), ("spa", "que"), ("spa", "aym"), ("spa", "nah"), ("spa", "por")]
    {
        for (many, few) in [(4, 4), (6, 2)] {
            let (mut both, mut mixed) = (0, 0);
            for _ in 0..400 {
                let mut pieces: Vec<&str> = (0..many).map(|_| draw(first)).collect();
                pieces.extend((0..few).map(|_| draw(second)));
                // Every second sentence changes sides, so that the order tells nothing.
                pieces.rotate_left(many / 2);
                let found = model.identify_segments(&pieces.join("\n"));
                let mut pair =
                    [found.main.label, found.mixed_with.unwrap_or("")].map(macrolanguage);
                pair.sort_unstable();
                let mut expect = [first, second];
                expect.sort_unstable();
                both += usize::from(pair == expect);
                mixed += usize::from(found.mixed_with.is_some());
            }
            println!(
                "  {many} sentences of {first}, {few} of {second}: both named {:.3}, called mixed {:.3}",
                both as f64 / 400.0,
                mixed as f64 / 400.0
            );
        }
    }
    for language in ["spa", "por", "eng", "grn", "que", "aym", "nah"] {
        let (mut right, mut mixed) = (0, 0);
        for _ in 0..400 {
            let pieces: Vec<&str> = (0..8).map(|_| draw(language)).collect();
            let found = model.identify_segments(&pieces.join("\n"));
            right += usize::from(macrolanguage(found.main.label) == language);
            mixed += usize::from(found.mixed_with.is_some());
        }
        println!(
            "  8 sentences of {language}: named {:.3}, wrongly called mixed {:.4}",
            right as f64 / 400.0,
            mixed as f64 / 400.0
        );
    }
    for language in ["spa", "por", "eng"] {
        let lines: Vec<&str> =
            large.iter().filter(|(l, _)| l == language).map(|(_, text)| text.as_str()).collect();
        let mixed: Vec<String> = lines
            .chunks(40)
            .map(|chunk| model.identify_segments(&chunk.join("\n")).label())
            .filter(|label| label.contains('+'))
            .collect();
        println!(
            "  40 lines of books, law and news in {language}: {} of {} called mixed {}",
            mixed.len(),
            lines.len().div_ceil(40),
            mixed.join(" ")
        );
    }
}

fn speed(model: &LanguageModel, large: &[(String, String)], test: &[(&str, &str)]) {
    // Documents of forty lines; every hundredth line in a rare language.
    let mut documents = vec![String::new()];
    for (at, (_, line)) in large.iter().enumerate() {
        if at % 40 == 39 {
            documents.push(String::new());
        }
        let document = documents.last_mut().expect("there is always one");
        _ = writeln!(document, "{line}");
        if at % 99 == 98 {
            _ = writeln!(document, "{}", test[at % test.len()].1);
        }
    }
    let rare: Vec<String> = test
        .chunks(40)
        .map(|chunk| chunk.iter().flat_map(|(_, text)| [*text, "\n"]).collect())
        .collect();
    for (name, documents) in [("the stream", &documents), ("all languages alike", &rare)] {
        let bytes: usize = documents.iter().map(String::len).sum();
        let lines: Vec<&str> = documents.iter().flat_map(|document| document.lines()).collect();
        // The clock may tick every 4 ms: a turn takes half a second and more.
        let passes = (32e6 / bytes as f64).ceil() as u32;
        let time = |f: &dyn Fn()| {
            (0..5)
                .map(|_| {
                    let begin = seconds();
                    (0..passes).for_each(|_| f());
                    (seconds() - begin) / f64::from(passes)
                })
                .fold(f64::MAX, f64::min)
        };
        let whole = time(&|| {
            for line in &lines {
                black_box(model.identify(line));
            }
        });
        let segments = time(&|| {
            for text in documents {
                black_box(model.identify_segments(text));
            }
        });
        println!(
            "speed on {name}, best of 5, time of one core, {:.1} MB scored: lines {:.1} MB/s, segments of \
             documents {:.1} MB/s",
            bytes as f64 / 1e6,
            bytes as f64 / whole / 1e6,
            bytes as f64 / segments / 1e6
        );
    }
}
