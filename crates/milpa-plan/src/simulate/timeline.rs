//! A simulated step as a picture: one row for each pipeline stage, a box for each pass.

use std::fmt::Write;

use milpa_base::plot::escape;

use crate::simulate::{Pass, SimulatedStep};

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 74.0;
const TOP: f64 = 64.0;
const ROW: f64 = 22.0;
const GAP: f64 = 4.0;

/// Colours that keep apart for colour-blind readers; later layer chunks are paler.
const FORWARD: &str = "#0072b2";
const BACKWARD: &str = "#d55e00";
const WEIGHTS: &str = "#009e73";
const DATA: &str = "#cc79a7";
const OPTIMIZER: &str = "#b8860b";

/// Draws the time line; the output has no script and no outside font.
pub fn timeline_svg(step: &SimulatedStep, title: &str) -> String {
    let rows = step.ends.len();
    let height = TOP + rows as f64 * (ROW + GAP) + 44.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"currentColor\">\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"15\" font-weight=\"600\">{}</text>\n",
        escape(title)
    );
    legend(&mut svg, step);
    let scale = (WIDTH - LEFT - 16.0) / step.seconds;
    let chunks = step.spans.iter().map(|span| span.task.chunk).max().unwrap_or(0) + 1;
    let x = |seconds: f64| LEFT + seconds * scale;
    for stage in 0..rows {
        let y = TOP + stage as f64 * (ROW + GAP);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">stage {stage}</text>\
             <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.2}\" height=\"{ROW}\" fill=\"currentColor\" \
             fill-opacity=\"0.07\"/>",
            LEFT - 8.0,
            y + 15.0,
            step.seconds * scale
        );
    }
    let mut draw = |stage: usize, start: f64, end: f64, colour: &str, opacity: f64, label: &str| {
        let width = (end - start) * scale;
        // What no one can see only makes the file large.
        if width < 0.05 {
            return;
        }
        let y = TOP + stage as f64 * (ROW + GAP);
        let _ = write!(
            svg,
            "<rect x=\"{:.2}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{ROW}\" fill=\"{colour}\" \
             fill-opacity=\"{opacity:.2}\" stroke=\"#fff\" stroke-width=\"{:.2}\"/>",
            x(start),
            (width / 10.0).min(0.8)
        );
        if width > 7.0 * label.len() as f64 + 2.0 {
            let _ = write!(
                svg,
                "<text x=\"{:.2}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"10\" \
                 fill=\"#fff\">{label}</text>",
                x(f64::midpoint(start, end)),
                y + 15.0
            );
        }
        svg.push('\n');
    };
    for span in &step.spans {
        let colour = match span.task.pass {
            Pass::Forward => FORWARD,
            Pass::Backward => BACKWARD,
            Pass::Weights => WEIGHTS,
        };
        let opacity = 1.0 - 0.6 * span.task.chunk as f64 / chunks as f64;
        let label = (span.task.micro_batch + 1).to_string();
        draw(span.stage, span.start, span.end, colour, opacity, &label);
    }
    for (stage, end) in step.ends.iter().enumerate() {
        draw(stage, end.passes, end.data, DATA, 1.0, "");
        draw(stage, end.data, end.optimizer, OPTIMIZER, 1.0, "");
    }
    axis(&mut svg, step.seconds, scale, TOP + rows as f64 * (ROW + GAP));
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String, step: &SimulatedStep) {
    let has_weights = step.spans.iter().any(|span| span.task.pass == Pass::Weights);
    let backward = if has_weights { "backward (input)" } else { "backward" };
    let mut entries = vec![(FORWARD, "forward"), (BACKWARD, backward)];
    if has_weights {
        entries.push((WEIGHTS, "backward (weights)"));
    }
    if step.ends.iter().any(|end| end.data > end.passes) {
        entries.push((DATA, "replicas' communication"));
    }
    entries.push((OPTIMIZER, "optimiser"));
    let mut x = LEFT;
    for (colour, name) in entries {
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"34\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"44\">{}</text>",
            x + 17.0,
            escape(name)
        );
        x += 40.0 + 7.0 * name.len() as f64;
    }
    let _ =
        writeln!(svg, "<text x=\"{x:.1}\" y=\"44\">numbers: micro-batches; grey: waiting</text>");
}

/// Ticks of 1, 2 or 5 times a power of ten, about six of them.
fn axis(svg: &mut String, seconds: f64, scale: f64, y: f64) {
    let rough = seconds / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    let tick = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|tick| *tick >= rough)
        .unwrap_or(10.0 * power);
    let digits = (-tick.log10().floor()).clamp(0.0, 6.0) as usize;
    let mut at = 0.0;
    while at <= seconds {
        let x = LEFT + at * scale;
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"currentColor\" \
             stroke-opacity=\"0.25\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at:.digits$} \
             s</text>",
            y + 4.0,
            y + 20.0
        );
        at += tick;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Batch, Calibration, ClusterRun, Device, Layout, ModelShape, NumberFormats,
        simulate::simulate_step,
    };

    #[test]
    fn every_stage_and_pass_is_drawn() {
        let run = ClusterRun {
            model: ModelShape::published("llama3-8b").unwrap(),
            device: Device::named("h100-sxm").unwrap(),
            layout: Layout { pipeline: 4, ..Layout::SINGLE },
            batch: Batch { sequence_length: 4096, sequences: 8 },
            formats: NumberFormats::MIXED,
        };
        let svg = timeline_svg(&simulate_step(&run, &Calibration::fused()), "8B <on> 4");
        assert!(svg.contains("8B &lt;on&gt; 4") && svg.contains("stage 3"));
        assert!(svg.matches("fill=\"#0072b2\" fill-opacity").count() == 4 * 8, "{svg}");
        assert!(svg.ends_with("</svg>\n"));
    }
}
