//! A tape that audits names the operation that first makes a value that is not finite, and changes none.

use milpa_tensor::{DType, Direction, LossRows, NonFinite, ParameterStore, Tape, TensorError};

use crate::{
    behaviour::{IDS, TARGETS, all_grads, network, store},
    device,
};

/// Replaces the first value of a parameter.
fn plant(store: &mut ParameterStore, name: &str, value: f32) {
    let id = store.id(name).unwrap();
    let mut values = store.read(id);
    values[0] = value;
    store.write(id, &values).unwrap();
}

/// Forward and backward of the small network; what an audit finds.
fn find(dtype: DType, damage: impl Fn(&mut ParameterStore)) -> Option<NonFinite> {
    let device = device(1);
    let mut store = store(&device);
    damage(&mut store);
    let tape = Tape::recording(device).autocast(dtype).audited(&store);
    let run = |store: &mut ParameterStore| {
        let x = network(&tape, store, &IDS, 6)?;
        let table = store.leaf(store.id("table").unwrap());
        tape.cross_entropy_and_backward(&x, &table, &LossRows::mean(&TARGETS), store)
    };
    match run(&mut store) {
        Ok(_) => None,
        Err(TensorError::NonFinite(found)) => Some(*found),
        Err(other) => panic!("{other}"),
    }
}

/// Holds what is found against parts of its message.
#[track_caller]
fn check(dtype: DType, damage: impl Fn(&mut ParameterStore), expect: &[&str]) {
    let found = find(dtype, damage).expect("something is not finite").to_string();
    for part in expect {
        assert!(found.contains(part), "{found}\nlacks {part}");
    }
}

#[test]
fn an_audit_changes_nothing() {
    for dtype in [DType::F32, DType::BF16] {
        let device = device(2);
        let run = |audited: bool| {
            let mut store = store(&device);
            let mut tape = Tape::recording(device.clone()).autocast(dtype);
            if audited {
                tape = tape.audited(&store);
            }
            let x = network(&tape, &store, &IDS, 6).unwrap();
            let table = store.leaf(store.id("table").unwrap());
            let rows = LossRows::mean(&TARGETS);
            let summary = tape.cross_entropy_and_backward(&x, &table, &rows, &mut store).unwrap();
            (summary, all_grads(&store))
        };
        assert_eq!(run(true), run(false));
    }
}

#[test]
fn the_first_operation_on_the_way_forward_is_named() {
    assert_eq!(find(DType::F32, |_| ()), None);
    let expect = "on the way forward, linear of q, k, v was given 1 of 768 values that are not \
                  finite in q [32, 24] (f32), the first inf at [0, 0]; the finite ones that went in \
                  were at most ";
    check(DType::F32, |store| plant(store, "q", f32::INFINITY), &[expect]);
    let expect = [
        "on the way forward, swiglu after up made ",
        " of 480 values that are not finite in its output [2, 6, 40] (f32), the first ",
        "; what went in was finite, at most ",
    ];
    check(DType::F32, |store| ["gate", "up"].iter().for_each(|it| plant(store, it, 1e25)), &expect);
    // Too large for bf16 and not for f32.
    let expect = "on the way forward, linear of down was given 1 of 960 values that are not finite in \
                  down [24, 40] (bf16), the first inf at [0, 0]";
    check(DType::BF16, |store| plant(store, "down", f32::MAX), &[expect]);
    // Token 0 is not in the text, so only the output layer sees its row.
    let row = |store: &mut ParameterStore| {
        let id = store.id("table").unwrap();
        let mut values = store.read(id);
        values[..24].fill(f32::MAX);
        store.write(id, &values).unwrap();
    };
    let expect = ["linear_cross_entropy of table made ", " in the losses of its rows [12] (f32)"];
    check(DType::F32, row, &expect);
    let found = find(DType::F32, row).unwrap();
    assert_eq!((found.operation, found.direction), ("linear_cross_entropy", Direction::Forward));
    assert!(found.inputs[1].largest == f32::MAX && found.output.unwrap().bad > 0);
}

#[test]
fn the_first_operation_on_the_way_back_is_named() {
    // The gate is zero, so nothing of these weights is seen on the way forward.
    let damage = |store: &mut ParameterStore| {
        for (name, value) in [("gate", 0.0), ("up", 1e30), ("down", 1e20)] {
            let id = store.id(name).unwrap();
            let values = vec![value; store.get(id).shape().elements()];
            store.write(id, &values).unwrap();
        }
    };
    let expect = "on the way back, swiglu after up made 480 of 480 values that are not finite in the \
                  gradient of its input 1 [2, 6, 40] (f32), the first inf at [0, 0, 0]; what went in \
                  was finite, at most 1.26e19 in the gradient of its output [2, 6, 40], 0 in its \
                  input 1 [2, 6, 40], 2.20e30 in its input 2 [2, 6, 40]";
    check(DType::F32, damage, &[expect]);
}

#[test]
fn gradients_that_were_given_and_do_not_fit_are_named() {
    let device = device(1);
    let mut store = ParameterStore::new(device.clone());
    let id = store.add("weight", &[2, 2], &[10.0, 0.0, 0.0, 1.0], true).unwrap();
    let large = "on the way back, linear of weight made 1 of 2 values that are not finite in the \
                 gradient of its input 1 [1, 2] (f32), the first inf at [0, 0]; what went in was \
                 finite, at most 3.40e38 in the gradient of its output [1, 2], 1.00e1 in its input 1 \
                 [1, 2], 1.00e1 in weight [2, 2]";
    let none = "on the way back, linear of weight was given 1 of 2 values that are not finite in the \
                gradient of its output [1, 2] (f32), the first NaN at [0, 0]; the finite ones that \
                went in were at most 1.00e0 in the gradient of its output [1, 2], 1.00e1 in its \
                input 1 [1, 2], 1.00e1 in weight [2, 2]";
    for (gradient, expect) in [([f32::MAX, 1.0], large), ([f32::NAN, 1.0], none)] {
        let tape = Tape::recording(device.clone()).audited(&store);
        let weight = store.leaf(id);
        let x = tape.constant(&[1.0, 2.0], &[1, 2]).unwrap();
        let h = tape.linear(&x, &weight).unwrap();
        let y = tape.linear(&h, &weight).unwrap();
        drop(weight);
        let error = tape.backward_from(&[(&y, &gradient)], &mut store).unwrap_err();
        assert_eq!(error.to_string(), expect);
    }
}
