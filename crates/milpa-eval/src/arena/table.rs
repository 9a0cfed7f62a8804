//! Boards as text for people and as plots.

use std::fmt::{self, Write as _};

use milpa_base::plot::{Dot, DotPlot};

use super::{ArenaReport, Board};
use crate::report::{interval_text, table};

impl Board {
    /// Ratings with their intervals, best on top.
    pub fn plot(&self, title: &str) -> DotPlot {
        let dots = self.ratings.iter().map(|rating| Dot {
            name: rating.model.clone(),
            value: rating.rating,
            interval: Some((rating.interval.low, rating.interval.high)),
        });
        DotPlot {
            title: title.to_owned(),
            x_label: "rating, with 95 % interval".to_owned(),
            dots: dots.collect(),
        }
    }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with_bootstrap = self.ratings.iter().any(|rating| rating.bootstrap.is_some());
        let mut head = vec!["model", "places", "rating", "95 % sandwich"];
        if with_bootstrap {
            head.push("95 % bootstrap");
        }
        head.extend(["won", "votes"]);
        let rows: Vec<Vec<String>> = self
            .ratings
            .iter()
            .map(|rating| {
                let mut row = vec![
                    rating.model.clone(),
                    format!("{}–{}", rating.ranks.best, rating.ranks.worst),
                    format!("{:.1}", rating.rating),
                    interval_text(Some(&rating.interval), 1),
                ];
                if with_bootstrap {
                    row.push(interval_text(rating.bootstrap.as_ref(), 1));
                }
                row.extend([format!("{:.3}", rating.won), rating.votes.to_string()]);
                row
            })
            .collect();
        f.write_str(&table(&head, &rows, 1))?;
        if !self.unrated.is_empty() {
            writeln!(
                f,
                "not rated, for they won or lost all votes against the others: {}",
                self.unrated.join(", ")
            )?;
        }
        for effect in &self.style {
            writeln!(
                f,
                "style {}: {:+.1} points for one standard deviation ({})",
                effect.feature,
                effect.points,
                interval_text(Some(&effect.interval), 1)
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for ArenaReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} votes rated of {} lines\n\n{}", self.board.votes, self.lines, self.board)?;
        for category in &self.categories {
            match &category.board {
                Ok(board) => {
                    writeln!(f, "{} = {} ({} votes)", category.field, category.value, board.votes)?;
                    writeln!(f, "{board}")?;
                }
                Err(reason) => {
                    writeln!(f, "{} = {}: no board, {reason}", category.field, category.value)?;
                }
            }
        }
        let mut notes = String::new();
        for (reason, skip) in &self.skips.0 {
            let lines: Vec<String> = skip.first_lines.iter().map(u64::to_string).collect();
            let _ = writeln!(
                notes,
                "refused {}: {reason} (line {}{})",
                skip.count,
                lines.join(", "),
                if skip.count as usize > lines.len() { ", …" } else { "" }
            );
        }
        let hygiene = &self.hygiene;
        if hygiene.over_limit > 0 {
            let _ = writeln!(notes, "over a voter's limit, left out: {}", hygiene.over_limit);
        }
        let done = if hygiene.outliers_dropped { "left out" } else { "kept" };
        for outlier in &hygiene.outliers {
            let _ = writeln!(
                notes,
                "voter {} is unlike the others ({}, {} votes, p {:.1e}), {done}",
                outlier.user,
                match outlier.reason {
                    super::hygiene::OutlierReason::Contrary => "contradicts them",
                    super::hygiene::OutlierReason::Position => "prefers a side",
                },
                outlier.votes,
                outlier.p_value
            );
        }
        let _ = writeln!(
            notes,
            "first answer won {} times, second {}: p {:.3}",
            hygiene.position.first, hygiene.position.second, hygiene.position.p_value
        );
        if let Some(test) = &hygiene.exchangeability {
            let _ = writeln!(
                notes,
                "early against late votes on {} pairs: p {:.3} (small: not exchangeable)",
                test.pairs, test.p_value
            );
        }
        f.write_str(&notes)
    }
}
