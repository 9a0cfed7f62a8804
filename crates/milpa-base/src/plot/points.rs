//! Points with intervals: a column of dots, and a plane.

use std::fmt::Write;

use super::{Axis, BOTTOM, COLOURS, LEFT, RIGHT, TOP, WIDTH, axis_labels, escape, label, open};

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

/// Named points on a plane, with intervals both ways and lines at zero.
#[derive(Debug, Clone)]
pub struct PlanePlot {
    /// Title above the plot.
    pub title: String,
    /// What x is, with its unit.
    pub x_label: String,
    /// What y is, with its unit.
    pub y_label: String,
    /// The points.
    pub points: Vec<PlanePoint>,
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
    /// Draws the plot.
    pub fn to_svg(&self) -> String {
        let height = 460.0;
        let finite = |point: &&PlanePoint| point.at.0.is_finite() && point.at.1.is_finite();
        let points: Vec<&PlanePoint> = self.points.iter().filter(finite).collect();
        let span = |value: f64, interval: Option<(f64, f64)>| {
            let (low, high) = interval.unwrap_or((value, value));
            [low, value, high]
        };
        let xs = points.iter().flat_map(|point| span(point.at.0, point.x_interval));
        let ys = points.iter().flat_map(|point| span(point.at.1, point.y_interval));
        let x_axis = Axis::new(xs.chain([0.0]), LEFT, WIDTH - RIGHT);
        let y_axis = Axis::new(ys.chain([0.0]), height - BOTTOM, TOP);
        let mut svg = open(height, &self.title);
        x_ticks(&mut svg, &x_axis, height);
        for tick in y_axis.ticks() {
            let y = y_axis.place(tick);
            let _ = write!(
                svg,
                "<path class='g' d='M{LEFT} {y:.1}H{}'/><text x='{}' y='{:.1}' text-anchor='end'>{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                label(tick)
            );
        }
        let (zero_x, zero_y) = (x_axis.place(0.0), y_axis.place(0.0));
        let _ = write!(
            svg,
            "<path d='M{zero_x:.1} {TOP}V{}M{LEFT} {zero_y:.1}H{}' stroke='currentColor' stroke-dasharray='4 3'/>",
            height - BOTTOM,
            WIDTH - RIGHT
        );
        for (index, point) in points.iter().enumerate() {
            let (x, y) = (x_axis.place(point.at.0), y_axis.place(point.at.1));
            if let Some((low, high)) = point.x_interval {
                let (low, high) = (x_axis.place(low), x_axis.place(high));
                stroke(&mut svg, &format!("M{low:.1} {y:.1}H{high:.1}"));
            }
            if let Some((low, high)) = point.y_interval {
                let (low, high) = (y_axis.place(low), y_axis.place(high));
                stroke(&mut svg, &format!("M{x:.1} {low:.1}V{high:.1}"));
            }
            circle(&mut svg, x, y, index);
            // Names at the right end are written to the left of their point.
            let (at, anchor) = if x > WIDTH * 0.75 { (x - 8.0, "end") } else { (x + 8.0, "start") };
            let _ = write!(
                svg,
                "<text x='{at:.1}' y='{:.1}' text-anchor='{anchor}'>{}</text>",
                y - 7.0,
                escape(&point.name)
            );
        }
        axis_labels(&mut svg, height, &self.x_label, &self.y_label);
        svg.push_str("</svg>\n");
        svg
    }
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
            x_label: "x".to_owned(),
            y_label: "y".to_owned(),
            points: vec![point("p", (2.0, -3.0)), point("q", (f64::INFINITY, 0.0))],
        };
        let svg = plot.to_svg();
        assert_eq!(svg.matches("<circle").count(), 1, "{svg}");
    }
}
