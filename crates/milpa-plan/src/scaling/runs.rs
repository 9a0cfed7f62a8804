//! Training runs from a CSV file, refused with the line and what to write where they cannot be right.
//!
//! | column (or) | what |
//! |---|---|
//! | `parameters` (`n`, `params`, `n_params`) | all parameters, embeddings included |
//! | `non_embedding_parameters` (`params_no_embed`) | without embeddings; one of the two is needed |
//! | `tokens` (`d`) | tokens trained on up to this row |
//! | `unique_tokens` | tokens that differ, where some are repeated |
//! | `flops` (`c`, `compute`) | checked against 6·N·D |
//! | `loss` | nats per token |
//! | `task_loss` (`bpb`), `accuracy` or `error` | for predictions of a task; shares, not percent |
//! | `schedule` | cosine, wsd, constant, …: runs of different schedules are not fitted together |
//! | `run` | rows of one training curve share a name |
//! | `split` | `fit`; `test`: predicted, not fitted; `link`: only for accuracy by loss |
//!
//! Numbers may have a suffix: 70M, 1.5B, 20T, 3e9. Other columns are kept out and named.

use std::{fs, path::Path};

use milpa_base::config::nearest;
use serde::Serialize;

use crate::{
    PlanError,
    amounts::{leading_number, magnitude},
    scaling::RunSize,
};

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 64 << 20;
/// Most rows that are read.
const MAX_ROWS: usize = 200_000;

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Line in the file, from 1.
    pub line: usize,
    /// Name of the training curve.
    pub run: Option<String>,
    /// All parameters.
    pub parameters: Option<f64>,
    /// Parameters without embeddings.
    pub non_embedding_parameters: Option<f64>,
    /// Tokens trained on.
    pub tokens: f64,
    /// Tokens that differ.
    pub unique_tokens: Option<f64>,
    /// FLOPs as the file says.
    pub flops: Option<f64>,
    /// Loss in nats per token.
    pub loss: Option<f64>,
    /// Loss on a task.
    pub task_loss: Option<f64>,
    /// Accuracy on it.
    pub accuracy: Option<f64>,
    /// Schedule of the learning rate.
    pub schedule: Option<String>,
    /// What it is for.
    pub split: Split,
}

/// What a row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Everything is fitted to it.
    Fit,
    /// Only the accuracy by the loss is fitted to it.
    Link,
    /// It is predicted and compared.
    Test,
}

/// Which parameters are N.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Count {
    /// All of them, embeddings included.
    All,
    /// Without embeddings.
    NonEmbedding,
}

impl Count {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::All => "all parameters, embeddings included",
            Self::NonEmbedding => "parameters without embeddings",
        }
    }
}

impl Run {
    /// N by a count, if the row has it.
    pub fn counted(&self, count: Count) -> Option<f64> {
        match count {
            Count::All => self.parameters,
            Count::NonEmbedding => self.non_embedding_parameters,
        }
    }

    /// The size by a count, if the row has it.
    pub fn size(&self, count: Count) -> Option<RunSize> {
        let unique_tokens = self.unique_tokens.unwrap_or(self.tokens).min(self.tokens);
        self.counted(count).map(|parameters| RunSize {
            parameters,
            tokens: self.tokens,
            unique_tokens,
        })
    }
}

/// The rows of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct RunTable {
    /// The file, as named.
    pub path: String,
    /// Its rows.
    pub runs: Vec<Run>,
    /// Columns that mean nothing here.
    pub unused_columns: Vec<String>,
}

/// Known columns: the name in messages first, then what else is understood.
const COLUMNS: [&[&str]; 12] = [
    &["parameters", "n", "params", "n_params"],
    &["non_embedding_parameters", "params_no_embed", "n_no_embed"],
    &["tokens", "d", "n_tokens"],
    &["unique_tokens"],
    &["flops", "c", "compute"],
    &["loss"],
    &["task_loss", "bpb"],
    &["accuracy"],
    &["error"],
    &["schedule"],
    &["run"],
    &["split"],
];

const PARAMETERS: usize = 0;
const NON_EMBEDDING: usize = 1;
const TOKENS: usize = 2;
const UNIQUE: usize = 3;
const FLOPS: usize = 4;
const LOSS: usize = 5;
const TASK_LOSS: usize = 6;
const ACCURACY: usize = 7;
const ERROR: usize = 8;
const SCHEDULE: usize = 9;
const RUN: usize = 10;
const SPLIT: usize = 11;

impl RunTable {
    /// Reads a file.
    ///
    /// # Errors
    /// [`PlanError::BadTable`] with the line, what is wrong and what to write.
    pub fn load(path: &Path) -> Result<Self, PlanError> {
        let name = path.display().to_string();
        let unreadable = |problem: String| PlanError::CannotFit {
            problem: format!("cannot read {name}: {problem}"),
            remedy: "check the path and the file".to_owned(),
        };
        let length = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
        if length > MAX_BYTES {
            let problem = format!("its {length} bytes are more than the {MAX_BYTES} that are read");
            return Err(unreadable(problem));
        }
        let text = fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        Self::parse(&text, &name)
    }

    /// Reads a file's text; `path` is named in errors.
    pub fn parse(text: &str, path: &str) -> Result<Self, PlanError> {
        let mut lines = text
            .trim_start_matches('\u{feff}')
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let Some((first, header)) = lines.next() else {
            return Err(bad(path, 1, "the file is empty", "the first line names the columns"));
        };
        let header = Header::read(header, path, first)?;
        let mut runs = Vec::new();
        for (line, text) in lines {
            if runs.len() == MAX_ROWS {
                let problem = format!("more than {MAX_ROWS} rows");
                return Err(bad(path, line, problem, "keep every tenth row of a training curve"));
            }
            runs.push(header.row(text, path, line)?);
        }
        if runs.is_empty() {
            return Err(bad(path, first, "there are no rows", "write one line for each run"));
        }
        Ok(Self { path: path.to_owned(), runs, unused_columns: header.unused })
    }

    /// The names of the schedules, sorted; empty where the file says nothing of them.
    pub fn schedules(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.runs.iter().filter_map(|run| run.schedule.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The rows of one schedule.
    pub fn of_schedule(&self, name: &str) -> Self {
        let is = |run: &&Run| run.schedule.as_deref() == Some(name);
        Self { runs: self.runs.iter().filter(is).cloned().collect(), ..self.clone() }
    }
}

fn bad(
    path: &str,
    line: usize,
    problem: impl Into<String>,
    remedy: impl Into<String>,
) -> PlanError {
    PlanError::BadTable {
        path: path.to_owned(),
        line,
        problem: problem.into(),
        remedy: remedy.into(),
    }
}

/// Where each known column is.
struct Header {
    places: [Option<usize>; COLUMNS.len()],
    width: usize,
    unused: Vec<String>,
}

impl Header {
    fn read(text: &str, path: &str, line: usize) -> Result<Self, PlanError> {
        let names = cells(text).map_err(|problem| bad(path, line, problem, "close the quote"))?;
        let mut places = [None; COLUMNS.len()];
        let mut unused = Vec::new();
        let known: Vec<&str> = COLUMNS.iter().map(|column| column[0]).collect();
        for (place, name) in names.iter().enumerate() {
            let lower = name.to_lowercase();
            let Some(column) = COLUMNS.iter().position(|all| all.contains(&lower.as_str())) else {
                // A slip in a name must not silently drop the column; other columns are no slips.
                if let Some(near) = nearest(&lower, &known).filter(|near| is_slip(&lower, near)) {
                    let problem = format!("there is no column `{name}`");
                    return Err(bad(path, line, problem, format!("did you mean `{near}`?")));
                }
                unused.push(name.clone());
                continue;
            };
            if places[column].replace(place).is_some() {
                let problem = format!("two columns are `{}`", known[column]);
                return Err(bad(path, line, problem, "remove one"));
            }
        }
        let header = Self { places, width: names.len(), unused };
        let has = |column: usize| header.places[column].is_some();
        let missing = if !has(PARAMETERS) && !has(NON_EMBEDDING) {
            "parameters` or `non_embedding_parameters"
        } else if !has(TOKENS) {
            "tokens"
        } else if !has(LOSS) && !has(TASK_LOSS) {
            "loss` or `task_loss"
        } else if has(ACCURACY) && has(ERROR) {
            return Err(bad(path, line, "both `accuracy` and `error` are there", "remove one"));
        } else {
            return Ok(header);
        };
        let problem = format!("there is no column `{missing}`");
        let remedy = format!("the first line must name it; it names {}", names.join(", "));
        Err(bad(path, line, problem, remedy))
    }

    fn row(&self, text: &str, path: &str, line: usize) -> Result<Run, PlanError> {
        let cells = cells(text).map_err(|problem| bad(path, line, problem, "close the quote"))?;
        if cells.len() != self.width {
            let problem = format!("{} cells under {} columns", cells.len(), self.width);
            return Err(bad(path, line, problem, "write one cell for each column"));
        }
        let cell = |column: usize| {
            self.places[column].map(|place| cells[place].as_str()).filter(|cell| !cell.is_empty())
        };
        let number = |column: usize| {
            cell(column).map(|text| read_number(text).ok_or(text)).transpose().map_err(|text| {
                let problem = format!("{} is {text:?}, which is no number", COLUMNS[column][0]);
                bad(path, line, problem, "write it as 1500000000, 1.5e9 or 1.5B")
            })
        };
        let text = |column: usize| cell(column).map(str::to_lowercase);
        let error = number(ERROR)?;
        let run = Run {
            line,
            run: cell(RUN).map(str::to_owned),
            parameters: number(PARAMETERS)?,
            non_embedding_parameters: number(NON_EMBEDDING)?,
            tokens: number(TOKENS)?.ok_or_else(|| {
                bad(path, line, "`tokens` is empty", "write the tokens of the run")
            })?,
            unique_tokens: number(UNIQUE)?,
            flops: number(FLOPS)?,
            loss: number(LOSS)?,
            task_loss: number(TASK_LOSS)?,
            accuracy: number(ACCURACY)?.or(error.map(|error| 1.0 - error)),
            schedule: text(SCHEDULE),
            split: match text(SPLIT).as_deref() {
                None | Some("fit") => Split::Fit,
                Some("link") => Split::Link,
                Some("test") => Split::Test,
                Some(other) => {
                    let problem = format!("split is {other:?}");
                    return Err(bad(
                        path,
                        line,
                        problem,
                        "write fit, link, or test for a held-out run",
                    ));
                }
            },
        };
        check(&run, path)?;
        Ok(run)
    }
}

/// Refuses what cannot be.
fn check(run: &Run, path: &str) -> Result<(), PlanError> {
    let refuse = |problem: String, remedy: &str| Err(bad(path, run.line, problem, remedy));
    if run.parameters.or(run.non_embedding_parameters).is_none() {
        return refuse("the row has no parameters".into(), "write them, or remove the row");
    }
    for (column, value) in [
        (PARAMETERS, run.parameters),
        (NON_EMBEDDING, run.non_embedding_parameters),
        (TOKENS, Some(run.tokens)),
        (UNIQUE, run.unique_tokens),
        (FLOPS, run.flops),
    ] {
        let Some(value) = value else { continue };
        let name = COLUMNS[column][0];
        if value <= 0.0 {
            return refuse(format!("{name} is {value}"), "write a number above zero");
        }
        if value < 1e4 {
            return refuse(
                format!("{name} is {value}, which looks like millions or billions"),
                "write single ones, or a suffix: 70M, 1.5B, 300B",
            );
        }
        if column < FLOPS && value > 1e18 {
            return refuse(format!("{name} is {value:e}"), "write single ones: 7e9, 7B");
        }
    }
    let sizes = (run.parameters, run.non_embedding_parameters);
    if let (Some(all), Some(without)) = sizes
        && without > all
    {
        return refuse(
            format!("{without:e} parameters without embeddings are more than all {all:e}"),
            "exchange the columns or correct one",
        );
    }
    let positive = [(LOSS, run.loss, 30.0), (TASK_LOSS, run.task_loss, 30.0)];
    for (column, value, most) in positive {
        let Some(value) = value else { continue };
        let name = COLUMNS[column][0];
        if value <= 0.0 {
            return refuse(format!("{name} is {value}"), "write a mean loss, above zero");
        }
        if value > most {
            return refuse(
                format!("{name} is {value}, which looks like a perplexity or a sum"),
                "write the mean in nats per token: ln(perplexity)",
            );
        }
    }
    if let Some(accuracy) = run.accuracy
        && !(0.0..=1.0).contains(&accuracy)
    {
        return refuse(
            format!("accuracy is {accuracy} (error {})", 1.0 - accuracy),
            "write shares between 0 and 1: 0.62 for 62 %",
        );
    }
    check_flops(run, path)
}

/// FLOPs far from 6·N·D: one of the three has another unit.
fn check_flops(run: &Run, path: &str) -> Result<(), PlanError> {
    let Some(flops) = run.flops else { return Ok(()) };
    let parameters = run.parameters.or(run.non_embedding_parameters).unwrap_or(f64::NAN);
    let ratio = flops / (6.0 * parameters * run.tokens);
    // Attention, output layers and recomputation make up to some ten times 6·N·D of small models.
    if (0.2..=12.0).contains(&ratio) {
        return Ok(());
    }
    let power = (ratio.log10() / 3.0).round() as i32 * 3;
    let near = (ratio.log10() - f64::from(power)).abs() < 1.1 && power != 0;
    let remedy = match power {
        3.. if near => format!(
            "parameters or tokens look 10^{power} too small: write single ones, or a suffix (70M, 1.5B)"
        ),
        ..=-3 if near => format!(
            "flops look like units of 10^{} FLOP, or parameters and tokens are too large: write \
             single ones",
            -power
        ),
        _ => "correct the parameters, the tokens or the flops of this row".to_owned(),
    };
    let problem = format!(
        "flops {flops:.3e} are {ratio:.2e} times 6·N·D = 6 × {parameters:.3e} × {:.3e}",
        run.tokens
    );
    Err(bad(path, run.line, problem, remedy))
}

/// Whether two names differ so little that one is a slip of the other.
fn is_slip(name: &str, known: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (name.chars().collect(), known.chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, &left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &right) in b.iter().enumerate() {
            let cost = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    b.len() >= 4 && row[b.len()] <= 2
}

/// A number with an optional suffix; `None` for text and for what is not finite.
pub fn read_number(text: &str) -> Option<f64> {
    let (number, rest) = leading_number(text)?;
    let (factor, rest) = magnitude(rest);
    let value = number * factor;
    (rest.is_empty() && value.is_finite()).then_some(value)
}

/// The cells of a line; quotes as in RFC 4180, on one line.
fn cells(line: &str) -> Result<Vec<String>, String> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell).trim().to_owned()),
            _ => cell.push(character),
        }
    }
    if quoted {
        return Err("a quote is not closed".to_owned());
    }
    cells.push(cell.trim().to_owned());
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "parameters,tokens,flops,loss,schedule\n";

    fn refused(text: &str, parts: &[&str]) {
        let error = RunTable::parse(text, "runs.csv").unwrap_err().to_string();
        for part in parts.iter().chain(&["runs.csv, line "]) {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }

    #[test]
    fn rows_are_read_with_suffixes_and_other_names() {
        let text = "# two runs\nrun,N,params_no_embed,D,C,loss,schedule,lr,split\n\
                    \"a, b\",70M,53M,1.4B,5.9e17,3.9,Cosine,3e-4,\n\nc,1.5B,,30B,,2.9,wsd,,test\n";
        let table = RunTable::parse(text, "runs.csv").unwrap();
        assert_eq!(table.unused_columns, ["lr"]);
        assert_eq!(table.schedules(), ["cosine", "wsd"]);
        let [first, second] = &table.runs[..] else { panic!("{table:?}") };
        assert_eq!(first.run.as_deref(), Some("a, b"));
        assert_eq!((first.parameters, first.tokens), (Some(70e6), 1.4e9));
        assert_eq!(first.counted(Count::NonEmbedding), Some(53e6));
        assert_eq!((second.line, second.split, second.flops), (5, Split::Test, None));
        assert_eq!(table.of_schedule("wsd").runs.len(), 1);
    }

    #[test]
    fn errors_and_accuracies_are_one_column() {
        let table = RunTable::parse("n,d,loss,error\n70M,1B,3,0.25", "runs.csv").unwrap();
        assert_eq!(table.runs[0].accuracy, Some(0.75));
    }

    #[test]
    fn missing_columns_and_slips_are_refused() {
        refused("", &["empty"]);
        refused(HEADER, &["no rows"]);
        refused("parameters,loss\n1e9,3", &["no column `tokens`", "it names parameters, loss"]);
        refused("tokens,loss\n1e9,3", &["no column `parameters`"]);
        refused("parameters,tokens\n1e9,1e9", &["no column `loss` or `task_loss`"]);
        refused(
            "parametres,tokens,loss\n1e9,1e9,3",
            &["`parametres`", "did you mean `parameters`"],
        );
        refused("n,params,tokens,loss\n1e9,1e9,1e9,3", &["two columns are `parameters`"]);
    }

    #[test]
    fn impossible_rows_are_refused_with_their_line() {
        refused("n,d,loss\n1e9,1e10,3\n1e9,-2e10,3", &["line 3", "tokens is -20000000000"]);
        refused("n,d,loss\n1e9,1e10", &["line 2", "2 cells under 3 columns"]);
        refused("n,d,loss\n1e9,many,3", &["\"many\"", "1.5B"]);
        refused("n,d,loss\nNaN,1e9,3", &["no number"]);
        refused("n,d,loss\ninf,1e9,3", &["no number"]);
        refused("n,d,loss\n1e9,,3", &["`tokens` is empty"]);
        refused("n,d,loss\n1e9,1e9,0", &["loss is 0"]);
        refused("n,d,loss\n1e9,1e9,85", &["perplexity"]);
        refused("n,d,loss,accuracy\n1e9,1e9,3,62", &["0.62 for 62 %"]);
        refused("n,d,loss,split\n1e9,1e9,3,dev", &["write fit"]);
        refused("n,d,loss\n\"1e9,1e9,3", &["quote"]);
    }

    #[test]
    fn mixed_up_units_are_refused() {
        refused("n,d,loss\n1e9,1e10,3\n70,1e9,3", &["line 3", "millions or billions", "70M"]);
        // Parameters in millions that pass for small models: the FLOPs show it.
        refused(
            &format!("{HEADER}70M,1.4B,5.9e17,3.9,\n70000,1.4B,5.9e17,3.9,"),
            &["line 3", "10^3 too small"],
        );
        refused(&format!("{HEADER}1B,20B,1.2e11,2.9,"), &["10^9 FLOP"]);
        refused(
            "params,params_no_embed,tokens,loss\n5e7,7e7,1e9,3",
            &["more than all", "exchange the columns"],
        );
    }

    #[test]
    fn numbers_are_read_with_suffixes_only() {
        let check =
            |text: &str, expect: Option<f64>| assert_eq!(read_number(text), expect, "{text}");
        check("1.5B", Some(1.5e9));
        check("3e9", Some(3e9));
        check("2_000", Some(2000.0));
        check("6.3Z", Some(6.3e21));
        check("20 T", Some(20e12));
        check("é", None);
        check("1.5X", None);
        check("infinity", None);
        check("", None);
        check("0x10", None);
    }
}
