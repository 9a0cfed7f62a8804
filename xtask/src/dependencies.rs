//! Holds the crates against ARCHITECTURE.md, and third-party crates against licences and
//! duplicates.
//!
//! The table under "Crates" in ARCHITECTURE.md is the truth: each row names a crate and the crates
//! of ours that it may use.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Licences that a dependency may have; an SPDX expression passes if one of its alternatives does.
const LICENCES: [&str; 12] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "bzip2-1.0.6",
];

/// Crates that stand in the tree in two versions, with the reason.
const KNOWN_DUPLICATES: &[(&str, &str)] = &[
    (
        "getrandom",
        "proptest's and parquet's random generators differ; tests and hashing seeds only",
    ),
    ("foldhash", "follows hashbrown; wasmi names it for a feature that is off, so it is not built"),
    ("hashbrown", "indexmap and parquet are one release apart"),
    ("r-efi", "follows getrandom; UEFI targets only"),
    ("syn", "serde_derive moved to 3, others follow"),
    ("windows-sys", "ring is behind; Windows targets only"),
];

/// Checks all three.
pub(crate) fn check(root: &Path) -> Result<()> {
    let metadata = MetadataCommand::new().manifest_path(root.join("Cargo.toml")).exec()?;
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md"))
        .context("ARCHITECTURE.md holds the table of crates")?;
    let mut problems = directions(&metadata, &table(&text)?);
    problems.extend(licences(&metadata));
    problems.extend(duplicates(&metadata));
    if !problems.is_empty() {
        bail!("dependencies:\n  {}", problems.join("\n  "));
    }
    Ok(())
}

/// Reads the rows `| `crate` | … | a, b |` of the table under the heading "Crates".
fn table(text: &str) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let section = text
        .split("\n## ")
        .find(|section| section.starts_with("Crates"))
        .context("ARCHITECTURE.md has no section \"Crates\"")?;
    let mut rows = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, .., uses] = cells.as_slice() else { continue };
        let uses = uses
            .split(',')
            .map(|name| name.trim().trim_matches('`').to_owned())
            .filter(|name| name != "–" && !name.is_empty())
            .collect();
        rows.insert(name.trim_matches('`').to_owned(), uses);
    }
    Ok(rows)
}

fn directions(metadata: &Metadata, table: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let ours: BTreeSet<&str> =
        metadata.workspace_packages().iter().map(|package| package.name.as_str()).collect();
    let mut problems = Vec::new();
    for name in table.keys().filter(|name| !ours.contains(name.as_str())) {
        problems.push(format!("ARCHITECTURE.md names {name}, which is no crate of the workspace"));
    }
    for package in metadata.workspace_packages() {
        let Some(allowed) = table.get(package.name.as_str()) else {
            problems.push(format!("{} is not in the table of ARCHITECTURE.md", package.name));
            continue;
        };
        let all = allowed.contains("all");
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let counts = dependency.kind == DependencyKind::Normal && ours.contains(name);
            if counts && !all && !allowed.contains(name.trim_start_matches("milpa-")) {
                problems.push(format!(
                    "{} uses {name}, which its row in ARCHITECTURE.md does not allow",
                    package.name
                ));
            }
        }
        for name in allowed.iter().filter(|name| *name != "all") {
            let used = package.dependencies.iter().any(|dependency| {
                dependency.kind == DependencyKind::Normal
                    && dependency.name == format!("milpa-{name}")
            });
            if !used {
                problems.push(format!("{} does not use {name}, but its row says so", package.name));
            }
        }
    }
    problems
}

fn licences(metadata: &Metadata) -> Vec<String> {
    metadata
        .packages
        .iter()
        .filter(|package| package.source.is_some())
        .filter(|package| !package.license.as_deref().is_some_and(licence_passes))
        .map(|package| {
            format!("{} {} has the licence {:?}", package.name, package.version, package.license)
        })
        .collect()
}

/// Whether one alternative of an SPDX expression consists of allowed licences only.
fn licence_passes(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    expression.split(" OR ").any(|alternative| {
        alternative
            .split(" AND ")
            .all(|part| LICENCES.contains(&part.trim().trim_matches(['(', ')']).trim()))
    }) || expression.split(" AND ").all(|part| {
        part.trim_matches(['(', ')']).split(" OR ").any(|l| LICENCES.contains(&l.trim()))
    })
}

fn duplicates(metadata: &Metadata) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for package in &metadata.packages {
        versions.entry(package.name.as_str()).or_default().insert(package.version.to_string());
    }
    let known = |name: &str| KNOWN_DUPLICATES.iter().any(|(known, _)| *known == name);
    let mut problems: Vec<String> = versions
        .iter()
        .filter(|(name, versions)| versions.len() > 1 && !known(name))
        .map(|(name, versions)| format!("{name} stands in several versions: {versions:?}"))
        .collect();
    problems.extend(
        KNOWN_DUPLICATES
            .iter()
            .filter(|(name, _)| versions.get(name).is_none_or(|versions| versions.len() < 2))
            .map(|(name, _)| format!("{name} is no longer there twice: take it off the list")),
    );
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_follow_the_table_of_the_architecture() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        check(root).unwrap();
    }

    #[test]
    fn a_row_names_a_crate_and_what_it_may_use() {
        let rows = table("# A\n## Crates\n| crate | does | uses |\n|---|---|---|\n| `x` | y | a, b |\n| `z` | y | – |\n").unwrap();
        assert_eq!(rows["x"], BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert!(rows["z"].is_empty());
    }

    #[test]
    fn licence_expressions_pass_by_their_best_alternative() {
        for (expression, passes) in [
            ("MIT OR Apache-2.0", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("(MIT OR GPL-2.0) AND Unicode-3.0", true),
            ("MIT AND GPL-3.0", false),
        ] {
            assert_eq!(licence_passes(expression), passes, "{expression}");
        }
    }
}
