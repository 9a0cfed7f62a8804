//! Labels of several raters on the same items: agreement by group, and a judge's calibration.
//!
//! One JSON object a line: `id`, `rater`, `label` (a text, a number or a boolean) and any group
//! fields. Every rater counts once for an item; a second label of one rater is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use milpa_base::lines::{Line, LineReader};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::correction::Calibration;
use crate::{
    error::EvalError,
    items::Skips,
    multiple_choice::Resampling,
    statistics::agreement::{Agreement, Distance, Ratings, agreement},
};

/// Longest line, in bytes.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Most labels.
const MAX_LABELS: usize = 5_000_000;
/// Most different labels: the coefficients' tables are square.
const MAX_CATEGORIES: usize = 1000;
/// Most raters: each item has a place for each.
const MAX_RATERS: usize = 1000;

/// One rater's label of one item.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// The item.
    pub id: String,
    /// The rater.
    pub rater: String,
    /// The label as text.
    pub label: String,
    /// Other text fields.
    pub groups: BTreeMap<String, String>,
}

/// Agreement on all items and by the values of a field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgreementReport {
    /// Raters, sorted.
    pub raters: Vec<String>,
    /// Labels, in the order of their numbers.
    pub labels: Vec<String>,
    /// On all items; `None` where no item has two raters.
    pub all: Option<Agreement>,
    /// By the value of the field asked for.
    pub groups: BTreeMap<String, Option<Agreement>>,
    /// What was left out.
    pub skips: Skips,
}

/// Reads labels.
///
/// # Errors
/// A file that cannot be read, has no usable label, or too many.
pub fn read_labels(path: &Path) -> Result<(Vec<Label>, Skips), EvalError> {
    let read_error = |source| EvalError::Read { path: path.to_owned(), source };
    let bad = |message: String| EvalError::Judge(format!("{}: {message}", path.display()));
    let mut reader = LineReader::open(path, MAX_LINE_BYTES).map_err(read_error)?;
    let (mut labels, mut skips) = (Vec::new(), Skips::default());
    let mut seen = BTreeSet::new();
    while let Some(line) = reader.next_line().map_err(read_error)? {
        let parsed = match line {
            Line::TooLong { .. } => Err("the line is longer than 1 MiB".to_owned()),
            Line::Whole(bytes) if bytes.trim_ascii().is_empty() => continue,
            Line::Whole(bytes) => match serde_json::from_slice(bytes) {
                Ok(Value::Object(object)) => label(&object),
                Ok(_) => Err("not a JSON object".to_owned()),
                Err(_) => Err("not valid JSON".to_owned()),
            },
        };
        let number = reader.line_number();
        match parsed {
            Ok(label) if !seen.insert((label.id.clone(), label.rater.clone())) => {
                skips.add("a second label of one rater", number);
            }
            Ok(label) => labels.push(label),
            Err(reason) => skips.add(&reason, number),
        }
        if labels.len() > MAX_LABELS {
            return Err(bad(format!("more than {MAX_LABELS} labels; split the file")));
        }
    }
    if labels.is_empty() {
        let detail =
            if skips.0.is_empty() { "the file is empty".into() } else { skips.to_string() };
        return Err(bad(format!("no usable label: {detail}")));
    }
    Ok((labels, skips))
}

fn label(object: &Map<String, Value>) -> Result<Label, String> {
    let text = |name: &str| match object.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(Value::Bool(flag)) => Ok(flag.to_string()),
        _ => Err(format!("no field {name:?}")),
    };
    let groups = object.iter().filter_map(|(name, value)| match value {
        Value::String(text) if !["id", "rater", "label"].contains(&name.as_str()) => {
            Some((name.clone(), text.clone()))
        }
        _ => None,
    });
    let groups = groups.collect();
    Ok(Label { id: text("id")?, rater: text("rater")?, label: text("label")?, groups })
}

/// Agreement of the raters, in all and by the values of `field`. Under [`Distance::Interval`] all
/// labels must be numbers.
///
/// # Errors
/// Labels that are no numbers where they have to be, or too many raters or labels.
pub fn measure_agreement(
    labels: &[Label],
    skips: Skips,
    field: Option<&str>,
    distance: Distance,
    resampling: Resampling,
) -> Result<AgreementReport, EvalError> {
    let refuse = |message: String| Err(EvalError::Judge(message));
    let set = |of: fn(&Label) -> &String| -> Vec<String> {
        labels.iter().map(of).collect::<BTreeSet<_>>().into_iter().cloned().collect()
    };
    let (raters, values) = (set(|label| &label.rater), set(|label| &label.label));
    if raters.len() > MAX_RATERS || values.len() > MAX_CATEGORIES {
        return refuse(format!(
            "{} raters and {} different labels; at most {MAX_RATERS} and {MAX_CATEGORIES} are \
             compared",
            raters.len(),
            values.len()
        ));
    }
    let mut categories = values.len();
    let mut number: BTreeMap<&str, usize> = BTreeMap::new();
    if distance == Distance::Interval {
        // Scores count by their value: one step is one point.
        let mut scores = Vec::new();
        for value in &values {
            match value.parse::<f64>() {
                Ok(score) if score.fract() == 0.0 && score.abs() < 1e6 => scores.push(score as i64),
                _ => return refuse(format!("the label {value:?} is no whole number")),
            }
        }
        let (least, most) = (scores.iter().min().copied(), scores.iter().max().copied());
        let (least, most) = (least.unwrap_or_default(), most.unwrap_or_default());
        categories = (most - least + 1) as usize;
        if categories > MAX_CATEGORIES {
            return refuse(format!("labels from {least} to {most} are too far apart"));
        }
        number.extend(values.iter().zip(&scores).map(|(v, s)| (v.as_str(), (s - least) as usize)));
    } else {
        number.extend(values.iter().enumerate().map(|(at, value)| (value.as_str(), at)));
    }
    let rater: BTreeMap<&str, usize> =
        raters.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    let measure = |kept: &dyn Fn(&Label) -> bool| {
        let mut units: BTreeMap<&str, Vec<Option<usize>>> = BTreeMap::new();
        for label in labels.iter().filter(|label| kept(label)) {
            let unit = units.entry(&label.id).or_insert_with(|| vec![None; raters.len()]);
            unit[rater[label.rater.as_str()]] = Some(number[label.label.as_str()]);
        }
        let ratings = Ratings { units: units.into_values().collect(), categories };
        agreement(&ratings, distance, resampling.replicates, resampling.seed)
    };
    let all = measure(&|_| true);
    let mut groups = BTreeMap::new();
    if let Some(field) = field {
        let values: BTreeSet<&String> =
            labels.iter().filter_map(|label| label.groups.get(field)).collect();
        for value in values {
            let found = measure(&|label| label.groups.get(field) == Some(value));
            groups.insert(value.clone(), found);
        }
    }
    Ok(AgreementReport { raters, labels: values, all, groups, skips })
}

/// Counts a judge against people: labels `true`, `yes`, `1`, `right` or `correct` are right, their
/// contraries wrong; people are all raters but `judge`, by majority (ties are left out). Returns the
/// calibration and (judge right, judge all) over the items that people did not label.
///
/// # Errors
/// A label that is neither.
pub fn calibrate(labels: &[Label], judge: &str) -> Result<(Calibration, u64, u64), EvalError> {
    let mut items: BTreeMap<&str, (Option<bool>, i64, u64)> = BTreeMap::new();
    for label in labels {
        let right = match label.label.to_lowercase().as_str() {
            "true" | "yes" | "1" | "right" | "correct" => true,
            "false" | "no" | "0" | "wrong" | "incorrect" => false,
            other => {
                return Err(EvalError::Judge(format!(
                    "the label {other:?} of item {} is neither right nor wrong; write true or false",
                    label.id
                )));
            }
        };
        let item = items.entry(&label.id).or_default();
        if label.rater == judge {
            item.0 = Some(right);
        } else {
            item.1 += if right { 1 } else { -1 };
            item.2 += 1;
        }
    }
    let mut calibration = Calibration::default();
    let (mut right, mut judged) = (0, 0);
    for (by_judge, balance, people) in items.into_values() {
        let Some(by_judge) = by_judge else { continue };
        if people == 0 {
            judged += 1;
            right += u64::from(by_judge);
        } else if balance != 0 {
            calibration.add(balance > 0, by_judge);
        }
    }
    Ok((calibration, right, judged))
}

#[cfg(test)]
mod tests {
    use milpa_base::Seed;

    use super::*;

    const RESAMPLING: Resampling = Resampling { replicates: 100, seed: Seed(1) };

    fn labels(text: &str) -> (Vec<Label>, Skips) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_labels(file.path()).unwrap()
    }

    #[test]
    fn agreement_is_measured_by_dialect() {
        let mut text = String::new();
        for item in 0..20 {
            let dialect = if item < 10 { "rioplatense" } else { "andino" };
            let (first, second) = (item % 2, if item < 10 { item % 2 } else { item / 2 % 2 });
            for (rater, label) in [("ana", first), ("beto", second)] {
                text += &format!(
                    "{{\"id\":{item},\"rater\":\"{rater}\",\"label\":{label},\"dialect\":\"{dialect}\"}}\n"
                );
            }
        }
        text += "{\"id\":3,\"rater\":\"ana\",\"label\":0}\n{\"id\":3}\n";
        let (labels, skips) = labels(&text);
        let check = |distance| {
            measure_agreement(&labels, skips.clone(), Some("dialect"), distance, RESAMPLING)
                .unwrap()
        };
        let found = check(Distance::Nominal);
        let alpha =
            |agreement: &Option<Agreement>| agreement.unwrap().krippendorff_alpha.unwrap().value;
        assert_eq!((found.raters.len(), found.skips.total()), (2, 2));
        assert_eq!(alpha(&found.groups["rioplatense"]), 1.0);
        assert!(alpha(&found.groups["andino"]) < 0.5 && alpha(&found.all) < 1.0);
        // Two labels one step apart: the distances say the same.
        assert!((alpha(&check(Distance::Interval).all) - alpha(&found.all)).abs() < 1e-12);
    }

    #[test]
    fn people_calibrate_the_judge() {
        let text = "{\"id\":1,\"rater\":\"j\",\"label\":true}\n{\"id\":1,\"rater\":\"a\",\"label\":\"yes\"}\n\
            {\"id\":2,\"rater\":\"j\",\"label\":true}\n{\"id\":2,\"rater\":\"a\",\"label\":\"no\"}\n\
            {\"id\":3,\"rater\":\"j\",\"label\":0}\n\
            {\"id\":4,\"rater\":\"j\",\"label\":1}\n{\"id\":4,\"rater\":\"a\",\"label\":1}\n{\"id\":4,\"rater\":\"b\",\"label\":0}\n";
        let (labels, _) = labels(text);
        let (calibration, right, judged) = calibrate(&labels, "j").unwrap();
        let expect = Calibration { wrong: 1, wrong_found: 0, right: 1, right_found: 1 };
        assert_eq!((calibration, right, judged), (expect, 0, 1));
        let odd = Label { label: "maybe".to_owned(), ..labels[0].clone() };
        assert!(calibrate(&[odd], "j").is_err());
    }
}
