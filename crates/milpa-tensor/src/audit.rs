//! Finding the operation that first makes a value that is no finite number.
//!
//! A tape that audits reads everything that goes into an operation and comes out of it, forward and
//! backward, and fails at the first that is not finite. That costs several times the work itself, so it
//! is for doing a step again that went wrong. It knows operations by their name and parameters by
//! theirs; what a layer is, the names of the parameters say.

use std::{cell::Cell, fmt};

use crate::{
    buffer::{Buffer, DType},
    device::Device,
    error::TensorError,
    operation::Operation,
    parameters::{ParameterId, ParameterStore},
    shape::Shape,
    tape::{Slot, Source},
};

/// Which way an operation was going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From inputs to outputs.
    Forward,
    /// From gradients of outputs to gradients of inputs.
    Backward,
}

/// Values that went into an operation or came out of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// What they are, such as `input 1`, or the name of a parameter.
    pub what: String,
    /// Their shape.
    pub shape: Shape,
    /// What they were stored in.
    pub dtype: DType,
    /// Largest magnitude of the finite ones.
    pub largest: f32,
    /// How many are not finite.
    pub bad: usize,
    /// Place and value of the first that is not finite.
    pub first_bad: Option<(Vec<usize>, f32)>,
}

/// The first operation with a value that is not finite.
#[derive(Debug, Clone, PartialEq)]
pub struct NonFinite {
    /// The operation, as it is called in errors.
    pub operation: &'static str,
    /// Which way it was going.
    pub direction: Direction,
    /// The parameters it reads, or the last that any operation before it has read.
    pub parameters: Vec<String>,
    /// Whether `parameters` are its own.
    pub reads_parameters: bool,
    /// What went in, looked at before the operation ran.
    pub inputs: Vec<Observed>,
    /// What came out that is not finite; `None` if an input was not finite already, as a parameter may
    /// be, or what became too large for bf16.
    pub output: Option<Observed>,
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, direction, parameters, reads_parameters, inputs, output } = self;
        f.write_str(match direction {
            Direction::Forward => "on the way forward, ",
            Direction::Backward => "on the way back, ",
        })?;
        write!(f, "{operation}")?;
        if !parameters.is_empty() {
            let relation = if *reads_parameters { "of" } else { "after" };
            write!(f, " {relation} {}", parameters.join(", "))?;
        }
        let bad = |f: &mut fmt::Formatter<'_>, values: &Observed| {
            let Observed { what, shape, dtype, bad, first_bad, .. } = values;
            let all = shape.elements();
            write!(f, " {bad} of {all} values that are not finite in {what} {shape} ({dtype})")?;
            match first_bad {
                Some((place, value)) => write!(f, ", the first {value} at {place:?}"),
                None => Ok(()),
            }
        };
        match (output, inputs.iter().find(|input| input.bad > 0)) {
            (Some(output), _) => {
                f.write_str(" made")?;
                bad(f, output)?;
                f.write_str("; what went in was finite, at most ")?;
            }
            (None, Some(input)) => {
                f.write_str(" was given")?;
                bad(f, input)?;
                f.write_str("; the finite ones that went in were at most ")?;
            }
            (None, None) => return Ok(()),
        }
        for (index, Observed { what, shape, largest, .. }) in inputs.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let largest = if *largest == 0.0 { "0".to_owned() } else { format!("{largest:.2e}") };
            write!(f, "{comma}{largest} in {what} {shape}")?;
        }
        Ok(())
    }
}

/// What an auditing tape remembers.
#[derive(Debug)]
pub(crate) struct Audit {
    names: Vec<String>,
    /// The last parameter that an operation has read on the way forward.
    last: Cell<Option<ParameterId>>,
}

impl Audit {
    pub(crate) fn new(parameters: &ParameterStore) -> Self {
        let names = parameters.iter().map(|parameter| parameter.name().to_owned()).collect();
        Self { names, last: Cell::new(None) }
    }

    /// Begins to look at an operation; `inputs` are read now, since it may work in place.
    ///
    /// # Errors
    /// [`TensorError::NonFinite`] if an input is not finite.
    pub(crate) fn forward(
        &self,
        device: &Device,
        operation: &Operation,
        inputs: &[Slot],
    ) -> Result<NonFinite, TensorError> {
        let own = last_parameter(inputs);
        let observed = self.observe_inputs(device, inputs);
        let looking = self.looking(operation, Direction::Forward, inputs, observed);
        self.last.set(own.or(self.last.get()));
        looking.check_inputs()
    }

    /// As [`Self::forward`] on the way back: what goes in are the gradients of the outputs and what
    /// backward reads of the inputs. `before` are the records before the operation's, newest first.
    pub(crate) fn backward<'a>(
        &self,
        device: &Device,
        operation: &Operation,
        (inputs, outputs): (&[Slot], &[Slot]),
        douts: impl IntoIterator<Item = Option<&'a Buffer>>,
        before: impl IntoIterator<Item = &'a [Slot]>,
    ) -> Result<NonFinite, TensorError> {
        let own = last_parameter(inputs);
        self.last.set(own.or_else(|| before.into_iter().find_map(last_parameter)));
        let mut observed = Vec::new();
        for (index, (slot, dout)) in outputs.iter().zip(douts).enumerate() {
            if let Some(dout) = dout {
                let what = format!("the gradient of {}", counted("output", index, outputs.len()));
                observed.push(observe(device, what, slot.shape, dout));
            }
        }
        observed.extend(self.observe_inputs(device, inputs));
        self.looking(operation, Direction::Backward, inputs, observed).check_inputs()
    }

    /// Says what an input is: the name of a parameter, or its number.
    pub(crate) fn name(&self, inputs: &[Slot], index: usize) -> String {
        match inputs[index].source {
            Source::Parameter { id, .. } if id.index() < self.names.len() => {
                self.names[id.index()].clone()
            }
            _ => counted("input", index, inputs.len()),
        }
    }

    fn observe_inputs(&self, device: &Device, inputs: &[Slot]) -> Vec<Observed> {
        let present = inputs.iter().enumerate().filter(|(_, slot)| slot.is_present());
        present
            .map(|(index, slot)| {
                observe(device, self.name(inputs, index), slot.shape, slot.buffer())
            })
            .collect()
    }

    fn looking(
        &self,
        operation: &Operation,
        direction: Direction,
        inputs: &[Slot],
        observed: Vec<Observed>,
    ) -> NonFinite {
        let own: Vec<String> = (0..inputs.len())
            .filter(|&index| matches!(inputs[index].source, Source::Parameter { .. }))
            .map(|index| self.name(inputs, index))
            .collect();
        let reads_parameters = !own.is_empty();
        let last = self.last.get().and_then(|id| self.names.get(id.index()).cloned());
        let parameters = if reads_parameters { own } else { last.into_iter().collect() };
        let (operation, inputs) = (operation.name(), observed);
        NonFinite { operation, direction, parameters, reads_parameters, inputs, output: None }
    }
}

/// The last parameter among the inputs of an operation.
fn last_parameter(inputs: &[Slot]) -> Option<ParameterId> {
    inputs.iter().rev().find_map(|slot| match slot.source {
        Source::Parameter { id, .. } => Some(id),
        _ => None,
    })
}

impl NonFinite {
    fn check_inputs(self) -> Result<Self, TensorError> {
        if self.inputs.iter().any(|input| input.bad > 0) {
            return Err(TensorError::NonFinite(Box::new(self)));
        }
        Ok(self)
    }

    /// Looks at what came out.
    ///
    /// # Errors
    /// [`TensorError::NonFinite`] if it is not finite.
    pub(crate) fn check(self, observed: Observed) -> Result<Self, TensorError> {
        if observed.bad == 0 {
            return Ok(self);
        }
        Err(TensorError::NonFinite(Box::new(Self { output: Some(observed), ..self })))
    }
}

/// `word`, with a number from 1 if there are several.
pub(crate) fn counted(word: &str, index: usize, of: usize) -> String {
    if of == 1 { format!("its {word}") } else { format!("its {word} {}", index + 1) }
}

/// Reads a buffer.
pub(crate) fn observe(device: &Device, what: String, shape: Shape, buffer: &Buffer) -> Observed {
    let mut values = vec![0.0; buffer.len()];
    device.download(buffer, &mut values);
    observe_values(what, shape, buffer.dtype(), &values)
}

pub(crate) fn observe_values(what: String, shape: Shape, dtype: DType, values: &[f32]) -> Observed {
    let mut observed = Observed { what, shape, dtype, largest: 0.0, bad: 0, first_bad: None };
    for (index, &value) in values.iter().enumerate() {
        if value.is_finite() {
            observed.largest = observed.largest.max(value.abs());
        } else {
            observed.bad += 1;
            observed.first_bad.get_or_insert_with(|| (place(&shape, index), value));
        }
    }
    observed
}

/// Indices of an element, outermost first.
fn place(shape: &Shape, mut index: usize) -> Vec<usize> {
    let mut place: Vec<usize> = shape
        .lengths()
        .iter()
        .rev()
        .map(|&length| {
            let here = index % length.max(1);
            index /= length.max(1);
            here
        })
        .collect();
    place.reverse();
    place
}
