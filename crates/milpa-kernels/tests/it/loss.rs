//! Cross-entropy, log-probabilities and softmax, with extreme logits.

use milpa_kernels::loss::{self, IGNORE, ZLoss};
use milpa_kernels::reference;

use crate::common::{Random, check, doubles};

fn rows(vocab: usize, random: &mut Random) -> (Vec<f32>, Vec<u32>) {
    let count = 9;
    let mut logits: Vec<f32> = random.reals(count * vocab).iter().map(|x| 10.0 * x).collect();
    // Row 1: one logit towers over the rest; row 2: all equal; row 3: huge negatives; row 4: an
    // excluded token.
    logits[vocab..2 * vocab].fill(-1e4);
    logits[vocab + vocab / 2] = 1e4;
    logits[2 * vocab..3 * vocab].fill(3.0);
    for value in &mut logits[3 * vocab..4 * vocab] {
        *value -= 1e6;
    }
    if vocab > 1 {
        logits[4 * vocab + vocab - 1] = f32::NEG_INFINITY;
    }
    let mut targets: Vec<u32> = (0..count).map(|_| random.below(vocab) as u32).collect();
    targets[4] = 0;
    targets[5] = IGNORE;
    // Row 6: the target is the largest logit.
    let row = &logits[6 * vocab..7 * vocab];
    let largest = (0..vocab).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("a vocabulary");
    targets[6] = largest as u32;
    (logits, targets)
}

#[test]
fn cross_entropy_and_its_gradient() {
    for vocab in [1, 2, 15, 16, 33, 257, 8192] {
        let mut random = Random(vocab as u64);
        let (logits, targets) = rows(vocab, &mut random);
        let scale = random.reals(targets.len());
        let (mut gradient, mut losses) = (doubles(&logits), vec![0.0; targets.len()]);
        reference::cross_entropy(
            vocab,
            &mut gradient,
            &targets,
            &doubles(&scale),
            &mut losses,
            None,
        );
        // An ulp of logits near 10⁶ is 0.06, but they cancel exactly; 10⁻⁶ of what remains.
        check(&format!("cross-entropy {vocab}"), &[gradient, losses], (2e-6, 3e-6), |cpu| {
            let (mut gradient, mut losses) = (logits.clone(), vec![f32::NAN; targets.len()]);
            loss::cross_entropy(cpu, vocab, &mut gradient, &targets, &scale, &mut losses, None);
            vec![gradient, losses]
        });
    }
}

#[test]
fn cross_entropy_with_a_pull_on_log_z() {
    for vocab in [1, 2, 15, 16, 33, 257, 8192] {
        let mut random = Random(vocab as u64);
        let (logits, targets) = rows(vocab, &mut random);
        let count = targets.len();
        let scale = random.reals(count);
        let (mut gradient, mut losses, mut squares) =
            (doubles(&logits), vec![0.0; count], vec![0.0; count]);
        let z_loss = Some((f64::from(1e-2_f32), &mut squares[..]));
        let scales = doubles(&scale);
        reference::cross_entropy(vocab, &mut gradient, &targets, &scales, &mut losses, z_loss);
        // As above; 1 + 2·10⁻²·log Z is up to 2·10⁴ large, and multiplies a softmax.
        check(&format!("z-loss {vocab}"), &[gradient, losses, squares], (2e-6, 3e-6), |cpu| {
            let (mut gradient, mut losses) = (logits.clone(), vec![f32::NAN; count]);
            let mut squares = vec![f32::NAN; count];
            let z_loss = Some(ZLoss { coefficient: 1e-2, squares: &mut squares });
            loss::cross_entropy(cpu, vocab, &mut gradient, &targets, &scale, &mut losses, z_loss);
            vec![gradient, losses, squares]
        });
    }
}

#[test]
fn log_probabilities_and_greedy_choice() {
    for vocab in [1, 2, 15, 16, 33, 257, 8192] {
        let mut random = Random(vocab as u64);
        let (logits, targets) = rows(vocab, &mut random);
        let count = targets.len();
        let (mut expected, mut greedy) = (vec![0.0; count], vec![false; count]);
        reference::log_probabilities(
            vocab,
            &doubles(&logits),
            &targets,
            &mut expected,
            &mut greedy,
        );
        assert!(greedy[6]);
        let flags = greedy.iter().map(|&flag| f64::from(u8::from(flag))).collect();
        check(&format!("log-probabilities {vocab}"), &[expected, flags], (2e-6, 1e-6), |cpu| {
            let (mut log_probability, mut greedy) = (vec![0.0; count], vec![false; count]);
            loss::log_probabilities(
                cpu,
                vocab,
                &logits,
                &targets,
                &mut log_probability,
                &mut greedy,
            );
            vec![log_probability, greedy.iter().map(|&flag| f32::from(u8::from(flag))).collect()]
        });
    }
}

#[test]
fn softmax_sums_to_one() {
    let vocab = 1001;
    let (logits, _) = rows(vocab, &mut Random(3));
    let mut expected = doubles(&logits);
    reference::softmax_rows(vocab, &mut expected);
    check("softmax", &[expected], (1e-7, 2e-6), |cpu| {
        let mut probabilities = logits.clone();
        loss::softmax_rows(cpu, vocab, &mut probabilities);
        vec![probabilities]
    });
}

#[test]
#[should_panic(expected = "target 7 is beyond a vocabulary of 7")]
fn a_target_beyond_the_vocabulary_is_refused() {
    let cpu = milpa_kernels::Cpu::detect(1);
    loss::cross_entropy(&cpu, 7, &mut [0.0; 7], &[7], &[1.0], &mut [0.0], None);
}
