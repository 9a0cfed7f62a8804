//! How often an entity's pages are read: the popularity behind difficulty, where a file tells it.
//!
//! Files are streamed, and what is kept is one number for each entity of the region, so memory does
//! not grow with them. Lines are told apart by their columns:
//! - `Q2868 12345` (QID, views);
//! - `es.wikipedia Lima 12345` (project, title, views);
//! - `es Lima 42 0`, Wikimedia's hourly files (domain code, title, views, bytes);
//! - `es.wikipedia Lima 1234 desktop 42 A1B2`, Wikimedia's `pageview_complete`, daily or monthly
//!   (project, title, page id, access, views, views by hour or day).
//!
//! Columns are divided by tabs, or by spaces; a title has spaces only where tabs divide. Views of the
//! pages in the Spanish and the Portuguese Wikipedia are added up; pages are joined by the entity's
//! sitelinks, others and other projects are passed over.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
};

use milpa_base::lines::{Line, LineReader};
use serde::{Deserialize, Serialize};

use crate::{
    benchmark::BuildWatch,
    choclo::{
        Popularity, dump,
        entity::{Entity, Id, Value, number_of},
        graph::{Graph, Node},
    },
    error::EvalError,
    items::Skips,
};

/// Longest line of a file of page views, in bytes: a title has at most 255, the counts by day some
/// hundreds.
const MAX_LINE_BYTES: usize = 1 << 16;
/// Lines between two looks at progress and stop.
const LINES_BETWEEN: u64 = 1 << 16;

/// What files of page views told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PageViewCounts {
    /// Lines.
    pub lines: u64,
    /// Lines about a page of the region's entities.
    pub used: u64,
    /// Entities of the region with views.
    pub entities: u64,
    /// All their views.
    pub views: u64,
    /// Lines that could not be used, by reason.
    pub skipped: Skips,
}

/// How well known each entity is.
pub(crate) struct Scale {
    /// What it is measured by.
    pub(crate) kind: Popularity,
    views: HashMap<Id, u64>,
}

impl Scale {
    /// By page views where files of them are given, else by sitelinks, else (a dump without) by
    /// population.
    ///
    /// # Errors
    /// A file that cannot be read to its end, or tells of no entity of the region; a stop.
    pub(crate) fn read(
        files: &[PathBuf],
        graph: &Graph,
        watch: BuildWatch<'_>,
    ) -> Result<(Self, Option<PageViewCounts>), EvalError> {
        let subjects = &graph.nodes[..graph.subjects];
        if files.is_empty() {
            let has_sitelinks = graph.nodes.iter().any(|node| node.entity.sitelinks > 0);
            let kind = if has_sitelinks { Popularity::Sitelinks } else { Popularity::Population };
            return Ok((Self { kind, views: HashMap::new() }, None));
        }
        let mut pages = Pages::of(subjects.iter().map(|node| &node.entity));
        let mut counts = PageViewCounts::default();
        watch.progress.begin("reading page views", None, "lines");
        for file in files {
            pages.read(file, &mut counts, watch)?;
        }
        watch.progress.end();
        if counts.used == 0 {
            return Err(EvalError::NoPageViews {
                files: files.iter().map(|file| file.display().to_string()).collect(),
                lines: counts.lines,
                skipped: counts.skipped.to_string(),
            });
        }
        counts.entities = pages.views.len() as u64;
        counts.views = pages.views.values().fold(0, |sum, &views| sum.saturating_add(views));
        Ok((Self { kind: Popularity::PageViews, views: pages.views }, Some(counts)))
    }

    /// The number that stands in an item.
    pub(crate) fn of(&self, node: &Node) -> u64 {
        match self.kind {
            Popularity::PageViews => self.views.get(&node.entity.id).copied().unwrap_or(0),
            Popularity::Sitelinks => u64::from(node.entity.sitelinks),
            Popularity::Population => population(&node.entity),
        }
    }

    /// What decides who is better known: of two that are read as often, the sitelinks, then the
    /// population.
    pub(crate) fn rank(&self, node: &Node) -> [u64; 3] {
        let first = self.of(node);
        match self.kind {
            Popularity::PageViews => {
                [first, u64::from(node.entity.sitelinks), population(&node.entity)]
            }
            _ => [first, 0, 0],
        }
    }
}

/// The largest population that is stated.
fn population(entity: &Entity) -> u64 {
    let stated = entity.claims.iter().filter(|claim| claim.property == 1082 && claim.best);
    stated
        .filter_map(|claim| match claim.value {
            Value::Quantity { amount, .. } if amount > 0.0 => Some(amount as u64),
            _ => None,
        })
        .max()
        .unwrap_or(0)
}

/// The pages of entities, and how often they were read so far.
struct Pages {
    by_title: HashMap<(Wiki, Box<str>), Id>,
    views: HashMap<Id, u64>,
    known: HashSet<Id>,
}

/// The Wikipedias that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Wiki {
    #[serde(rename = "e")]
    Spanish,
    #[serde(rename = "p")]
    Portuguese,
}

impl Wiki {
    /// The Wikipedia of a sitelink: `eswiki`.
    pub(crate) fn of_site(site: &str) -> Option<Self> {
        match site {
            "eswiki" => Some(Self::Spanish),
            "ptwiki" => Some(Self::Portuguese),
            _ => None,
        }
    }

    /// The Wikipedia of a project's name: `es`, `es.m`, `es.wikipedia`, `es.m.wikipedia.org`, `eswiki`.
    fn of_project(project: &str) -> Option<Self> {
        let project = project.strip_suffix(".org").unwrap_or(project);
        let project = project.strip_suffix(".wikipedia").unwrap_or(project);
        // Mobile and (until 2016) zero-rated pages.
        let language =
            project.strip_suffix(".m").or(project.strip_suffix(".zero")).unwrap_or(project);
        match language {
            "es" => Some(Self::Spanish),
            "pt" => Some(Self::Portuguese),
            _ => Self::of_site(project),
        }
    }
}

impl Pages {
    fn of<'e>(entities: impl Iterator<Item = &'e Entity>) -> Self {
        let mut pages =
            Self { by_title: HashMap::new(), views: HashMap::new(), known: HashSet::new() };
        for entity in entities {
            pages.known.insert(entity.id);
            for (wiki, title) in &entity.titles {
                pages.by_title.insert((*wiki, title.clone()), entity.id);
            }
        }
        pages
    }

    fn read(
        &mut self,
        path: &Path,
        counts: &mut PageViewCounts,
        watch: BuildWatch<'_>,
    ) -> Result<(), EvalError> {
        let read_error = |source: io::Error| EvalError::Read { path: path.to_owned(), source };
        let mut reader = LineReader::new(dump::open(path).map_err(read_error)?, MAX_LINE_BYTES);
        while let Some(line) = reader.next_line().map_err(read_error)? {
            let result = match line {
                Line::Whole(bytes) => self.count(bytes),
                Line::TooLong { .. } => Err("longer than the bound"),
            };
            counts.lines += 1;
            if counts.lines.is_multiple_of(LINES_BETWEEN) {
                watch.progress.advance(counts.lines);
                if watch.stop.is_set() {
                    return Err(EvalError::Interrupted);
                }
            }
            match result {
                Ok(used) => counts.used += u64::from(used),
                Err(reason) => counts.skipped.add(reason, reader.line_number()),
            }
        }
        Ok(())
    }

    /// Adds what a line says; whether it is about an entity that is counted.
    fn count(&mut self, line: &[u8]) -> Result<bool, &'static str> {
        let Ok(line) = std::str::from_utf8(line) else { return Err("no UTF-8") };
        let by_tab: Vec<&str>;
        let columns: &[&str] = if line.contains('\t') {
            by_tab = line.split('\t').map(str::trim).collect();
            &by_tab
        } else {
            by_tab = line.split_whitespace().collect();
            &by_tab
        };
        let (id, views) = match *columns {
            [] => return Ok(false),
            [qid, views] => {
                let Some(id) = number_of(qid, 'Q') else { return Err("neither QID nor project") };
                (self.known.contains(&id).then_some(id), views)
            }
            [project, title, views]
            | [project, title, views, _]
            | [project, title, _, _, views, ..] => (self.page(project, title), views),
            [_] => return Err("one column"),
        };
        let Ok(views) = views.parse::<u64>() else { return Err("no number of views") };
        let Some(id) = id else { return Ok(false) };
        let all = self.views.entry(id).or_default();
        *all = all.saturating_add(views);
        Ok(true)
    }

    /// The entity of a page.
    fn page(&self, project: &str, title: &str) -> Option<Id> {
        let wiki = Wiki::of_project(project)?;
        let title = title.replace('_', " ");
        self.by_title.get(&(wiki, title.into_boxed_str())).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> Pages {
        let entity = |id, titles: &[(Wiki, &str)]| Entity {
            id,
            titles: titles.iter().map(|(wiki, title)| (*wiki, (*title).into())).collect(),
            ..Entity::default()
        };
        let all = [
            entity(2868, &[(Wiki::Spanish, "Lima"), (Wiki::Portuguese, "Lima")]),
            entity(1486, &[(Wiki::Spanish, "Buenos Aires")]),
        ];
        Pages::of(all.iter())
    }

    fn check(line: &str, expect: Result<Option<(Id, u64)>, &'static str>) {
        let mut pages = pages();
        let used = pages.count(line.as_bytes());
        let found = used.map(|used| {
            assert_eq!(used, pages.views.len() == 1);
            pages.views.into_iter().next()
        });
        assert_eq!(found, expect, "{line:?}");
    }

    #[test]
    fn lines_of_every_form_are_read() {
        check("Q2868\t120", Ok(Some((2868, 120))));
        check("Q2868 120", Ok(Some((2868, 120))));
        check("es.wikipedia\tBuenos Aires\t7", Ok(Some((1486, 7))));
        check("eswiki Buenos_Aires 7", Ok(Some((1486, 7))));
        check("es.m Lima 42 0", Ok(Some((2868, 42))));
        check("pt Lima 3 0", Ok(Some((2868, 3))));
        check("pt.wikipedia Lima 1234 mobile-web 15 A2B13", Ok(Some((2868, 15))));
        check("es.wikipedia Lima null desktop 9", Ok(Some((2868, 9))));
    }

    #[test]
    fn other_pages_are_passed_over_and_broken_lines_named() {
        check("", Ok(None));
        check("en.wikipedia Lima 1234 desktop 15 A2B13", Ok(None));
        check("es.wikibooks Lima 1 desktop 15 A15", Ok(None));
        check("es.wikipedia Quito 1 desktop 15 A15", Ok(None));
        check("Q1 5", Ok(None));
        check("Lima 5", Err("neither QID nor project"));
        check("Lima", Err("one column"));
        check("project\ttitle\tviews", Err("no number of views"));
        check("es.wikipedia Lima 1 desktop many A1", Err("no number of views"));
    }

    #[test]
    fn views_add_up_over_projects_and_do_not_overflow() {
        let mut pages = pages();
        for line in ["es Lima 5 0", "es.m Lima 6 0", "pt.wikipedia Lima 1 desktop 7 A7"] {
            assert_eq!(pages.count(line.as_bytes()), Ok(true));
        }
        assert_eq!(pages.views[&2868], 18);
        pages.count(format!("Q2868 {}", u64::MAX).as_bytes()).unwrap();
        assert_eq!(pages.views[&2868], u64::MAX);
    }
}
