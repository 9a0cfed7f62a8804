//! `report.html` of a training: one page with its plots, rewritten while the run is under way.
//!
//! It shows what the history and the sheet say, loads nothing from anywhere, and reloads itself until
//! the run ended.

use std::{collections::BTreeMap, fmt::Write as _};

use milpa_base::{
    page,
    plot::{EventPlot, Layer, Mark, ScatterPlot, SharePlot, escape},
    units::{duration, si},
};
use milpa_plan::sheet::{Cell, Section};

use crate::watch::{
    history::{CHECKPOINT, Curve, History, RESTARTED, ROLLED_BACK, SKIPPED},
    state::State,
};

/// Most events in the table.
const MOST_EVENTS: usize = 40;
/// Most columns of the plot of the mixture.
const MIX_COLUMNS: usize = 160;

const STYLE: &str = "<style>\
    .plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(30rem,100%),1fr));gap:1.2rem 2rem;margin:1.2rem 0}\
    .bar{height:.6rem;border-radius:.3rem;background:var(--line);overflow:hidden;margin:0 0 1.2rem}\
    .bar i{display:block;height:100%;background:var(--accent)}\
    </style>";

/// How a run stands that a page is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase<'a> {
    /// It goes on; the page is made again after so many seconds.
    UnderWay(u64),
    /// It ended, so.
    Ended(&'a str),
}

/// Makes the page. `sections` are tables below the plots.
pub fn render(state: &State, phase: Phase<'_>, sections: &[Section]) -> String {
    let history = &state.history;
    let (step, steps) = (state.step(), state.steps);
    let share = step as f64 / steps.max(1) as f64;
    let stage = state.stage().map_or_else(String::new, |stage| format!(", stage {stage}"));
    let when = history.last.map_or_else(String::new, |last| match last.unix_seconds {
        time if time > 0.0 => format!(" Last step: {}.", utc(time)),
        _ => String::new(),
    });
    let how = match phase {
        Phase::UnderWay(_) => "Under way",
        Phase::Ended(how) => how,
    };
    let subtitle =
        format!("{how}: step {step} of {steps} ({:.1} %){stage}.{when}", share.min(1.0) * 100.0);
    let mut page = page::begin(&format!("Training {}", state.run), &subtitle, page::Width::Broad);
    if let Phase::UnderWay(seconds) = phase {
        let reload = format!("</title><meta http-equiv='refresh' content='{}'>", seconds.max(1));
        page = page.replacen("</title>", &reload, 1);
    }
    page += STYLE;
    let _ =
        write!(page, "<div class='bar'><i style='width:{:.2}%'></i></div>", share.min(1.0) * 100.0);
    page += &cards(state, phase);
    page += "<div class='plots'>";
    let loss = vec![layer("training", &history.loss, 0)];
    page += &plot("Loss", "nats per token", loss, false);
    let sources = history.validation.iter().enumerate();
    page += &plot(
        "Validation",
        "bits per byte",
        sources.map(|(at, (source, curve))| layer(source, curve, at)).collect(),
        true,
    );
    page += &plot(
        "Learning rate",
        "of the hidden matrices",
        vec![layer("", &history.learning_rate, 2)],
        false,
    );
    page += &plot(
        "Norm of the gradient",
        "before clipping",
        vec![layer("", &history.gradient_norm, 3)],
        false,
    );
    page += &plot("Speed", "tokens per second", vec![layer("", &history.speed, 4)], false);
    page +=
        &plot("MFU", "share of the measured peak", vec![layer("", &history.utilisation, 5)], false);
    page += &mixture(state);
    let probes = history.probes.iter().enumerate();
    page += &plot(
        "Forgetting and adaptation",
        "percent",
        probes.map(|(at, (name, curve))| layer(name, curve, at)).collect(),
        true,
    );
    page += &against_base(history);
    page += &time_line(state);
    page += "</div>";
    page += &events(state);
    for section in sections {
        page += &table_of(section);
    }
    page += page::END;
    page
}

fn cards(state: &State, phase: Phase<'_>) -> String {
    let history = &state.history;
    let mut cards = String::from("<div class='cards'>");
    let mut card = |value: String, label: &str| {
        let (value, label) = (escape(&value), escape(label));
        let _ = write!(cards, "<div class='card'><b>{value}</b><span>{label}</span></div>");
    };
    if let Some(loss) = history.recent_loss() {
        card(format!("{loss:.4}"), "loss, mean of 20 steps (nats per token)");
    }
    if let Some(bits) = history.validation_mean() {
        card(format!("{bits:.3}"), "validation bits per byte, mean of the sources");
    }
    for (name, curve) in &history.probes {
        let Some(percent) = curve.last() else { continue };
        let label = match history.probe_intervals.get(name) {
            Some((low, high)) => format!("{name} (95 %: {low:.1} to {high:.1})"),
            None => (*name).to_owned(),
        };
        card(format!("{percent:.1} %"), &label);
    }
    if let Some(nats) = history.divergence.last() {
        card(format!("{nats:.3}"), "KL from the base on general text (nats)");
    }
    if let Some(last) = &history.last {
        card(si(last.tokens as f64), "tokens trained on");
        card(si(last.tokens_per_second.round()), "tokens per second, last step");
        card(format!("{:.0} %", last.utilisation * 100.0), "MFU, last step");
    }
    if let (Phase::UnderWay(_), Some(left)) = (phase, state.seconds_left()) {
        card(duration(left), "left at this pace");
    }
    if let (Phase::UnderWay(_), Some(saved)) = (phase, &state.saved) {
        let age = duration(saved.age().as_secs_f64());
        card(age, &format!("age of the newest checkpoint (step {})", saved.step));
    }
    let counts = history.counts;
    if counts.skipped + counts.rollbacks + counts.restarts > 0 {
        let text = format!("{} · {} · {}", counts.skipped, counts.rollbacks, counts.restarts);
        card(text, "skipped steps · rolled back · restarts");
    }
    cards + "</div>"
}

/// What a measurement against the base holds beside forgetting and adaptation.
fn against_base(history: &History) -> String {
    let layers = |curves: &BTreeMap<String, Curve>| -> Vec<Layer> {
        let all = curves.iter().enumerate();
        all.map(|(at, (name, curve))| layer(name, curve, at)).collect()
    };
    let mut page =
        plot("Text held against the base", "bits per byte", layers(&history.domains), true);
    page += &plot("Accuracy", "share of the questions", layers(&history.accuracy), true);
    let divergence = vec![layer("", &history.divergence, 6)];
    page + &plot("KL from the base", "nats, on general text", divergence, true)
}

fn layer(name: &str, curve: &Curve, colour: usize) -> Layer {
    Layer { name: name.to_owned(), points: curve.points(), mark: Mark::Line, colour: Some(colour) }
}

/// A plot over the steps; nothing where there is nothing to draw. Few points are marked.
fn plot(title: &str, y_label: &str, layers: Vec<Layer>, with_dots: bool) -> String {
    if layers.iter().all(|layer| layer.points.is_empty()) {
        return String::new();
    }
    let mut all = layers;
    if with_dots && all.iter().map(|layer| layer.points.len()).sum::<usize>() < 200 {
        let dots: Vec<Layer> = all
            .iter()
            .map(|layer| Layer { name: String::new(), mark: Mark::Dots, ..layer.clone() })
            .collect();
        all.extend(dots);
    }
    let plot = ScatterPlot {
        title: title.to_owned(),
        x_label: "step".to_owned(),
        y_label: y_label.to_owned(),
        x_logarithmic: false,
        y_logarithmic: false,
        layers: all,
    };
    format!("<div>{}</div>", plot.to_svg())
}

/// What was read over the steps, by source.
fn mixture(state: &State) -> String {
    let mix = &state.history.mix;
    if mix.rows.is_empty() {
        return String::new();
    }
    let columns = mix
        .rows
        .chunks(mix.rows.len().div_ceil(MIX_COLUMNS))
        .map(|rows| {
            let sum = |part: usize| -> u64 {
                rows.iter().map(|(.., counts)| counts.get(part).copied().unwrap_or(0)).sum()
            };
            let amounts = (0..mix.sources.len()).map(|part| sum(part) as f64).collect();
            ((rows[0].0 - 1) as f64, rows[rows.len() - 1].1 as f64, amounts)
        })
        .collect();
    let plot = SharePlot {
        title: "Data by source".to_owned(),
        x_label: "step".to_owned(),
        names: mix.sources.clone(),
        columns,
    };
    format!("<div>{}</div>", plot.to_svg())
}

/// What happened, a row for each kind.
fn time_line(state: &State) -> String {
    let history = &state.history;
    let mut kinds = vec![CHECKPOINT, SKIPPED, ROLLED_BACK, RESTARTED];
    kinds.extend(
        history.events.keys().filter(|kind| !kinds.contains(kind)).copied().collect::<Vec<_>>(),
    );
    let mut rows: Vec<(String, Vec<(f64, String)>)> = kinds
        .into_iter()
        .filter_map(|kind| {
            let events = history.events.get(kind)?;
            // What happened at one step is one mark.
            let mut by_step: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
            for event in events {
                by_step.entry(event.step).or_default().push(&event.text);
            }
            let mark = |(step, texts): (u64, Vec<&str>)| {
                (step as f64, format!("step {step}: {}", texts.join("; ")))
            };
            let name = match history.counts.rollbacks {
                times if kind == ROLLED_BACK && times > 1 => format!("{kind} ({times})"),
                _ => kind.to_owned(),
            };
            Some((name, by_step.into_iter().map(mark).collect()))
        })
        .collect();
    if state.stages.len() > 1 {
        let mut begin = 0;
        let mut marks = Vec::new();
        for (name, end) in &state.stages {
            marks.push((begin as f64, format!("stage {name}: steps {} to {end}", begin + 1)));
            begin = *end;
        }
        rows.push(("stage begins".to_owned(), marks));
    }
    if rows.is_empty() {
        return String::new();
    }
    let plot = EventPlot {
        title: "What happened".to_owned(),
        x_label: "step".to_owned(),
        range: (0.0, state.steps as f64),
        rows,
    };
    format!("<div>{}</div>", plot.to_svg())
}

/// The last events but for checkpoints.
fn events(state: &State) -> String {
    let mut all: Vec<_> = state
        .history
        .events
        .iter()
        .filter(|(kind, _)| **kind != CHECKPOINT)
        .flat_map(|(kind, events)| events.iter().map(move |event| (event.step, *kind, &event.text)))
        .collect();
    if all.is_empty() {
        return String::new();
    }
    all.sort_by_key(|(step, ..)| std::cmp::Reverse(*step));
    let row = |(step, kind, text): &(u64, &str, &String)| {
        vec![step.to_string(), (*kind).to_owned(), (*text).clone()]
    };
    let rows: Vec<Vec<String>> = all.iter().take(MOST_EVENTS).map(row).collect();
    let mut text = "<h2>The last events</h2>".to_owned();
    page::table(&mut text, &["step", "what", "more"], &[0], &rows);
    text
}

/// Numbers with their sources, as `milpa explain` prints them.
pub fn table_of(section: &Section) -> String {
    let mut text = format!("<h2>{}</h2>", escape(&section.title));
    if !section.facts.is_empty() {
        let rows: Vec<Vec<String>> = section
            .facts
            .iter()
            .map(|fact| vec![fact.name.clone(), fact.unit.show(fact.value), fact.source.clone()])
            .collect();
        page::table(&mut text, &["", "value", "where it comes from"], &[1], &rows);
    }
    for table in &section.tables {
        let show = |cell: &Cell| match cell {
            Cell::Text(text) => text.clone(),
            Cell::Number(value, unit) => unit.show(*value),
        };
        let rows: Vec<Vec<String>> =
            table.rows.iter().map(|row| row.iter().map(show).collect()).collect();
        let head: Vec<&str> = table.columns.iter().map(String::as_str).collect();
        page::table(&mut text, &head, &[], &rows);
        let _ = write!(text, "<p class='sub'>{}</p>", escape(&table.source));
    }
    for note in &section.notes {
        let _ = write!(text, "<p>{}</p>", escape(note));
    }
    text
}

/// A time as date and hour in UTC (H. Hinnant, `civil_from_days`).
fn utc(unix_seconds: f64) -> String {
    let seconds = unix_seconds.max(0.0) as u64;
    let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", of_day / 3600, of_day % 3600 / 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{
        history::tests::{control, measured, run},
        state::tests::state,
    };

    #[test]
    fn a_page_reloads_until_the_run_ended() {
        let mut state = state(&run(330), 400);
        state.run = "<b>\"'&".to_owned();
        let under_way = render(&state, Phase::UnderWay(30), &[]);
        assert!(under_way.contains("<meta http-equiv='refresh' content='30'>"));
        let ended = render(&state, Phase::Ended("Complete"), &[]);
        assert!(!ended.contains("http-equiv") && ended.contains("Complete: step 330 of 400"));
        for page in [&under_way, &ended] {
            for part in ["<b>\"", "NaN", "href=", "src="] {
                assert!(!page.contains(part), "{part}");
            }
            for part in ["Loss", "Validation", "Data by source", "What happened", "stage begins"] {
                assert!(page.contains(part), "{part}");
            }
            assert!(page.len() < 400_000, "{}", page.len());
        }
        // Before anything happened there is a page as well.
        let none = render(&State::default(), Phase::UnderWay(0), &[]);
        assert!(none.contains("step 0 of 0") && !none.contains("<svg") && !none.contains("NaN"));
    }

    #[test]
    fn what_was_measured_against_the_base_and_taken_back_is_on_the_page() {
        let mut metrics = vec![control(1, "roll back"), control(1, "roll back")];
        metrics.extend(run(40));
        metrics.push(measured(40, 6.0));
        let page = render(&state(&metrics, 40), Phase::Ended("Complete"), &[]);
        for part in [
            "forgetting (95 %: 4.5 to 7.5)",
            "KL from the base on general text (nats)",
            "Text held against the base",
            "general/english",
            "Accuracy",
            "mul/in_context",
            "rolled back (2)",
            "step 1: roll back: forgetting is near its limit; roll back: forgetting is near its limit",
        ] {
            assert!(page.contains(part), "{part:?} is not in the page");
        }
        let none = render(&state(&run(40), 40), Phase::Ended("Complete"), &[]);
        assert!(!none.contains("against the base") && !none.contains("rolled back ("), "{none}");
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        let check = |seconds: f64, expect: &str| assert_eq!(utc(seconds), expect);
        check(0.0, "1970-01-01 00:00 UTC");
        check(951_782_400.0, "2000-02-29 00:00 UTC");
        check(1_795_305_599.0, "2026-11-21 23:59 UTC");
        check(1_735_689_600.0, "2025-01-01 00:00 UTC");
    }
}
