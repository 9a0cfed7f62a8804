//! Writes an invented Wikidata dump to standard output.
//!
//! `cargo run --release -p milpa-eval --example synthetic_dump -- [per class] [noise] [weight] [seed]`

mod generate;

use std::io::{self, BufWriter, Write};

use milpa_base::Seed;

fn main() -> io::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|argument| {
        argument.parse::<u32>().map_err(|_| io::Error::other(format!("{argument:?} is no number")))
    });
    let mut next = |default| numbers.next().unwrap_or(Ok(default));
    let spec = generate::Spec {
        per_class: next(1000)?,
        noise: next(1)?,
        weight: next(12)?,
        seed: Seed(u64::from(next(0)?)),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    generate::write_dump(&mut out, &spec)?;
    out.flush()
}
