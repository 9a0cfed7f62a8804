//! Plots as SVG text: lines, and bars with intervals.
//!
//! Enough for loss curves and result tables; it knows nothing of what is plotted. The output has
//! no script and no outside font, so it can stand in a self-contained page, and follows the
//! reader's light or dark preference through `currentColor`.

use std::fmt::Write;

/// One line of a [`LinePlot`].
#[derive(Debug, Clone)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points (x, y); points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// Curves over a common x axis.
#[derive(Debug, Clone)]
pub struct LinePlot {
    /// Title above the plot.
    pub title: String,
    /// What x is, with its unit.
    pub x_label: String,
    /// What y is, with its unit.
    pub y_label: String,
    /// The curves.
    pub series: Vec<Series>,
}

/// One bar of a [`BarPlot`].
#[derive(Debug, Clone)]
pub struct Bar {
    /// Name beside the bar.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// Interval drawn over its end.
    pub interval: Option<(f64, f64)>,
    /// Whether it is drawn in the accent colour.
    pub accent: bool,
}

/// Horizontal bars.
#[derive(Debug, Clone)]
pub struct BarPlot {
    /// Title above the plot.
    pub title: String,
    /// What the bars measure, with the unit.
    pub x_label: String,
    /// The bars from top to bottom.
    pub bars: Vec<Bar>,
    /// A vertical line with its label, such as the level of guessing.
    pub reference: Option<(f64, String)>,
}

/// Colours that keep apart for colour-blind readers (Okabe–Ito order, darkened for white paper).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9"];
const WIDTH: f64 = 720.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 48.0;
/// Baseline of a line plot's legend, between title and curves.
const LEGEND: f64 = 46.0;

impl LinePlot {
    /// Draws the plot.
    pub fn to_svg(&self) -> String {
        let height = 380.0;
        let finite: Vec<Vec<(f64, f64)>> = self
            .series
            .iter()
            .map(|s| {
                s.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
            })
            .collect();
        let all = || finite.iter().flatten();
        let x_axis = Axis::new(all().map(|p| p.0), LEFT, WIDTH - RIGHT);
        let y_axis = Axis::new(all().map(|p| p.1), height - BOTTOM, LEGEND + 16.0);
        let mut svg = open(height, &self.title);
        for tick in y_axis.ticks() {
            let y = y_axis.place(tick);
            let _ = write!(svg, "<path class='g' d='M{LEFT} {y:.1}H{}'/>", WIDTH - RIGHT);
            let _ = write!(
                svg,
                "<text x='{}' y='{:.1}' text-anchor='end'>{}</text>",
                LEFT - 6.0,
                y + 4.0,
                label(tick)
            );
        }
        for tick in x_axis.ticks() {
            let x = x_axis.place(tick);
            let _ = write!(
                svg,
                "<text x='{x:.1}' y='{}' text-anchor='middle'>{}</text>",
                height - BOTTOM + 18.0,
                label(tick)
            );
        }
        axis_labels(&mut svg, height, &self.x_label, &self.y_label);
        let mut legend_at = LEFT;
        for (index, points) in finite.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let path: Vec<String> = thin(points)
                .iter()
                .map(|(x, y)| format!("{:.1} {:.1}", x_axis.place(*x), y_axis.place(*y)))
                .collect();
            if !path.is_empty() {
                let _ = write!(
                    svg,
                    "<path d='M{}' fill='none' stroke='{colour}' stroke-width='1.8' stroke-linejoin='round' stroke-linecap='round'/>",
                    path.join("L")
                );
            }
            let name = &self.series[index].name;
            let _ = write!(
                svg,
                "<path d='M{legend_at:.0} {0}h14' stroke='{colour}' stroke-width='3'/><text x='{1:.0}' y='{LEGEND}'>{2}</text>",
                LEGEND - 4.0,
                legend_at + 19.0,
                escape(name)
            );
            legend_at += 40.0 + 7.0 * name.chars().count() as f64;
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl BarPlot {
    /// Draws the plot.
    pub fn to_svg(&self) -> String {
        let row = 26.0;
        let height = TOP + BOTTOM + row * self.bars.len().max(1) as f64;
        let longest = self.bars.iter().map(|bar| bar.name.chars().count()).max().unwrap_or(0);
        let left = (16.0 + 7.0 * longest as f64).clamp(80.0, 320.0);
        let ends = self.bars.iter().flat_map(|bar| [bar.value, bar.interval.map_or(0.0, |i| i.1)]);
        let reference = self.reference.iter().map(|(value, _)| *value);
        let axis = Axis::new(ends.chain(reference).chain([0.0]), left, WIDTH - RIGHT - 48.0);
        let mut svg = open(height, &self.title);
        for tick in axis.ticks() {
            let x = axis.place(tick);
            let _ = write!(svg, "<path class='g' d='M{x:.1} {TOP}V{}'/>", height - BOTTOM);
            let _ = write!(
                svg,
                "<text x='{x:.1}' y='{}' text-anchor='middle'>{}</text>",
                height - BOTTOM + 18.0,
                label(tick)
            );
        }
        for (index, bar) in self.bars.iter().enumerate() {
            let y = TOP + row * index as f64;
            let end = axis.place(bar.value);
            let start = axis.place(0.0);
            let colour = if bar.accent { COLOURS[1] } else { COLOURS[0] };
            let _ = write!(
                svg,
                "<text x='{}' y='{:.1}' text-anchor='end'>{}</text>",
                left - 8.0,
                y + 17.0,
                escape(&bar.name)
            );
            let _ = write!(
                svg,
                "<rect x='{start:.1}' y='{:.1}' width='{:.1}' height='{}' rx='2' fill='{colour}'/>",
                y + 4.0,
                (end - start).max(0.0),
                row - 8.0
            );
            let mut text_at = end;
            if let Some((low, high)) = bar.interval {
                let (low, high) = (axis.place(low), axis.place(high));
                text_at = high.max(end);
                let _ = write!(
                    svg,
                    "<path d='M{low:.1} {0:.1}H{high:.1}M{low:.1} {1:.1}V{2:.1}M{high:.1} {1:.1}V{2:.1}' stroke='currentColor' stroke-width='1.4'/>",
                    y + row / 2.0,
                    y + 8.0,
                    y + row - 8.0
                );
            }
            let _ = write!(
                svg,
                "<text x='{:.1}' y='{:.1}'>{}</text>",
                text_at + 6.0,
                y + 17.0,
                value_label(bar.value)
            );
        }
        if let Some((value, name)) = &self.reference {
            let x = axis.place(*value);
            let _ = write!(
                svg,
                "<path d='M{x:.1} {TOP}V{}' stroke='currentColor' stroke-dasharray='4 3'/>",
                height - BOTTOM
            );
            let _ = write!(
                svg,
                "<text x='{x:.1}' y='{}' text-anchor='middle' font-size='11'>{}</text>",
                TOP - 4.0,
                escape(name)
            );
        }
        axis_labels(&mut svg, height, &self.x_label, "");
        svg.push_str("</svg>\n");
        svg
    }
}

/// Escapes text for XML and HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img' \
         font-family='system-ui,sans-serif' font-size='12' color='#222'>\
         <style>text{{fill:currentColor}}.g{{stroke:currentColor;opacity:.15}}\
         @media(prefers-color-scheme:dark){{svg{{color:#ddd}}}}</style>\
         <title>{0}</title><text x='{1}' y='22' font-size='15' font-weight='600' text-anchor='middle'>{0}</text>",
        escape(title),
        WIDTH / 2.0
    )
}

fn axis_labels(svg: &mut String, height: f64, x_label: &str, y_label: &str) {
    let middle = f64::midpoint(TOP, height - BOTTOM);
    let _ = write!(
        svg,
        "<text x='{}' y='{}' text-anchor='middle'>{}</text>",
        WIDTH / 2.0,
        height - 8.0,
        escape(x_label)
    );
    let _ = write!(
        svg,
        "<text x='14' y='{middle}' text-anchor='middle' transform='rotate(-90 14 {middle})'>{}</text>",
        escape(y_label)
    );
}

/// Keeps at most some 1,500 points; the last one stays.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let stride = points.len().div_ceil(1500).max(1);
    let last = points.len().saturating_sub(1);
    points
        .iter()
        .enumerate()
        .filter(|(i, _)| i % stride == 0 || *i == last)
        .map(|(_, p)| *p)
        .collect()
}

fn label(value: f64) -> String {
    if value.abs() >= 1e4 {
        return crate::units::si(value).replace(".00", "").replace(".0", "");
    }
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text.is_empty() || text == "-0" { "0".to_owned() } else { text.to_owned() }
}

fn value_label(value: f64) -> String {
    if value.abs() >= 100.0 { crate::units::si(value.round()) } else { format!("{value:.3}") }
}

struct Axis {
    low: f64,
    high: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut low, mut high) = values
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if high - low < f64::EPSILON * high.abs().max(1.0) * 4.0 {
            (low, high) = (low - 0.5, high + 0.5);
        }
        // A step of 1, 2 or 5 times a power of ten that gives four to eight ticks.
        let rough = (high - low) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step =
            power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= rough).unwrap_or(10.0);
        Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, step, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + use<> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        let (low, step) = (self.low, self.step);
        (0..=count.min(20)).map(move |i| low + step * i as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_and_numbers_do_no_harm() {
        let plot = LinePlot {
            title: "<script>".into(),
            x_label: String::new(),
            y_label: String::new(),
            series: vec![
                Series {
                    name: "a&b".into(),
                    points: vec![(0.0, f64::NAN), (1.0, 2.0), (2.0, f64::INFINITY)],
                },
                Series { name: "empty".into(), points: vec![] },
            ],
        };
        let svg = plot.to_svg();
        assert!(!svg.contains("<script>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(svg.contains("a&amp;b"));
    }

    #[test]
    fn bars_show_their_values() {
        let bar = Bar { name: "xz".into(), value: 2.24, interval: Some((2.1, 2.4)), accent: false };
        let plot = BarPlot {
            title: "t".into(),
            x_label: "bits".into(),
            bars: vec![bar],
            reference: Some((0.25, "chance".into())),
        };
        let svg = plot.to_svg();
        assert!(svg.contains("2.240") && svg.contains("chance"));
    }
}
