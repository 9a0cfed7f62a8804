//! f16 and bf16.

use half::{bf16, f16};
use milpa_kernels::convert;
use proptest::prelude::*;

use crate::common::one_cpu_per_isa;

#[test]
fn every_f16_widens_exactly() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for cpu in one_cpu_per_isa() {
        let mut out = vec![0.0; 1 << 16];
        convert::f16_to_f32(cpu, &bytes, &mut out);
        for (bits, &got) in (0..=u16::MAX).zip(&out) {
            let expected = f16::from_bits(bits).to_f32();
            assert!(
                got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()),
                "{bits:#06x}: {got}, not {expected}"
            );
        }
        convert::bf16_to_f32(cpu, &bytes, &mut out);
        for (bits, &got) in (0..=u16::MAX).zip(&out) {
            let expected = bf16::from_bits(bits).to_f32();
            assert!(got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()));
        }
    }
}

proptest! {
    #[test]
    fn narrow_formats_go_there_and_back(bits in prop::collection::vec(any::<u32>(), 0..100)) {
        let x: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
        for cpu in one_cpu_per_isa() {
            let mut four = vec![0; 4 * x.len()];
            convert::f32_to_bytes(cpu, &x, &mut four);
            let mut back = vec![0.0; x.len()];
            convert::f32_from_bytes(cpu, &four, &mut back);
            let same = |a: &f32, b: &f32| a.to_bits() == b.to_bits();
            prop_assert!(x.iter().zip(&back).all(|(a, b)| same(a, b)));
            let mut two = vec![0; 2 * x.len()];
            convert::f32_to_f16(cpu, &x, &mut two);
            let mut widened = vec![0.0; x.len()];
            convert::f16_to_f32(cpu, &two, &mut widened);
            let expected: Vec<f32> = x.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
            let equal = |a: &f32, b: &f32| same(a, b) || (a.is_nan() && b.is_nan());
            prop_assert!(expected.iter().zip(&widened).all(|(a, b)| equal(a, b)));
            convert::f32_to_bf16(cpu, &x, &mut two);
            convert::bf16_to_f32(cpu, &two, &mut widened);
            let expected: Vec<f32> = x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
            prop_assert!(expected.iter().zip(&widened).all(|(a, b)| equal(a, b)));
        }
    }
}
