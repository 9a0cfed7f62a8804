//! Invents chat logs for `milpa eval build trueque`, or plays the volunteers who fill its sheets.
//!
//! `cargo run -p milpa-eval --example chat_logs -- DIR [conversations]` writes logs, later consents
//! and a configuration; `… -- fill WORK ROUND` fills the sheets of a working folder.

mod generate;

use std::{error::Error, path::PathBuf};

use milpa_base::Seed;

#[expect(clippy::print_stdout, reason = "a command says what it did")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().ok_or("give a folder, or `fill` and a working folder")?;
    if first == "fill" {
        let work = PathBuf::from(arguments.next().ok_or("give the working folder")?);
        let round = arguments.next().map_or(Ok(1), |text| text.parse())?;
        println!("{} sheets filled", generate::fill(&work, round)?);
        return Ok(());
    }
    let conversations = arguments.next().map_or(Ok(200), |text| text.parse())?;
    let spec = generate::Spec { conversations, seed: Seed(1) };
    let invented = generate::write(&PathBuf::from(&first), &spec)?;
    println!(
        "{conversations} conversations with consent, {} without, {} broken lines, {} planted strings in {first}",
        invented.without_consent,
        invented.broken,
        invented.planted.len()
    );
    Ok(())
}
