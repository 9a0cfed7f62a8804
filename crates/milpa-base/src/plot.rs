//! Plots as SVG text: lines, dots and lines on plain or logarithmic axes, bars, points with intervals,
//! shares and events over time.
//!
//! Enough for loss curves and result tables; it knows nothing of what is plotted. The output has
//! no script and no outside font, so it can stand in a self-contained page, and follows the
//! reader's light or dark preference through `currentColor`.

mod over_time;
mod points;

use std::fmt::Write;

pub use over_time::{EventPlot, SharePlot};
pub use points::{Dot, DotPlot, PlanePlot, PlanePoint};

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

/// How the points of a [`Layer`] are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A dot at each point.
    Dots,
    /// A line through them.
    Line,
    /// A broken line through them.
    Dashed,
}

/// Points of a [`ScatterPlot`] that are drawn alike.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Name in the legend; empty for none.
    pub name: String,
    /// Points (x, y); points that cannot be placed are left out.
    pub points: Vec<(f64, f64)>,
    /// How they are drawn.
    pub mark: Mark,
    /// Which of the colours; `None` for that of the text.
    pub colour: Option<usize>,
}

/// Dots and lines over two axes, each plain or logarithmic.
#[derive(Debug, Clone)]
pub struct ScatterPlot {
    /// Title above the plot.
    pub title: String,
    /// What x is, with its unit.
    pub x_label: String,
    /// What y is, with its unit.
    pub y_label: String,
    /// Whether x is drawn by its logarithm.
    pub x_logarithmic: bool,
    /// Whether y is drawn by its logarithm.
    pub y_logarithmic: bool,
    /// What is drawn, the first at the bottom.
    pub layers: Vec<Layer>,
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

impl ScatterPlot {
    /// Draws the plot.
    pub fn to_svg(&self) -> String {
        let named: Vec<&Layer> =
            self.layers.iter().filter(|layer| !layer.name.is_empty()).collect();
        let (rows, legend_height) = legend_of(named.iter().map(|layer| layer.name.as_str()));
        let height = 400.0 + legend_height;
        let placed = |value: f64, logarithmic: bool| {
            let value = if logarithmic { value.log10() } else { value };
            value.is_finite().then_some(value)
        };
        let place = |&(x, y): &(f64, f64)| {
            Some((placed(x, self.x_logarithmic)?, placed(y, self.y_logarithmic)?))
        };
        let points: Vec<Vec<(f64, f64)>> = self
            .layers
            .iter()
            .map(|layer| layer.points.iter().filter_map(place).collect())
            .collect();
        let all = || points.iter().flatten();
        let top = LEGEND + legend_height;
        let x_axis = Axis::scaled(all().map(|p| p.0), LEFT, WIDTH - RIGHT, self.x_logarithmic);
        let y_axis = Axis::scaled(all().map(|p| p.1), height - BOTTOM, top, self.y_logarithmic);
        let mut svg = open(height, &self.title);
        for (value, text) in y_axis.marks(self.y_logarithmic) {
            let y = y_axis.place(value);
            let _ = write!(
                svg,
                "<path class='g' d='M{LEFT} {y:.1}H{}'/><text x='{}' y='{:.1}' text-anchor='end'>{text}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0
            );
        }
        for (value, text) in x_axis.marks(self.x_logarithmic) {
            let x = x_axis.place(value);
            let _ = write!(
                svg,
                "<path class='g' d='M{x:.1} {top}V{}'/><text x='{x:.1}' y='{}' text-anchor='middle'>{text}</text>",
                height - BOTTOM,
                height - BOTTOM + 18.0
            );
        }
        axis_labels(&mut svg, height, &self.x_label, &self.y_label);
        for (layer, points) in self.layers.iter().zip(&points) {
            let at = |(x, y): &(f64, f64)| (x_axis.place(*x), y_axis.place(*y));
            draw_layer(&mut svg, layer, &points.iter().map(at).collect::<Vec<_>>());
        }
        for (layer, (row, x)) in named.into_iter().zip(rows) {
            let y = LEGEND - 4.0 + 18.0 * row as f64;
            let sample = [(x, y), (x + 7.0, y), (x + 14.0, y)];
            let sample = if layer.mark == Mark::Dots { &sample[1..2] } else { &sample[..] };
            draw_layer(&mut svg, layer, sample);
            let _ = write!(
                svg,
                "<text x='{:.0}' y='{:.0}'>{}</text>",
                x + 19.0,
                y + 4.0,
                escape(&layer.name)
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Row and left edge of each name in a legend that fills the width, and the height of its rows.
fn legend_of<'a>(names: impl Iterator<Item = &'a str>) -> (Vec<(usize, f64)>, f64) {
    let (mut row, mut x, mut height) = (0, LEFT, 0.0);
    let places = names
        .map(|name| {
            let width = 40.0 + 7.0 * name.chars().count() as f64;
            if x > LEFT && x + width > WIDTH - RIGHT {
                (row, x) = (row + 1, LEFT);
            }
            let place = (row, x);
            x += width;
            height = 18.0 * (row + 1) as f64;
            place
        })
        .collect();
    (places, height)
}

fn draw_layer(svg: &mut String, layer: &Layer, points: &[(f64, f64)]) {
    let colour = layer.colour.map_or("currentColor", |index| COLOURS[index % COLOURS.len()]);
    if points.is_empty() {
        return;
    }
    if layer.mark == Mark::Dots {
        for (x, y) in thin(points) {
            let _ = write!(
                svg,
                "<circle cx='{x:.1}' cy='{y:.1}' r='3' fill='{colour}' fill-opacity='.75'/>"
            );
        }
        return;
    }
    let dashes = if layer.mark == Mark::Dashed { " stroke-dasharray='5 4'" } else { "" };
    let path: Vec<String> = thin(points).iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    let _ = write!(
        svg,
        "<path d='M{}' fill='none' stroke='{colour}' stroke-width='1.6'{dashes}/>",
        path.join("L")
    );
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

    /// An axis whose values may be decimal logarithms; those keep their own ends.
    fn scaled(values: impl Iterator<Item = f64>, from: f64, to: f64, logarithmic: bool) -> Self {
        if !logarithmic {
            return Self::new(values, from, to);
        }
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let margin = (0.04 * (high - low)).max(0.02);
        Self { low: low - margin, high: high + margin, step: 1.0, from, to }
    }

    /// Places and texts of the ticks.
    fn marks(&self, logarithmic: bool) -> Vec<(f64, String)> {
        if !logarithmic {
            return self.ticks().map(|tick| (tick, label(tick))).collect();
        }
        let decades = self.high - self.low;
        let factors: &[f64] = match decades {
            d if d < 0.5 => &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0],
            d if d < 1.5 => &[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0],
            d if d < 4.0 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let stride = if decades > 9.0 { (decades / 6.0).ceil() as i32 } else { 1 };
        let (first, last) = (self.low.floor() as i32, self.high.ceil() as i32);
        (first..=last)
            .filter(|power| power.rem_euclid(stride) == 0)
            .flat_map(|power| factors.iter().map(move |factor| (power, *factor)))
            .map(|(power, factor)| (f64::from(power) + factor.log10(), power, factor))
            .filter(|(place, ..)| (self.low..=self.high).contains(place))
            .map(|(place, power, factor)| {
                let value = factor * 10f64.powi(power);
                // Beyond tera a prefix is guessed more than read.
                let text = if power >= 15 { format!("{factor}e{power}") } else { label(value) };
                (place, text)
            })
            .collect()
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
    fn logarithmic_axes_have_round_ticks_and_leave_out_what_has_no_logarithm() {
        let layer = |points: Vec<(f64, f64)>| Layer {
            name: "runs".into(),
            points,
            mark: Mark::Dots,
            colour: Some(0),
        };
        let plot = ScatterPlot {
            title: "t".into(),
            x_label: "FLOP".into(),
            y_label: "loss".into(),
            x_logarithmic: true,
            y_logarithmic: false,
            layers: vec![layer(vec![(1e18, 3.0), (2e21, 2.0), (0.0, 1.0), (-1.0, f64::NAN)])],
        };
        let svg = plot.to_svg();
        assert!(svg.contains(">1e19<") && svg.contains(">3e20<"), "{svg}");
        // Two points and one in the legend.
        assert_eq!(svg.matches("<circle").count(), 3);
        let empty = ScatterPlot { layers: vec![layer(Vec::new())], ..plot };
        assert!(!empty.to_svg().contains("NaN"));
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
