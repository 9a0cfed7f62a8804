//! Measures what the filters leave of natural text: `measure_survival DATA [LEAST]`
//!
//! For each language with LEAST documents or more (default 3) it prints the share that the filters
//! for web pages keep under the language's limits, the share that they keep under English ones, and
//! the commonest rule by which documents fall. What falls here is good text that falls.

#![allow(clippy::print_stdout, reason = "an example talks to the terminal")]

mod natural;

use std::collections::BTreeMap;

use milpa_corpus::{config::Preset, filter::ThresholdTable};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let data = arguments.next().ok_or("measure_survival DATA [LEAST]")?;
    let least: usize = arguments.next().map_or(Ok(3), |count| count.parse())?;
    let table = ThresholdTable::default();
    let english = table.of("eng", Preset::Web);
    let mut totals: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    println!("collection  language  documents  kept   with English limits  commonest rule");
    for ((collection, language), documents) in natural::natural(data.as_ref())? {
        let limits = table.of(&language, Preset::Web);
        let (mut kept, mut kept_in_english) = (0, 0);
        let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
        for text in &documents {
            match natural::rule(text, &language, limits) {
                None => kept += 1,
                Some(rule) => *rules.entry(rule).or_default() += 1,
            }
            kept_in_english += usize::from(natural::rule(text, &language, english).is_none());
        }
        let total = totals.entry(collection).or_default();
        for (sum, count) in total.iter_mut().zip([documents.len(), kept, kept_in_english]) {
            *sum += count;
        }
        if documents.len() >= least {
            let share = |count: usize| count as f64 / documents.len() as f64;
            let worst = rules.iter().max_by_key(|(_, count)| **count);
            let worst = worst.map_or(String::new(), |(rule, count)| format!("{rule} {count}"));
            println!(
                "{collection:10}  {language:8}  {:9}  {:.3}  {:19.3}  {worst}",
                documents.len(),
                share(kept),
                share(kept_in_english)
            );
        }
    }
    for (collection, [all, kept, kept_in_english]) in totals {
        println!("{collection}: {kept} of {all} kept, {kept_in_english} with English limits");
    }
    Ok(())
}
