//! The ARPA text format of n-gram models, in and out.
//!
//! Files of other tools may lack an n-gram whose longer form is there (pruning leaves such holes);
//! it is put in with the probability that backing off gives it, as KenLM does, so that a search may
//! stop at the first n-gram that is missing. It knows no tables: see [`NgramList::write`].

use std::{collections::HashMap, io::Write, path::Path};

use milpa_base::lines::{Line, LineReader};

use super::{BEGIN, END, Entry, MAX_ORDER, NgramList, UNKNOWN, Unit, estimate::NEVER};
use crate::codec::ModelError;

/// Longest line that is read, in bytes.
const MAX_LINE: usize = 1 << 16;
/// log₁₀ p of the unknown word in a file that has none, as KenLM takes it.
const NO_UNKNOWN: f32 = -100.0;

/// Reads an ARPA file (plain, gzip or zstd) of at most `max_ngrams` n-grams. Its unit is not
/// written in the format, so the caller says it.
///
/// # Errors
/// With the line's number, where the file is not what the format asks for.
pub fn read(path: &Path, unit: Unit, max_ngrams: usize) -> Result<NgramList, ModelError> {
    let file = |source| ModelError::File { path: path.to_owned(), source };
    let mut reader = LineReader::open(path, MAX_LINE).map_err(file)?;
    let mut arpa = Arpa::new(max_ngrams);
    while let Some(line) = reader.next_line().map_err(file)? {
        let line = match line {
            Line::Whole(line) => std::str::from_utf8(line).map_err(|_| "it is not UTF-8"),
            Line::TooLong { .. } => Err("it is too long"),
        };
        arpa.take(line).map_err(|detail| ModelError::Line { line: arpa.line, detail })?;
    }
    arpa.finish(unit).map_err(|detail| ModelError::Line { line: 0, detail })
}

/// Where in the file the next line is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Section {
    Before,
    Counts,
    Ngrams(usize),
    After,
}

struct Arpa {
    max_ngrams: usize,
    line: u64,
    section: Section,
    numbers: HashMap<String, u32>,
    words: Vec<String>,
    orders: Vec<Vec<Entry>>,
    declared: Vec<usize>,
    left: usize,
}

impl Arpa {
    fn new(max_ngrams: usize) -> Self {
        let words: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
        let numbers = words.iter().cloned().zip(0..).collect();
        let (orders, declared) = (Vec::new(), Vec::new());
        let section = Section::Before;
        Self { max_ngrams, line: 0, section, numbers, words, orders, declared, left: max_ngrams }
    }

    fn take(&mut self, line: Result<&str, &str>) -> Result<(), String> {
        self.line += 1;
        let line = line?.trim_matches([' ', '\t', '\r']);
        if line.is_empty() || self.section == Section::After {
            return Ok(());
        }
        match (self.section, line) {
            // Comments may stand before.
            (Section::Before, _) if line != "\\data\\" => Ok(()),
            (Section::Before, _) => {
                self.section = Section::Counts;
                Ok(())
            }
            (_, "\\end\\") => {
                self.section = Section::After;
                Ok(())
            }
            (Section::Counts, _) if line.starts_with("ngram ") => self.declare(&line[6..]),
            (_, _) if line.starts_with('\\') => {
                let order = self.orders.len() + 1;
                if line != format!("\\{order}-grams:") || order > self.declared.len() {
                    return Err(format!("the section {line:?} does not follow"));
                }
                self.orders.push(Vec::new());
                self.section = Section::Ngrams(order);
                Ok(())
            }
            (Section::Ngrams(order), _) => self.ngram(order, line),
            _ => Err("the counts have another form than `ngram N=COUNT`".to_owned()),
        }
    }

    fn declare(&mut self, counts: &str) -> Result<(), String> {
        let parsed = counts
            .split_once('=')
            .and_then(|(order, count)| Some((order.trim().parse::<usize>().ok()?, count)))
            .and_then(|(order, count)| Some((order, count.trim().parse::<usize>().ok()?)));
        match parsed {
            Some((order, count)) if order == self.declared.len() + 1 && order <= MAX_ORDER => {
                self.declared.push(count);
                Ok(())
            }
            Some((order, _)) => Err(format!("order {order} does not follow or exceeds 5")),
            None => Err("the counts have another form than `ngram N=COUNT`".to_owned()),
        }
    }

    fn ngram(&mut self, order: usize, line: &str) -> Result<(), String> {
        // Tabs stand around the words, spaces between them; some tools write spaces alone.
        let mut fields = line.split([' ', '\t']).filter(|field| !field.is_empty());
        let mut number = |what: &str| match fields.next().map(str::parse::<f32>) {
            Some(Ok(value)) if value.is_finite() => Ok(value),
            _ => Err(format!("its {what} is no number")),
        };
        let log10 = number("probability")?;
        let mut key = [0; MAX_ORDER];
        for place in (0..order).rev() {
            let word = fields.next().ok_or("it has too few words")?;
            key[place] = match self.numbers.get(word) {
                Some(&known) => known,
                None if order > 1 => return Err(format!("{word:?} is not among the unigrams")),
                None => {
                    let number = self.words.len() as u32;
                    self.words.push(word.to_owned());
                    self.numbers.insert(word.to_owned(), number);
                    number
                }
            };
        }
        let backoff = match fields.next().map(str::parse::<f32>) {
            None => 0.0,
            Some(Ok(value)) if value.is_finite() => value,
            Some(_) => return Err("its backoff is no number".to_owned()),
        };
        if fields.next().is_some() {
            return Err("it has too many words".to_owned());
        }
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            format!("there are more than {} n-grams; raise the limit", self.max_ngrams)
        })?;
        self.orders[order - 1].push(Entry { key, log10, backoff });
        Ok(())
    }

    fn finish(mut self, unit: Unit) -> Result<NgramList, String> {
        if self.section != Section::After {
            return Err("the file has no \\end\\".to_owned());
        }
        let found: Vec<usize> = self.orders.iter().map(Vec::len).collect();
        if found != self.declared || found.len() < 2 {
            return Err(format!("{:?} n-grams are announced, {found:?} follow", self.declared));
        }
        let mut special = [false; 3];
        for entry in &self.orders[0] {
            if let Some(seen) = special.get_mut(entry.key[0] as usize) {
                *seen = true;
            }
        }
        if !(special[BEGIN as usize] && special[END as usize]) {
            return Err("the unigrams lack <s> or </s>".to_owned());
        }
        if !special[UNKNOWN as usize] {
            let key = [UNKNOWN, 0, 0, 0, 0];
            self.orders[0].push(Entry { key, log10: NO_UNKNOWN, backoff: 0.0 });
        }
        for (index, list) in self.orders.iter_mut().enumerate() {
            list.sort_unstable_by_key(|entry| entry.key);
            if list.windows(2).any(|pair| pair[0].key == pair[1].key) {
                return Err(format!("a {}-gram is there twice", index + 1));
            }
        }
        let mut list = NgramList { unit, words: self.words, orders: self.orders };
        fill_holes(&mut list);
        Ok(list)
    }
}

/// Puts in the n-grams that are the end of a longer one and not there themselves.
fn fill_holes(list: &mut NgramList) {
    let mut holes: Vec<Vec<[u32; MAX_ORDER]>> = vec![Vec::new(); list.orders.len()];
    for order in (2..list.orders.len()).rev() {
        let longer = list.orders[order].iter().map(|entry| &entry.key);
        let mut missing: Vec<[u32; MAX_ORDER]> = longer
            .chain(&holes[order])
            .filter(|key| list.find(&key[..order]).is_none())
            .map(|key| {
                let mut key = *key;
                key[order..].fill(0);
                key
            })
            .collect();
        missing.sort_unstable();
        missing.dedup();
        holes[order - 1] = missing;
    }
    for (index, missing) in holes.into_iter().enumerate().filter(|(_, missing)| !missing.is_empty())
    {
        let filled: Vec<Entry> = missing
            .into_iter()
            .map(|key| {
                // Shorter n-grams are complete by now.
                let shorter =
                    list.find(&key[..index]).map_or(NEVER, |at| list.orders[index - 1][at].log10);
                let context = list.find(&key[1..=index]);
                let backoff = context.map_or(0.0, |at| list.orders[index - 1][at].backoff);
                Entry { key, log10: shorter + backoff, backoff: 0.0 }
            })
            .collect();
        let level = &mut list.orders[index];
        level.extend(filled);
        level.sort_unstable_by_key(|entry| entry.key);
    }
}

/// Writes a model as ARPA text.
pub fn write(list: &NgramList, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "\\data\\")?;
    for (index, level) in list.orders.iter().enumerate() {
        writeln!(out, "ngram {}={}", index + 1, level.len())?;
    }
    for (index, level) in list.orders.iter().enumerate() {
        writeln!(out, "\n\\{}-grams:", index + 1)?;
        for entry in level {
            write!(out, "{}\t", entry.log10)?;
            for (place, &word) in entry.key[..=index].iter().rev().enumerate() {
                let space = if place == 0 { "" } else { " " };
                write!(out, "{space}{}", list.words[word as usize])?;
            }
            if index + 1 < list.orders.len() {
                write!(out, "\t{}", entry.backoff)?;
            }
            writeln!(out)?;
        }
    }
    writeln!(out, "\n\\end\\")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ngram_model::{NgramConfig, NgramCounter, NgramModel};
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<NgramList, ModelError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path(), Unit::Word, 1000)
    }

    const SMALL: &str = "\\data\\\nngram 1=5\nngram 2=2\nngram 3=1\n\n\\1-grams:\n-1\t<unk>\t0\n\
        -99\t<s>\t-0.5\n-0.6\t</s>\n-0.7\tel\t-0.25\n-0.8\tagua\t-0.125\n\n\\2-grams:\n\
        -0.2\t<s> el\t-0.0625\n-0.3\tagua </s>\n\n\\3-grams:\n-0.1\t<s> el agua\n\n\\end\\\n";

    #[test]
    fn a_model_with_a_hole_backs_off() {
        let list = parse(SMALL).unwrap();
        // `el agua` is put in: backoff of `el` and probability of `agua`.
        assert_eq!(list.counts(), [5, 3, 1]);
        let model = NgramModel::from_bytes(list.to_bytes().unwrap()).unwrap();
        let check = |sentence: &str, expect: f64| {
            let found = model.score_sentence(sentence.split_whitespace()).log10;
            assert!((found - expect).abs() < 1e-6, "{sentence}: {found} is not {expect}");
        };
        check("el agua", -0.2 - 0.1 - 0.3);
        check("agua el", -0.5 - 0.8 - 0.125 - 0.7 - 0.25 - 0.6);
        check("el el agua", -0.2 - 0.0625 - 0.25 - 0.7 - 0.25 - 0.8 - 0.3);
        check("sol", -0.5 - 1.0 - 0.6);
        check("", -0.5 - 0.6);
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut counter = NgramCounter::new(NgramConfig::default()).unwrap();
        counter.add_text("la milpa da maíz\nla tierra da frijol y la milpa da maíz").unwrap();
        let list = counter.finish().unwrap();
        let mut text = Vec::new();
        write(&list, &mut text).unwrap();
        let again = parse(std::str::from_utf8(&text).unwrap()).unwrap();
        let model = |list: &NgramList| NgramModel::from_bytes(list.to_bytes().unwrap()).unwrap();
        let score = |list| model(list).score_text("la milpa da frijol\nxyz").log10;
        assert_eq!(list.counts(), again.counts());
        assert_eq!(score(&list), score(&again));
    }

    #[test]
    fn wrong_files_are_refused_with_the_line() {
        let check = |from: &str, to: &str, expect: &str| {
            let error = parse(&SMALL.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check("-0.7\tel", "x\tel", "line 10: its probability is no number");
        check("<s> el\t", "<s> la\t", "\"la\" is not among the unigrams");
        check("ngram 2=2", "ngram 2=3", "are announced");
        check("\\3-grams", "\\4-grams", "does not follow");
        check("-99\t<s>\t-0.5", "-99\tx\t-0.5", "<s>");
        check("\\end\\", "", "no \\end\\");
        check("-0.1\t<s> el agua", "-0.1\t<s> el", "too few words");
        check("-0.3\tagua </s>", "-0.3\t<s> el", "twice");
        check("-0.6\t", "NaN\t", "no number");
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(at in 0usize..SMALL.len(), with in "[ -~\\n\\t]{0,9}") {
            let _ = parse(&format!("{}{with}{}", &SMALL[..at], &SMALL[at + 1..]));
        }

        #[test]
        fn no_model_file_makes_it_panic(at in 0usize..4000, with: u8) {
            let mut bytes = parse(SMALL).unwrap().to_bytes().unwrap();
            let at = at % bytes.len();
            bytes[at] = with;
            if let Ok(model) = NgramModel::from_bytes(bytes) {
                model.score_text("el agua sol\nel el agua agua el");
                let _ = model.verify();
            }
        }
    }
}
