//! Q8_0, f16 and bf16.

use half::{bf16, f16};
use milpa_kernels::{convert, q8_0};
use proptest::prelude::*;

use crate::common::{Random, one_cpu_per_isa};

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

    #[test]
    fn quantising_is_within_half_a_step(
        x in prop::collection::vec(-1e4_f32..1e4, 64..=64),
        exponent in -20_i32..3,
    ) {
        let x: Vec<f32> = x.iter().map(|x| x * 2.0_f32.powi(exponent)).collect();
        for cpu in one_cpu_per_isa() {
            let mut bytes = vec![0; q8_0::row_bytes(x.len())];
            q8_0::quantize(cpu, &x, &mut bytes);
            let mut back = vec![0.0; x.len()];
            q8_0::dequantize(cpu, &bytes, &mut back);
            for (x, back) in x.chunks(32).zip(back.chunks(32)) {
                let largest = x.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                for (x, back) in x.iter().zip(back) {
                    // Half a step, and the rounding of the scale to 11 bits times up to 127 steps;
                    // below 2⁻¹⁴ the scale is subnormal, with steps of 2⁻²⁴.
                    let allowed = largest / 254.0 + largest / 2048.0 + 127.0 * 3e-8;
                    prop_assert!((x - back).abs() <= allowed * 1.001, "{x} became {back}");
                }
            }
        }
    }
}

/// Worked by hand from ggml's definition.
#[test]
fn a_block_byte_by_byte() {
    let mut x = [0.0; 32];
    (x[0], x[1], x[2], x[3], x[31]) = (127.0, -127.0, 1.5, -2.5, 0.4);
    for cpu in one_cpu_per_isa() {
        let mut bytes = [0xff; 34];
        q8_0::quantize(cpu, &x, &mut bytes);
        assert_eq!(bytes[..2], [0x00, 0x3c], "scale 1.0 in little-endian f16");
        assert_eq!(bytes[2..6], [127, 129, 2, 253], "halves round away from zero");
        assert!(bytes[6..].iter().all(|&byte| byte == 0));
        q8_0::quantize(cpu, &[0.0; 32], &mut bytes);
        assert_eq!(bytes, [0; 34]);
    }
}

#[test]
fn long_rows_are_the_same_on_every_instruction_set() {
    let x = Random(2).wild(64 * 1024);
    let mut all = one_cpu_per_isa().map(|cpu| {
        let mut bytes = vec![0; q8_0::row_bytes(x.len())];
        q8_0::quantize(cpu, &x, &mut bytes);
        let mut back = vec![0.0; x.len()];
        q8_0::dequantize(cpu, &bytes, &mut back);
        (bytes, back)
    });
    let first = all.next().expect("scalar code is always there");
    assert!(all.all(|other| other == first));
}
