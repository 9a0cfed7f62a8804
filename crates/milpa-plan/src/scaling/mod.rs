//! Scaling laws: from a table of small runs to the size, tokens and loss of a large one.
//!
//! [`fit_table`] takes a [`RunTable`] and gives a [`FitReport`] with constants, compute-optimal
//! sizes and predictions, all with intervals, and with what they rest on. Below it, [`Law`] is a
//! law of the loss in N parameters and D tokens, [`Link`] the accuracy by a loss, and [`iso_flop`]
//! and [`envelope`] read the best size off the data without a law.
//!
//! A formula is written once (`curves`), differentiated by `number`, and fitted (`fit`) by an
//! optimiser that does not see the objective's scale (`optimise`). Nothing here knows hardware,
//! prices or how runs are made.

mod curves;
mod downstream;
mod fit;
mod frontier;
mod interval;
mod law;
mod number;
mod objective;
mod optimise;
mod plots;
mod report;
mod runs;
mod text;

pub use crate::linear::Line;
pub use downstream::{Link, LinkKind, smoothed_checkpoints};
pub use fit::FitOptions;
pub use frontier::{Best, Frontier, FrontierRun, IsoFlop, envelope, iso_flop};
pub use interval::Estimate;
pub use law::{Law, LawAt, LawKind, Optimum, RunSize, Search};
pub use objective::{Objective, Scale};
pub use report::{
    Basis, Budget, Constant, FitReport, FitRequest, Form, Influence, LinkReport, Prediction, Ratio,
    Span, fit_table,
};
pub use runs::{Count, Run, RunTable, Split, read_number};
