//! Points with intervals: a column of dots, and a plane.

use std::fmt::Write;

use super::{
    Axis, BOTTOM, COLOURS, LEFT, RIGHT, TOP, WIDTH, axis_labels, escape, label, legend_of, open,
};

/// Height of a [`PlanePlot`] without its legend.
const PLANE_HEIGHT: f64 = 460.0;
/// Width of a character of a label, about.
const CHARACTER: f64 = 6.6;
/// Where a label may stand beside its point, the best first: offsets, and which end is there.
const AROUND: [(f64, f64, &str); 8] = [
    (9.0, -6.0, "start"),
    (9.0, 4.0, "start"),
    (9.0, 15.0, "start"),
    (-9.0, -6.0, "end"),
    (-9.0, 4.0, "end"),
    (-9.0, 15.0, "end"),
    (0.0, -10.0, "middle"),
    (0.0, 19.0, "middle"),
];

/// One row of a [`DotPlot`].
#[derive(Debug, Clone)]
pub struct Dot {
    /// Name beside the dot.
    pub name: String,
    /// Where it is.
    pub value: f64,
    /// Interval drawn through it.
    pub interval: Option<(f64, f64)>,
}

/// Dots with intervals in rows, for values whose zero means nothing.
#[derive(Debug, Clone)]
pub struct DotPlot {
    /// Title above the plot.
    pub title: String,
    /// What the dots measure, with the unit.
    pub x_label: String,
    /// The rows from top to bottom.
    pub dots: Vec<Dot>,
}

/// One point of a [`PlanePlot`].
#[derive(Debug, Clone)]
pub struct PlanePoint {
    /// Name beside the point.
    pub name: String,
    /// Where it is.
    pub at: (f64, f64),
    /// Interval of x.
    pub x_interval: Option<(f64, f64)>,
    /// Interval of y.
    pub y_interval: Option<(f64, f64)>,
}

/// Named points on a plane, with intervals both ways and lines at zero. More of x is better, and less of
/// y: a stepped line joins the points that no other one surpasses in both.
#[derive(Debug, Clone, Default)]
pub struct PlanePlot {
    /// Title above the plot.
    pub title: String,
    /// What x is, with its unit.
    pub x_label: String,
    /// What y is, with its unit.
    pub y_label: String,
    /// The points.
    pub points: Vec<PlanePoint>,
    /// What y is to stay below, a dashed line, and its name.
    pub limit: Option<(f64, String)>,
    /// Name of the point that was chosen; it has a ring.
    pub chosen: Option<String>,
}

impl DotPlot {
    /// Draws the plot.
    pub fn to_svg(&self) -> String {
        let row = 22.0;
        let height = TOP + BOTTOM + row * self.dots.len().max(1) as f64;
        let longest = self.dots.iter().map(|dot| dot.name.chars().count()).max().unwrap_or(0);
        let left = (16.0 + 7.0 * longest as f64).clamp(80.0, 320.0);
        let ends = self.dots.iter().flat_map(|dot| {
            let (low, high) = dot.interval.unwrap_or((dot.value, dot.value));
            [low, dot.value, high]
        });
        let axis = Axis::new(ends, left, WIDTH - RIGHT);
        let mut svg = open(height, &self.title);
        x_ticks(&mut svg, &axis, height);
        for (index, dot) in self.dots.iter().enumerate().filter(|(_, dot)| dot.value.is_finite()) {
            let y = TOP + row * (index as f64 + 0.5);
            let _ = write!(
                svg,
                "<text x='{}' y='{:.1}' text-anchor='end'>{}</text>",
                left - 8.0,
                y + 4.0,
                escape(&dot.name)
            );
            if let Some((low, high)) = dot.interval {
                let (low, high) = (axis.place(low), axis.place(high));
                stroke(&mut svg, &format!("M{low:.1} {y:.1}H{high:.1}"));
            }
            circle(&mut svg, axis.place(dot.value), y, 0);
        }
        axis_labels(&mut svg, height, &self.x_label, "");
        svg.push_str("</svg>\n");
        svg
    }
}

impl PlanePlot {
    /// Draws the plot. A name for which there is no room beside its point stands in a legend, under the
    /// number that the point has instead.
    pub fn to_svg(&self) -> String {
        let finite = |point: &&PlanePoint| point.at.0.is_finite() && point.at.1.is_finite();
        let points: Vec<&PlanePoint> = self.points.iter().filter(finite).collect();
        let limit = self.limit.as_ref().filter(|(limit, _)| limit.is_finite());
        let span = |value: f64, interval: Option<(f64, f64)>| {
            let (low, high) = interval.unwrap_or((value, value));
            [low, value, high]
        };
        let xs = points.iter().flat_map(|point| span(point.at.0, point.x_interval));
        let ys = points.iter().flat_map(|point| span(point.at.1, point.y_interval));
        let ys = ys.chain(limit.map(|(limit, _)| *limit));
        let bottom = PLANE_HEIGHT - BOTTOM;
        let axes = Axes {
            x: Axis::new(xs.chain([0.0]), LEFT, WIDTH - RIGHT),
            y: Axis::new(ys.chain([0.0]), bottom, TOP),
        };
        let limit = limit.map(|(limit, name)| (axes.y.place(*limit), name));
        let front = front(&points, &axes);
        let mut lines: Vec<Rectangle> =
            front.windows(2).flat_map(|ends| step(ends[0], ends[1])).collect();
        if let Some((y, _)) = limit {
            lines.push(Rectangle { left: LEFT, top: y, right: WIDTH - RIGHT, bottom: y });
        }
        let labels = labels(&points, &axes, lines, limit.map(|(y, name)| limit_label(y, name).1));
        let numbered: Vec<String> =
            labels.iter().filter(|label| label.is_number).map(Label::in_legend).collect();
        let (rows, legend_height) = legend_of(numbered.iter().map(String::as_str));
        let mut svg = open(PLANE_HEIGHT + legend_height, &self.title);
        x_ticks(&mut svg, &axes.x, PLANE_HEIGHT);
        for tick in axes.y.ticks() {
            let y = axes.y.place(tick);
            let _ = write!(
                svg,
                "<path class='g' d='M{LEFT} {y:.1}H{}'/><text x='{}' y='{:.1}' text-anchor='end'>{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                label(tick)
            );
        }
        let (zero_x, zero_y) = axes.place((0.0, 0.0));
        let _ = write!(
            svg,
            "<path d='M{zero_x:.1} {TOP}V{bottom}M{LEFT} {zero_y:.1}H{}' stroke='currentColor' stroke-dasharray='2 3' opacity='.6'/>",
            WIDTH - RIGHT
        );
        if let Some((y, name)) = limit {
            let colour = COLOURS[1];
            let ((text_x, text_y), _) = limit_label(y, name);
            let _ = write!(
                svg,
                "<path d='M{LEFT} {y:.1}H{}' stroke='{colour}' stroke-width='1.4' stroke-dasharray='7 4'/>\
                 <text x='{text_x:.1}' y='{text_y:.1}'>{}</text>",
                WIDTH - RIGHT,
                escape(name)
            );
        }
        draw_front(&mut svg, &front);
        for (index, (point, label)) in points.iter().zip(&labels).enumerate() {
            for path in axes.whiskers(point) {
                let _ = write!(
                    svg,
                    "<path d='M{:.1} {:.1}L{:.1} {:.1}' stroke='currentColor' stroke-width='1' opacity='.55'/>",
                    path.left, path.top, path.right, path.bottom
                );
            }
            let (x, y) = axes.place(point.at);
            circle(&mut svg, x, y, index);
            if self.chosen.as_ref() == Some(&point.name) {
                let _ = write!(
                    svg,
                    "<circle cx='{x:.1}' cy='{y:.1}' r='8' fill='none' stroke='currentColor' stroke-width='1.6'>\
                     <title>chosen</title></circle>"
                );
            }
            let (text_x, text_y, anchor) = label.at;
            let _ = write!(
                svg,
                "<text x='{text_x:.1}' y='{text_y:.1}' text-anchor='{anchor}'>{}</text>",
                escape(&label.text())
            );
        }
        axis_labels(&mut svg, PLANE_HEIGHT, &self.x_label, &self.y_label);
        for (text, (row, x)) in numbered.iter().zip(rows) {
            let y = PLANE_HEIGHT + 10.0 + 18.0 * row as f64;
            let _ = write!(svg, "<text x='{x:.0}' y='{y:.0}'>{}</text>", escape(text));
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Both axes of a plane.
struct Axes {
    x: Axis,
    y: Axis,
}

impl Axes {
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.x.place(x), self.y.place(y))
    }

    /// The lines of a point's intervals.
    fn whiskers(&self, point: &PlanePoint) -> impl Iterator<Item = Rectangle> {
        let (x, y) = self.place(point.at);
        let across = point.x_interval.map(|(low, high)| Rectangle {
            left: self.x.place(low),
            top: y,
            right: self.x.place(high),
            bottom: y,
        });
        let down = point.y_interval.map(|(low, high)| Rectangle {
            left: x,
            top: self.y.place(high),
            right: x,
            bottom: self.y.place(low),
        });
        across.into_iter().chain(down)
    }
}

/// A part of the drawing.
#[derive(Debug, Clone, Copy)]
struct Rectangle {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Rectangle {
    /// What a text takes whose base line is at `y`.
    fn of_text(text: &str, (x, y, anchor): (f64, f64, &str)) -> Self {
        let width = CHARACTER * text.chars().count() as f64;
        let left = match anchor {
            "end" => x - width,
            "middle" => x - width / 2.0,
            _ => x,
        };
        Self { left, top: y - 10.0, right: left + width, bottom: y + 3.0 }
    }

    fn meets(&self, other: &Self) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    /// Whether it lies within the frame of the plane.
    fn is_inside(&self) -> bool {
        self.left >= LEFT
            && self.right <= WIDTH - RIGHT
            && self.top >= TOP
            && self.bottom <= PLANE_HEIGHT - BOTTOM
    }
}

/// The label of a point.
struct Label {
    name: String,
    /// Its place among the points, from 1.
    number: usize,
    is_number: bool,
    at: (f64, f64, &'static str),
}

impl Label {
    fn text(&self) -> String {
        if self.is_number { self.number.to_string() } else { self.name.clone() }
    }

    fn in_legend(&self) -> String {
        format!("{} {}", self.number, self.name)
    }
}

/// Where the name of a limit at `y` stands, and what it takes.
fn limit_label(y: f64, name: &str) -> ((f64, f64), Rectangle) {
    let x = LEFT + 6.0;
    // Above its line, or below where that is the upper end.
    let y = if y - 16.0 < TOP { y + 14.0 } else { y - 5.0 };
    ((x, y), Rectangle::of_text(name, (x, y, "start")))
}

/// Finds a place for each name on which nothing else lies, lines at the most, or else for its number.
fn labels(
    points: &[&PlanePoint],
    axes: &Axes,
    mut lines: Vec<Rectangle>,
    limit: Option<Rectangle>,
) -> Vec<Label> {
    let mut taken: Vec<Rectangle> = limit.into_iter().collect();
    for point in points {
        let (x, y) = axes.place(point.at);
        taken.push(Rectangle { left: x - 6.0, top: y - 6.0, right: x + 6.0, bottom: y + 6.0 });
    }
    lines.extend(points.iter().flat_map(|point| axes.whiskers(point)));
    let mut labels = Vec::with_capacity(points.len());
    for (index, point) in points.iter().enumerate() {
        let (x, y) = axes.place(point.at);
        let place = |text: &str, taken: &[Rectangle], lines: &[Rectangle]| {
            AROUND.iter().map(|(right, down, anchor)| (x + right, y + down, *anchor)).find(|at| {
                let place = Rectangle::of_text(text, *at);
                place.is_inside() && !taken.iter().chain(lines).any(|other| place.meets(other))
            })
        };
        let number = (index + 1).to_string();
        let name = place(&point.name, &taken, &lines).or_else(|| place(&point.name, &taken, &[]));
        let is_number = name.is_none();
        let at = name
            .or_else(|| place(&number, &taken, &lines))
            .or_else(|| place(&number, &taken, &[]))
            .unwrap_or((x + 7.0, y - 6.0, "start"));
        let label = Label { name: point.name.clone(), number: index + 1, is_number, at };
        taken.push(Rectangle::of_text(&label.text(), at));
        labels.push(label);
    }
    labels
}

/// Places of the points that none surpasses in both directions, from the left.
fn front(points: &[&PlanePoint], axes: &Axes) -> Vec<(f64, f64)> {
    let mut sorted: Vec<(f64, f64)> = points.iter().map(|point| point.at).collect();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.total_cmp(&b.1)));
    let mut front: Vec<(f64, f64)> = Vec::new();
    for at in sorted {
        if front.last().is_none_or(|last| at.1 < last.1) {
            front.push(at);
        }
    }
    front.iter().rev().map(|at| axes.place(*at)).collect()
}

/// The two lines of a step from one place of the front to the next: up, and to the right.
fn step(from: (f64, f64), to: (f64, f64)) -> [Rectangle; 2] {
    let (top, bottom) = (to.1, from.1);
    [
        Rectangle { left: from.0, top, right: from.0, bottom },
        Rectangle { left: from.0, top, right: to.0, bottom: top },
    ]
}

/// Draws the stepped line through the front.
fn draw_front(svg: &mut String, front: &[(f64, f64)]) {
    let [(x, y), rest @ ..] = front else { return };
    let mut path = format!("M{x:.1} {y:.1}");
    for (x, y) in rest {
        let _ = write!(path, "V{y:.1}H{x:.1}");
    }
    let _ = write!(
        svg,
        "<path class='front' d='{path}' fill='none' stroke='currentColor' stroke-width='1' opacity='.7'/>"
    );
}

fn x_ticks(svg: &mut String, axis: &Axis, height: f64) {
    for tick in axis.ticks() {
        let x = axis.place(tick);
        let _ = write!(
            svg,
            "<path class='g' d='M{x:.1} {TOP}V{}'/><text x='{x:.1}' y='{}' text-anchor='middle'>{}</text>",
            height - BOTTOM,
            height - BOTTOM + 18.0,
            label(tick)
        );
    }
}

fn stroke(svg: &mut String, path: &str) {
    let _ = write!(svg, "<path d='{path}' stroke='currentColor' stroke-width='1.4'/>");
}

fn circle(svg: &mut String, x: f64, y: f64, colour: usize) {
    let colour = COLOURS[colour % COLOURS.len()];
    let _ = write!(svg, "<circle cx='{x:.1}' cy='{y:.1}' r='4.5' fill='{colour}'/>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_and_points_are_drawn_where_they_are_finite() {
        let dot = |name: &str, value| Dot {
            name: name.to_owned(),
            value,
            interval: Some((value - 20.0, value + 20.0)),
        };
        let plot = DotPlot {
            title: "t".to_owned(),
            x_label: "rating".to_owned(),
            dots: vec![dot("a<b", 1000.0), dot("none", f64::NAN)],
        };
        let svg = plot.to_svg();
        assert!(svg.contains("a&lt;b") && !svg.contains("none") && !svg.contains("NaN"), "{svg}");
        let point = |name: &str, at| PlanePoint {
            name: name.to_owned(),
            at,
            x_interval: Some((-1.0, 3.0)),
            y_interval: None,
        };
        let plot = PlanePlot {
            title: "t".to_owned(),
            points: vec![point("p", (2.0, -3.0)), point("q", (f64::INFINITY, 0.0))],
            limit: Some((f64::NAN, "none".to_owned())),
            ..PlanePlot::default()
        };
        let svg = plot.to_svg();
        assert_eq!(svg.matches("<circle").count(), 1, "{svg}");
        assert!(!svg.contains("none</text>") && !svg.contains("NaN"), "{svg}");
    }

    fn plane(points: &[(&str, f64, f64)]) -> PlanePlot {
        let point = |&(name, x, y): &(&str, f64, f64)| PlanePoint {
            name: name.to_owned(),
            at: (x, y),
            x_interval: Some((x - 1.0, x + 1.0)),
            y_interval: Some((y - 1.0, y + 1.0)),
        };
        PlanePlot {
            title: "Adaptation against forgetting".to_owned(),
            x_label: "adaptation, %".to_owned(),
            y_label: "forgetting, %".to_owned(),
            points: points.iter().map(point).collect(),
            limit: Some((10.0, "limit 10 %".to_owned())),
            chosen: Some("final".to_owned()),
        }
    }

    #[test]
    fn a_plane_has_its_front_its_limit_and_its_choice() {
        let svg = plane(&[
            ("base", 0.0, 0.0),
            ("worse", 20.0, 30.0),
            ("half", 30.0, 4.0),
            ("final", 60.0, 9.0),
        ])
        .to_svg();
        // Three points are on the front, which rises and then goes right twice.
        let front = svg.split("class='front' d='").nth(1).and_then(|rest| rest.split('\'').next());
        let front = front.unwrap();
        assert_eq!((front.matches('V').count(), front.matches('H').count()), (2, 2), "{front}");
        assert!(svg.contains(">limit 10 %</text>") && svg.contains("stroke-dasharray='7 4'"));
        assert_eq!(svg.matches("<title>chosen</title>").count(), 1);
        // There is room for every name.
        assert!(
            ["base", "worse", "half", "final"]
                .iter()
                .all(|n| svg.contains(&format!(">{n}</text>")))
        );
    }

    #[test]
    fn no_label_lies_on_another() {
        let names: Vec<String> = (0..24).map(|step| format!("step {}", step * 10)).collect();
        let crowd: Vec<(&str, f64, f64)> = names
            .iter()
            .enumerate()
            .map(|(n, name)| (name.as_str(), 60.0 + 0.4 * n as f64, 8.0 + 0.1 * n as f64))
            .chain([("base", 0.0, 0.0)])
            .collect();
        let plot = plane(&crowd);
        let points: Vec<&PlanePoint> = plot.points.iter().collect();
        let axes = Axes {
            x: Axis::new([0.0, 70.0].into_iter(), LEFT, WIDTH - RIGHT),
            y: Axis::new([0.0, 12.0].into_iter(), PLANE_HEIGHT - BOTTOM, TOP),
        };
        let placed = labels(&points, &axes, Vec::new(), None);
        let names: Vec<&Label> = placed.iter().filter(|label| !label.is_number).collect();
        assert!(names.len() < placed.len() && names.iter().any(|label| label.name == "base"));
        for (index, one) in names.iter().enumerate() {
            let place = Rectangle::of_text(&one.text(), one.at);
            assert!(place.is_inside());
            for other in &names[..index] {
                assert!(!place.meets(&Rectangle::of_text(&other.text(), other.at)));
            }
        }
        // What has only a number is in the legend.
        let svg = plot.to_svg();
        assert!(svg.contains("step 70</text>"), "{svg}");
    }
}
