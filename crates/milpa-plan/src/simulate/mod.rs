//! The cluster simulated: one step event by event, its time line as a picture, and the weeks of a run.

mod report;
mod schedule;
mod step;
mod timeline;
mod weeks;

pub use report::{SimulationReport, simulate};
pub use schedule::{Pass, Pipeline, Task, peak_in_flight, tasks};
pub use step::{SimulatedStep, Span, StageEnd, simulate_durations, simulate_step};
pub use timeline::timeline_svg;
pub use weeks::{SimulatedWeeks, Weeks, simulate_weeks};
