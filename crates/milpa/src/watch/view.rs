//! The live view of a training as lines of text, for a terminal of any width.
//!
//! It draws from a state and a look alone, so that tests compare whole frames; where the lines go is
//! the terminal's business.

use console::{Style, measure_text_width, truncate_str};
use milpa_base::units::{binary_bytes, duration, si};

use crate::watch::{
    history::{Curve, History},
    state::State,
};

/// Widest frame.
const WIDEST: usize = 100;
/// Rows of the curve of the loss.
const CURVE_ROWS: usize = 5;
/// Columns of the labels beside the curve.
const LABELS: usize = 9;

/// What the terminal is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Whether it may have colours.
    pub colour: bool,
    /// Whether it shows more than ASCII.
    pub unicode: bool,
}

/// Draws a frame: lines that are narrower than the terminal, and fewer.
pub fn frame(state: &State, look: Look) -> Vec<String> {
    let width = look.width.saturating_sub(1).min(WIDEST);
    let paint = Paint { colour: look.colour };
    let mut head = vec![title(state, paint, width), bar(state, look, width)];
    head.extend(flow(width, &standing(state, paint)));
    let mut tail = flow(width, &numbers(state, look, paint));
    for (name, items) in sections(state, paint) {
        tail.extend(flow_under(width, name, &items, paint));
    }
    if !state.places.is_empty() {
        tail.extend(flow_under(width, "more", &state.places, paint));
    }
    // Of a low terminal the curve goes first, then what stands below.
    let rows = look.height.saturating_sub(1);
    let mut lines = head;
    if lines.len() + tail.len() + CURVE_ROWS < rows {
        lines.extend(curve(&state.history.loss, look, width));
    }
    lines.extend(tail);
    lines.truncate(rows);
    lines.iter().map(|line| truncate_str(line, width, "").into_owned()).collect()
}

/// Colours, or none.
#[derive(Clone, Copy)]
struct Paint {
    colour: bool,
}

impl Paint {
    fn with(self, style: Style, text: &str) -> String {
        if self.colour {
            style.force_styling(true).apply_to(text).to_string()
        } else {
            text.to_owned()
        }
    }

    fn bold(self, text: &str) -> String {
        self.with(Style::new().bold(), text)
    }

    fn soft(self, text: &str) -> String {
        self.with(Style::new().dim(), text)
    }

    fn alarm(self, text: &str) -> String {
        self.with(Style::new().red().bold(), text)
    }

    /// A name and its value.
    fn pair(self, name: &str, value: &str) -> String {
        format!("{} {}", self.soft(name), self.bold(value))
    }
}

fn title(state: &State, paint: Paint, width: usize) -> String {
    let left = paint.bold(&format!("training {}", state.run));
    let Some(stage) = state.stage() else { return left };
    let place = state.stages.iter().position(|(name, _)| *name == stage);
    let right = match place {
        Some(at) => format!("stage {stage} ({} of {})", at + 1, state.stages.len()),
        None => format!("stage {stage}"),
    };
    let gap = width.saturating_sub(measure_text_width(&left) + measure_text_width(&right)).max(2);
    format!("{left}{}{right}", " ".repeat(gap))
}

fn bar(state: &State, look: Look, width: usize) -> String {
    let step = state.step();
    let share = step as f64 / state.steps.max(1) as f64;
    let eta =
        state.seconds_left().map_or_else(String::new, |left| format!("  eta {}", duration(left)));
    let text = format!(" {:5.1} %  step {step}/{}{eta}", share * 100.0, state.steps);
    let room = width.saturating_sub(text.chars().count());
    if room < 8 {
        return text.trim_start().to_owned();
    }
    let cells = room.min(60) - 2;
    let full = ((share * cells as f64) as usize).min(cells);
    let (done, left) = if look.unicode { ('█', '░') } else { ('#', '.') };
    let cells: String = (0..cells).map(|cell| if cell < full { done } else { left }).collect();
    format!("[{cells}]{text}")
}

/// Where the run stands.
fn standing(state: &State, paint: Paint) -> Vec<String> {
    let mut items = Vec::new();
    if let Some(last) = &state.history.last {
        items.push(paint.pair("tokens", &si(last.tokens as f64)));
        items.push(paint.pair("running", &duration(last.seconds)));
    }
    items.push(match &state.saved {
        Some(saved) => {
            let age = duration(saved.age().as_secs_f64());
            paint.pair("checkpoint", &format!("{age} ago (step {})", saved.step))
        }
        None => paint.pair("checkpoint", "none yet"),
    });
    items
}

/// The numbers of the last step.
fn numbers(state: &State, look: Look, paint: Paint) -> Vec<String> {
    let history = &state.history;
    let Some(last) = &history.last else { return vec!["before the first step".to_owned()] };
    let mut items = vec![paint.pair("loss", &format!("{:.4}", last.loss))];
    if let Some(mean) = history.recent_loss() {
        let name = format!("mean of {}", history.recent_steps());
        items.push(paint.pair(&name, &format!("{mean:.4}")));
    }
    let line = if look.unicode {
        format!(" {}", sparkline(&history.learning_rate))
    } else {
        String::new()
    };
    items.push(paint.pair("learning rate", &format!("{:.2e}", last.learning_rate)) + &line);
    items.push(paint.pair("gradient", &format!("{:.3}", last.gradient_norm)));
    items.push(paint.pair("speed", &format!("{} tokens/s", si(last.tokens_per_second.round()))));
    items.push(paint.pair("MFU", &format!("{:.0} %", last.utilisation * 100.0)));
    if state.done.step_seconds > 0.0 {
        let wait = state.done.data_seconds / state.done.step_seconds * 100.0;
        items.push(paint.pair("data wait", &format!("{wait:.1} %")));
    }
    items.push(paint.pair("memory", &binary_bytes(last.memory_bytes)));
    let counts = history.counts;
    for (name, count) in [
        ("skipped steps", counts.skipped),
        ("rolled back", counts.rollbacks),
        ("restarts", counts.restarts),
    ] {
        if count > 0 {
            items.push(paint.pair(name, &count.to_string()));
        }
    }
    items
}

/// Values by source, and alarms.
fn sections(state: &State, paint: Paint) -> Vec<(&'static str, Vec<String>)> {
    let history = &state.history;
    let mut sections = Vec::new();
    let validation: Vec<String> = history
        .validation
        .iter()
        .filter_map(|(source, curve)| Some(paint.pair(source, &format!("{:.3}", curve.last()?))))
        .collect();
    if !validation.is_empty() {
        sections.push(("bits/byte", validation));
    }
    let mut shares = history.mix.shares();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    if !shares.is_empty() {
        let share =
            |(source, share): &(&str, f64)| paint.pair(source, &format!("{:.0} %", share * 100.0));
        sections.push(("data", shares.iter().map(share).collect()));
    }
    let measured = against_base(history, paint);
    if !measured.is_empty() {
        sections.push(("model", measured));
    }
    let alarms = state.alarms.iter().filter(|alarm| alarm.holds);
    let alarms: Vec<String> = alarms.map(|alarm| paint.alarm(alarm.name)).collect();
    if !alarms.is_empty() {
        sections.push(("alarms", alarms));
    }
    sections
}

/// The last measurement against the base.
fn against_base(history: &History, paint: Paint) -> Vec<String> {
    let mut items = Vec::new();
    for (name, curve) in &history.probes {
        let Some(percent) = curve.last() else { continue };
        let interval = history.probe_intervals.get(name);
        let interval =
            interval.map_or_else(String::new, |(low, high)| format!(" ({low:.1} to {high:.1})"));
        items.push(paint.pair(name, &format!("{percent:.1} %{interval}")));
    }
    if let Some(nats) = history.divergence.last() {
        items.push(paint.pair("KL", &format!("{nats:.3}")));
    }
    for (domain, curve) in
        history.domains.iter().filter(|(domain, _)| domain.starts_with("general/"))
    {
        items.extend(curve.last().map(|bits| paint.pair(domain, &format!("{bits:.3}"))));
    }
    for (task, curve) in &history.accuracy {
        let share = curve.last();
        items.extend(share.map(|share| paint.pair(task, &format!("{:.1} %", share * 100.0))));
    }
    items
}

/// Items one after the other, as many in a line as fit.
fn flow(width: usize, items: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for item in items {
        match lines.last_mut() {
            Some(line) if measure_text_width(line) + 3 + measure_text_width(item) <= width => {
                *line += "   ";
                *line += item;
            }
            _ => lines.push(item.clone()),
        }
    }
    lines
}

/// The same behind a name that stands once.
fn flow_under(width: usize, name: &str, items: &[String], paint: Paint) -> Vec<String> {
    let indent = LABELS + 1;
    flow(width.saturating_sub(indent), items)
        .into_iter()
        .enumerate()
        .map(|(row, line)| {
            let head = format!("{:<LABELS$}", if row == 0 { name } else { "" });
            format!("{} {line}", paint.soft(&head))
        })
        .collect()
}

/// Eight levels of what a curve was, in a few characters.
fn sparkline(curve: &Curve) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values = columns(&curve.points(), 12);
    let high = values.iter().flatten().copied().fold(0.0, f64::max);
    let level = |value: &Option<f64>| {
        let share = value.unwrap_or(0.0) / high.max(f64::MIN_POSITIVE);
        LEVELS[((share * 7.0).round() as usize).min(7)]
    };
    values.iter().map(level).collect()
}

/// Means of a curve in columns of equal width over its steps; a column without a point takes the one
/// before it.
fn columns(points: &[(f64, f64)], count: usize) -> Vec<Option<f64>> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return vec![None; count];
    };
    let span = (last.0 - first.0).max(1.0);
    let mut sums = vec![(0.0, 0usize); count];
    for (x, y) in points {
        let at = ((x - first.0) / span * count as f64) as usize;
        let sum = &mut sums[at.min(count - 1)];
        *sum = (sum.0 + y, sum.1 + 1);
    }
    let mut before = None;
    sums.into_iter()
        .map(|(sum, count)| {
            if count > 0 {
                before = Some(sum / count as f64);
            }
            before
        })
        .collect()
}

/// The curve of the loss with its ends: braille dots, or stars where there is only ASCII.
fn curve(curve: &Curve, look: Look, width: usize) -> Vec<String> {
    let points = curve.points();
    let cells = width.saturating_sub(LABELS + 2);
    if points.len() < 2 || cells < 12 {
        return Vec::new();
    }
    let (wide, high) = if look.unicode { (2, 4) } else { (1, 1) };
    let values = columns(&points, cells * wide);
    let dots = CURVE_ROWS * high;
    // The first moments fall so far that they would flatten all the rest.
    let settled = &values[values.len() / 20..];
    let (low, top) = settled
        .iter()
        .flatten()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, top), y| (low.min(*y), top.max(*y)));
    let span = (top - low).max(1e-9);
    let place = |value: f64| {
        let from_top = ((top - value) / span).clamp(0.0, 1.0) * (dots - 1) as f64;
        from_top.round() as usize
    };
    let mut grid = vec![vec![0u8; cells]; CURVE_ROWS];
    let mut before: Option<usize> = None;
    for (column, value) in values.iter().enumerate() {
        let Some(value) = value else { continue };
        let dot = place(*value);
        let from = before.unwrap_or(dot);
        before = Some(dot);
        for dot in from.min(dot)..=from.max(dot) {
            grid[dot / high][column / wide] |= bit(column % wide, dot % high);
        }
    }
    let show = |cell: &u8| match (look.unicode, cell) {
        (_, 0) => ' ',
        (true, bits) => char::from_u32(0x2800 + u32::from(*bits)).unwrap_or(' '),
        (false, _) => '*',
    };
    let edge = if look.unicode { '│' } else { '|' };
    let mut lines: Vec<String> = grid
        .iter()
        .enumerate()
        .map(|(row, cells)| {
            let label = match row {
                0 => format!("{top:.3}"),
                _ if row == CURVE_ROWS - 1 => format!("{low:.3}"),
                _ => String::new(),
            };
            let cells: String = cells.iter().map(show).collect();
            format!("{label:>LABELS$} {edge}{}", cells.trim_end())
        })
        .collect();
    let (first, last) = (points[0].0.to_string(), points[points.len() - 1].0.to_string());
    let gap = cells.saturating_sub(first.len() + last.len());
    lines.push(format!("{:>LABELS$}  {first}{}{last}", "loss", " ".repeat(gap)));
    lines
}

/// The bit of a braille dot in its cell of two columns and four rows.
fn bit(column: usize, row: usize) -> u8 {
    const BITS: [[u8; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
    BITS[column][row]
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use milpa_train::Noted;

    use super::*;
    use crate::watch::{
        history::tests::{measured, run},
        state::{AlarmState, Saved, tests::state},
    };

    const WIDE: Look = Look { width: 81, height: 24, colour: false, unicode: true };

    /// A run under way.
    fn under_way() -> State {
        let mut state = state(&run(330), 400);
        state.places =
            vec!["http://127.0.0.1:9100/metrics".to_owned(), "train/report.html".to_owned()];
        let alarm = |name, holds| AlarmState { name, holds, raised: 1 };
        state.alarms = vec![alarm("loss_above", false), alarm("no_progress", true)];
        state
    }

    /// The same, that goes on from a base and has saved.
    fn continued() -> State {
        let mut state = under_way();
        state.take(Noted::Added(&measured(320, 6.0)));
        let at = SystemTime::now() - Duration::from_mins(83);
        state.saved = Some(Saved { step: 300, at });
        state
    }

    /// A frame of a run; says where it is not as in the file of that name.
    fn check(name: &str, state: &State, look: Look) -> String {
        let lines = frame(state, look);
        assert!(lines.len() < look.height);
        assert!(lines.iter().all(|line| measure_text_width(line) < look.width));
        let found = lines.join("\n") + "\n";
        let path = format!("{}/src/watch/view/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        let expect = std::fs::read_to_string(path).unwrap();
        if found == expect { String::new() } else { format!("--- {name}\n{found}") }
    }

    #[test]
    fn frames_are_as_they_were_looked_at() {
        let state = under_way();
        let differ = [
            check("wide", &state, WIDE),
            check("narrow", &state, Look { width: 60, ..WIDE }),
            check("ascii", &state, Look { unicode: false, height: 40, ..WIDE }),
            check("low", &state, Look { height: 10, ..WIDE }),
            check("continued", &continued(), WIDE),
        ];
        assert!(differ.concat().is_empty(), "{}", differ.concat());
    }

    #[test]
    fn colours_change_nothing_but_the_colour() {
        let state = state(&run(330), 400);
        let plain = frame(&state, WIDE);
        let colour = frame(&state, Look { colour: true, ..WIDE });
        assert!(colour.concat().contains('\x1b') && !plain.concat().contains('\x1b'));
        let stripped: Vec<_> =
            colour.iter().map(|line| console::strip_ansi_codes(line).into_owned()).collect();
        assert_eq!(stripped, plain);
    }

    #[test]
    fn no_terminal_and_no_state_is_too_small() {
        for (width, height) in [(0, 0), (1, 1), (5, 3), (20, 50), (500, 500)] {
            let look = Look { width, height, ..WIDE };
            for state in [State::default(), state(&run(1), 1), state(&run(3000), 3000)] {
                let lines = frame(&state, look);
                assert!(lines.len() < height.max(1));
                assert!(lines.iter().all(|line| measure_text_width(line) < width.max(1)));
            }
        }
    }
}
