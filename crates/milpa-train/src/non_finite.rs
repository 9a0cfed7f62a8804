//! Where numbers that are none came from: weights, the forward pass, or a gradient.
//!
//! It knows parameters and the loss of a step; what lies between them it names by the parameters
//! around it.

use milpa_tensor::{Buffer, ParameterStore};

/// Says what first was not finite in a step, from its weights, loss and gradients.
pub(crate) fn origin(parameters: &ParameterStore, loss: f64) -> String {
    // Squares of f32 do not overflow in f64, so the norm is finite if all values are.
    let bad = |buffer: &Buffer| !parameters.device().grad_norm(&[buffer]).is_finite();
    let names = |bad: &dyn Fn(usize) -> bool| -> Vec<&str> {
        let all = parameters.iter().enumerate();
        all.filter(|(index, _)| bad(*index)).map(|(_, parameter)| parameter.name()).collect()
    };
    let every: Vec<_> = parameters.iter().collect();
    let weights = names(&|index| bad(every[index].data()));
    if let Some(first) = weights.first() {
        return format!(
            "{} of {} parameters were not finite before the step, the first of them {first}",
            weights.len(),
            every.len()
        );
    }
    if !loss.is_finite() {
        return "all weights are finite, so activations of the forward pass overflowed".to_owned();
    }
    let gradients = names(&|index| every[index].grad().is_some_and(bad));
    match gradients.last() {
        // Backward goes from the last parameter to the first.
        Some(last) => format!(
            "weights and loss are finite; the gradients of {} of {} parameters are not, on the way \
             back first that of {last}",
            gradients.len(),
            every.len()
        ),
        None => "each gradient is finite, their norm is not".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use milpa_tensor::{Device, Tape};

    use super::*;

    fn store(weight: f32, gradients: [f32; 3]) -> ParameterStore {
        let mut store = ParameterStore::new(Device::cpu(1));
        for (name, gradient) in ["embedding", "layer", "head"].into_iter().zip(gradients) {
            let first = if name == "layer" { weight } else { 1.0 };
            let id = store.add(name, &[2], &[first, 1.0], true).unwrap();
            let tape = Tape::recording(store.device().clone());
            let leaf = store.leaf(id);
            let sum = tape.add(&leaf, &leaf).unwrap();
            tape.backward_from(&[(&sum, &[0.5, gradient])], &mut store).unwrap();
        }
        store
    }

    #[test]
    fn the_first_that_is_not_finite_is_named() {
        let check = |weight: f32, loss: f64, gradients: [f32; 3], expect: &str| {
            let got = origin(&store(weight, gradients), loss);
            assert!(got.contains(expect), "{got}");
        };
        let nan = f32::NAN;
        check(
            f32::INFINITY,
            f64::NAN,
            [nan; 3],
            "1 of 3 parameters were not finite before the step",
        );
        check(f32::NAN, 1.0, [1.0; 3], "the first of them layer");
        check(1.0, f64::NAN, [nan; 3], "activations of the forward pass overflowed");
        check(1.0, 1.0, [nan, nan, 1.0], "the gradients of 2 of 3 parameters are not");
        check(1.0, 1.0, [nan, f32::INFINITY, 1.0], "first that of layer");
        check(f32::MAX, 1.0, [f32::MAX / 4.0; 3], "each gradient is finite");
    }
}
