//! Plots of what goes on over a common axis beside curves: shares that add up to one, and events.

use std::fmt::Write;

use super::{
    Axis, COLOURS, LEFT, LEGEND, RIGHT, WIDTH, axis_labels, escape, label, legend_of, open,
};

/// Shares of a whole over x, one above the other.
#[derive(Debug, Clone)]
pub struct SharePlot {
    /// Title above the plot.
    pub title: String,
    /// What x is, with its unit.
    pub x_label: String,
    /// The parts from bottom to top.
    pub names: Vec<String>,
    /// Begin and end in x, and the amount of each part; missing ones are 0.
    pub columns: Vec<(f64, f64, Vec<f64>)>,
}

/// Events over x, a row for each kind.
#[derive(Debug, Clone)]
pub struct EventPlot {
    /// Title above the plot.
    pub title: String,
    /// What x is, with its unit.
    pub x_label: String,
    /// First and last x of the axis.
    pub range: (f64, f64),
    /// Name of a kind, and its events: x and what to say of it.
    pub rows: Vec<(String, Vec<(f64, String)>)>,
}

impl SharePlot {
    /// Draws the plot.
    pub fn to_svg(&self) -> String {
        let (rows, legend_height) = legend_of(self.names.iter().map(String::as_str));
        let height = 280.0 + legend_height;
        let (top, bottom) = (LEGEND + legend_height, height - 48.0);
        let finite = |column: &&(f64, f64, Vec<f64>)| column.0.is_finite() && column.1.is_finite();
        let columns: Vec<_> = self.columns.iter().filter(finite).collect();
        let ends = columns.iter().flat_map(|column| [column.0, column.1]);
        let x_axis = Axis::new(ends, LEFT, WIDTH - RIGHT);
        let place = |share: f64| bottom + share * (top - bottom);
        let mut svg = open(height, &self.title);
        let amount = |column: &(f64, f64, Vec<f64>), part: usize| {
            column.2.get(part).copied().filter(|value| *value > 0.0).unwrap_or(0.0)
        };
        for part in 0..self.names.len() {
            let (mut lower, mut upper) = (Vec::new(), Vec::new());
            for column in &columns {
                let total: f64 = (0..self.names.len()).map(|part| amount(column, part)).sum();
                let below: f64 = (0..part).map(|part| amount(column, part)).sum();
                let share = |value: f64| if total > 0.0 { value / total } else { 0.0 };
                let (low, high) = (share(below), share(below + amount(column, part)));
                let (begin, end) = (x_axis.place(column.0), x_axis.place(column.1));
                upper.extend([(begin, place(high)), (end, place(high))]);
                lower.extend([(begin, place(low)), (end, place(low))]);
            }
            let around = upper.iter().chain(lower.iter().rev());
            let path: Vec<String> = around.map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            if !path.is_empty() {
                let colour = COLOURS[part % COLOURS.len()];
                let name = escape(&self.names[part]);
                let _ = write!(
                    svg,
                    "<path d='M{}Z' fill='{colour}' fill-opacity='.8'><title>{name}</title></path>",
                    path.join("L")
                );
            }
        }
        for tick in 0..=4 {
            let (share, y) = (tick as f64 / 4.0, place(tick as f64 / 4.0));
            let _ = write!(
                svg,
                "<path class='g' d='M{LEFT} {y:.1}H{}'/><text x='{}' y='{:.1}' text-anchor='end'>{:.0} %</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                share * 100.0
            );
        }
        x_ticks(&mut svg, &x_axis, bottom);
        axis_labels(&mut svg, height, &self.x_label, "");
        for (part, (row, x)) in rows.into_iter().enumerate() {
            let y = LEGEND - 4.0 + 18.0 * row as f64;
            let _ = write!(
                svg,
                "<rect x='{x:.0}' y='{:.0}' width='14' height='10' rx='2' fill='{}' fill-opacity='.8'/>\
                 <text x='{:.0}' y='{:.0}'>{}</text>",
                y - 5.0,
                COLOURS[part % COLOURS.len()],
                x + 19.0,
                y + 4.0,
                escape(&self.names[part])
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl EventPlot {
    /// Draws the plot; of events that would lie on one another one is drawn.
    pub fn to_svg(&self) -> String {
        const ROW: f64 = 26.0;
        let longest = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let left = (16.0 + 7.0 * longest as f64).clamp(80.0, 320.0);
        let (top, bottom) = (40.0, 40.0 + ROW * self.rows.len().max(1) as f64);
        let height = bottom + 48.0;
        let axis = Axis::new([self.range.0, self.range.1].into_iter(), left, WIDTH - RIGHT);
        let mut svg = open(height, &self.title);
        for tick in axis.ticks() {
            let _ = write!(svg, "<path class='g' d='M{:.1} {top}V{bottom}'/>", axis.place(tick));
        }
        for (index, (name, events)) in self.rows.iter().enumerate() {
            let y = top + ROW * (index as f64 + 0.5);
            let _ = write!(
                svg,
                "<path class='g' d='M{left} {y:.1}H{}'/><text x='{}' y='{:.1}' text-anchor='end'>{}</text>",
                WIDTH - RIGHT,
                left - 8.0,
                y + 4.0,
                escape(name)
            );
            let colour = COLOURS[index % COLOURS.len()];
            let mut before = f64::NEG_INFINITY;
            for (x, text) in events {
                let at = axis.place(*x);
                if !at.is_finite() || (at - before).abs() < 2.0 {
                    continue;
                }
                before = at;
                let _ = write!(
                    svg,
                    "<circle cx='{at:.1}' cy='{y:.1}' r='5' fill='{colour}' fill-opacity='.85'>\
                     <title>{}</title></circle>",
                    escape(text)
                );
            }
        }
        x_ticks(&mut svg, &axis, bottom);
        axis_labels(&mut svg, height, &self.x_label, "");
        svg.push_str("</svg>\n");
        svg
    }
}

fn x_ticks(svg: &mut String, axis: &Axis, bottom: f64) {
    for tick in axis.ticks() {
        let _ = write!(
            svg,
            "<text x='{:.1}' y='{}' text-anchor='middle'>{}</text>",
            axis.place(tick),
            bottom + 18.0,
            label(tick)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_fill_the_height_whatever_their_sum() {
        let plot = SharePlot {
            title: "mix".into(),
            x_label: "step".into(),
            names: vec!["a<b".into(), "b".into()],
            columns: vec![
                (0.0, 1.0, vec![3.0, 1.0]),
                (1.0, 2.0, vec![30.0]),
                (f64::NAN, 3.0, vec![1.0]),
            ],
        };
        let svg = plot.to_svg();
        assert!(!svg.contains("NaN") && svg.contains("a&lt;b"), "{svg}");
        // The first part reaches three quarters of the way from 250 (bottom) to 64 (top), then all of it.
        assert!(svg.contains("110.5L384.0 110.5L384.0 64.0L704.0 64.0L"), "{svg}");
        let none = SharePlot { names: Vec::new(), columns: Vec::new(), ..plot };
        assert!(!none.to_svg().contains("NaN"));
    }

    #[test]
    fn of_events_on_one_another_one_is_drawn() {
        let event = |x: f64| (x, format!("<{x}>"));
        let plot = EventPlot {
            title: "events".into(),
            x_label: "step".into(),
            range: (0.0, 1000.0),
            rows: vec![(
                "checkpoint".into(),
                vec![event(0.0), event(1.0), event(500.0), event(f64::NAN)],
            )],
        };
        let svg = plot.to_svg();
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("&lt;500&gt;") && !svg.contains("NaN"), "{svg}");
    }
}
