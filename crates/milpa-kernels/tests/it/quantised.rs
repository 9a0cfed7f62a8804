//! Block formats: the definition value by value, ggml's numbers, products, and how much is lost.

use milpa_kernels::{
    Accumulate, Cpu, Mat, MatMut, Size, convert,
    quantised::{self, BlockFormat},
    reference,
};
use proptest::prelude::*;

use crate::common::{Random, check_within, doubles, one_cpu_per_isa, rounding, sizes};

fn quantize(cpu: &Cpu, format: BlockFormat, x: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xff; format.row_bytes(x.len())];
    quantised::quantize(cpu, format, x, &mut bytes);
    bytes
}

fn dequantize(cpu: &Cpu, format: BlockFormat, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; format.values_in(bytes.len()).unwrap()];
    quantised::dequantize(cpu, format, bytes, &mut out);
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|value| value.to_bits()).collect()
}

/// Values from about standard normals, as weights are.
fn normals(seed: u64, length: usize) -> Vec<f32> {
    let mut random = Random(seed);
    (0..length).map(|_| (0..12).map(|_| random.real()).sum::<f32>() / 2.0).collect()
}

/// Root mean square error over root mean square.
fn relative_error(x: &[f32], back: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let error = squares(&mut x.iter().zip(back).map(|(&x, &back)| f64::from(x) - f64::from(back)));
    (error / squares(&mut x.iter().map(|&x| f64::from(x)))).sqrt()
}

/// What the `gguf` package computes, from `reference/quantised_golden.py`: lines of a name and bytes.
fn golden(name: &str) -> Vec<u8> {
    let lines = include_str!("../golden/quantised.txt").lines();
    let mut lines = lines.filter_map(|line| line.split_once(' '));
    let (_, hex) = lines.find(|(found, _)| *found == name).unwrap();
    let digits = hex.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

fn golden_floats(name: &str) -> Vec<f32> {
    golden(name).chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

#[test]
fn blocks_widen_to_the_numbers_of_the_gguf_package() {
    for format in BlockFormat::ALL {
        let blocks = golden(&format!("{format}.blocks"));
        let values = bits(&golden_floats(&format!("{format}.values")));
        assert_eq!(bits(&reference::dequantize(format, &blocks)), values, "{format}");
        for cpu in one_cpu_per_isa() {
            let isa = cpu.isa();
            assert_eq!(bits(&dequantize(cpu, format, &blocks)), values, "{format} on {isa}");
        }
    }
}

#[test]
fn values_round_to_the_blocks_of_the_gguf_package() {
    let x = golden_floats("x");
    for cpu in one_cpu_per_isa() {
        for format in [BlockFormat::Q8_0, BlockFormat::Q4_0] {
            let isa = cpu.isa();
            assert_eq!(quantize(cpu, format, &x), golden(&format!("x.{format}")), "{isa}");
        }
        let mut halves = vec![0; 2 * x.len()];
        convert::f32_to_f16(cpu, &x, &mut halves);
        assert_eq!(halves, golden("x.F16"));
        convert::f32_to_bf16(cpu, &x, &mut halves);
        assert_eq!(halves, golden("x.BF16"));
    }
}

/// Worked by hand from the definitions.
#[test]
fn blocks_byte_by_byte() {
    let mut x = [0.0; 32];
    (x[0], x[1], x[2], x[3], x[31]) = (127.0, -127.0, 1.5, -2.5, 0.4);
    let mut y = [0.0; 32];
    (y[0], y[1], y[16]) = (-8.0, 7.6, 3.4);
    for cpu in one_cpu_per_isa() {
        let bytes = quantize(cpu, BlockFormat::Q8_0, &x);
        assert_eq!(bytes[..2], [0x00, 0x3c], "scale 1.0 in little-endian f16");
        assert_eq!(bytes[2..6], [127, 129, 2, 253], "halves round away from zero");
        assert!(bytes[6..].iter().all(|&byte| byte == 0));
        let bytes = quantize(cpu, BlockFormat::Q4_0, &y);
        assert_eq!(bytes[..4], [0x00, 0x3c, 0xb0, 0x8f], "8 + 3 above 8 − 8, 8 above 8 + 7");
        for format in BlockFormat::ALL {
            let zeros = vec![0.0; format.block_values()];
            let bytes = quantize(cpu, format, &zeros);
            assert_eq!(dequantize(cpu, format, &bytes), zeros, "{format}");
        }
    }
}

/// What is lost of normal values; the figures of the K formats are ggml's, within three per cent
/// (`reference/gguf_check.py` holds both against each other on one model).
#[test]
fn the_error_is_what_the_bits_allow() {
    let x = normals(5, 64 * 1024);
    for (format, least, most) in [
        (BlockFormat::Q8_0, 0.004, 0.006),
        (BlockFormat::Q6K, 0.014, 0.020),
        (BlockFormat::Q4K, 0.060, 0.080),
        (BlockFormat::Q4_0, 0.080, 0.100),
    ] {
        let mut first = None;
        for cpu in one_cpu_per_isa() {
            let bytes = quantize(cpu, format, &x);
            let error = relative_error(&x, &dequantize(cpu, format, &bytes));
            assert!((least..most).contains(&error), "{format}: {error}");
            let first = first.get_or_insert_with(|| bytes.clone());
            assert!(*first == bytes, "{format}: {} rounds otherwise", cpu.isa());
        }
    }
}

#[test]
fn groups_without_spread_are_kept() {
    let cpu = Cpu::detect(1);
    for value in [0.0_f32, 0.75, -0.75] {
        for format in BlockFormat::ALL {
            let x = vec![value; format.block_values()];
            let back = dequantize(&cpu, format, &quantize(&cpu, format, &x));
            assert!(relative_error(&x, &back).abs() < 0.005 || x == back, "{format} {value}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever bytes a file holds, every instruction set reads what the definition says.
    #[test]
    fn any_bytes_widen_as_defined(seed in any::<u64>(), blocks in 1_usize..5) {
        let mut random = Random(seed);
        for format in BlockFormat::ALL {
            let bytes: Vec<u8> =
                (0..blocks * format.block_bytes()).map(|_| random.next() as u8).collect();
            let expected = reference::dequantize(format, &bytes);
            for cpu in one_cpu_per_isa() {
                let found = dequantize(cpu, format, &bytes);
                for (found, expected) in found.iter().zip(&expected) {
                    let same = found.to_bits() == expected.to_bits();
                    prop_assert!(same || found.is_nan() && expected.is_nan(), "{}", format);
                }
            }
        }
    }

    /// Whatever floats a model holds, quantising ends in blocks.
    #[test]
    fn any_floats_are_quantised(bits in prop::collection::vec(any::<u32>(), 256..=256)) {
        let x: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
        let cpu = Cpu::detect(1);
        for format in BlockFormat::ALL {
            quantize(&cpu, format, &x);
        }
    }

    #[test]
    fn simple_formats_are_within_half_a_step(
        x in prop::collection::vec(-1e4_f32..1e4, 64..=64),
        exponent in -20_i32..3,
    ) {
        let x: Vec<f32> = x.iter().map(|x| x * 2.0_f32.powi(exponent)).collect();
        for cpu in one_cpu_per_isa() {
            // Half a step; with 4 bits, what would be 8 becomes 7, a whole step away.
            for (format, step) in [(BlockFormat::Q8_0, 1.0 / 254.0), (BlockFormat::Q4_0, 1.0 / 8.0)] {
                let back = dequantize(cpu, format, &quantize(cpu, format, &x));
                for (x, back) in x.chunks(32).zip(back.chunks(32)) {
                    let largest = x.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                    for (x, back) in x.iter().zip(back) {
                        // And the rounding of the scale to 11 bits times all steps; below 2⁻¹⁴ the
                        // scale is subnormal, with steps of 2⁻²⁴.
                        let allowed = largest * step + largest / 2048.0 + 127.0 * 3e-8;
                        prop_assert!((x - back).abs() <= allowed * 1.001, "{x} became {back}");
                    }
                }
            }
        }
    }
}

#[test]
fn long_rows_are_the_same_on_every_instruction_set() {
    let x = Random(2).wild(64 * 1024);
    for format in BlockFormat::ALL {
        let mut all = one_cpu_per_isa().map(|cpu| {
            let bytes = quantize(cpu, format, &x);
            let back = dequantize(cpu, format, &bytes);
            (bytes, back)
        });
        let first = all.next().expect("scalar code is always there");
        assert!(all.all(|other| other == first), "{format}");
    }
}

#[test]
fn products_equal_products_of_the_widened_weights() {
    for format in BlockFormat::ALL {
        let block = format.block_values();
        for (m, n, blocks) in
            [(1, 7, 1), (4, 33, 3), (7, 90, 2), (8, 5, 2), (9, 100, 3), (50, 201, 1)]
        {
            check_product(format, Size { m, n, k: blocks * block });
        }
    }
}

fn check_product(format: BlockFormat, size: Size) {
    let Size { m, n, k } = size;
    let mut random = Random((m + n + k) as u64);
    let (a, w) = (random.reals(m * k), random.reals(n * k));
    let bytes = quantize(&Cpu::detect(1), format, &w);
    let (a64, w64) = (doubles(&a), doubles(&reference::dequantize(format, &bytes)));
    let product = |a: &[f64], w: &[f64]| {
        let mut out = vec![0.0; m * (n + 2)];
        let view = MatMut::new(&mut out, n + 2);
        reference::matmul_nt(size, Mat::new(a, k), Mat::new(w, k), view, Accumulate::No);
        out
    };
    // Minima are multiplied and summed apart from the numbers, which are as large as three times
    // the values.
    let most = if format == BlockFormat::Q4K { 3.0 } else { 1.0 };
    let expected = product(&a64, &w64);
    let w_sizes: Vec<f64> = sizes(&w64).iter().map(|w| w + most - 1.0).collect();
    let magnitude = product(&sizes(&a64), &w_sizes);
    let allowed = rounding(k, &magnitude);
    let (dot, dot_allowed) = (expected[0], allowed[0]);
    check_within(&format!("{format} {size:?}"), &[expected], &[allowed], |cpu| {
        let mut c = vec![0.0; m * (n + 2)];
        let (a, c_view) = (Mat::new(&a, k), MatMut::new(&mut c, n + 2));
        quantised::matmul_nt(cpu, format, size, a, &bytes, c_view);
        vec![c]
    });
    check_within(&format!("{format} dot"), &[vec![dot]], &[vec![dot_allowed]], |cpu| {
        vec![vec![quantised::dot(cpu, format, &bytes[..format.row_bytes(k)], &a[..k])]]
    });
}
