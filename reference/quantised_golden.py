#!/usr/bin/env python3
"""Golden values of ggml's block formats, computed by the `gguf` package (gguf.quants).

Writes crates/milpa-kernels/tests/golden/quantised.txt: lines of a name and bytes in hexadecimal.
  FORMAT.blocks, FORMAT.values   arbitrary blocks with finite scales, and the f32 values they stand for
  x, x.FORMAT                    f32 values, and what they are rounded to, where the package implements that
Needs: numpy, gguf. Usage: python reference/quantised_golden.py
"""
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

OUT = Path(__file__).parent.parent / "crates/milpa-kernels/tests/golden/quantised.txt"
# Where blocks hold half-precision numbers, which must be finite.
HALVES = {Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_K: [0, 2], Type.Q6_K: [208]}
BLOCKS = {Type.Q8_0: 8, Type.Q4_0: 8, Type.Q4_K: 4, Type.Q6_K: 4}


def arbitrary_blocks(random, kind):
    blocks = random.integers(0, 256, (BLOCKS[kind], GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    for at in HALVES[kind]:
        # The first block has a subnormal half, the others are of all sizes.
        halves = random.normal(size=len(blocks)) * 10.0 ** random.uniform(-4, 2, len(blocks))
        halves[0] = 3e-6
        blocks[:, at : at + 2] = halves.astype(np.float16).view(np.uint8).reshape(-1, 2)
    return blocks


def values_to_round(random):
    x = random.normal(size=(16, 32)) * 10.0 ** random.uniform(-5, 3, (16, 1))
    x[0] = 0
    x[1] = np.arange(32) - 16  # ties in both formats
    x[2, 7], x[2, 9] = 90, -90  # two values of the largest size
    x[3] = np.where(np.arange(32) % 2, 1e-7, -1e-7)  # scales below half precision
    x[4, 5:] = 0
    return x.astype(np.float32).reshape(1, -1)


def main():
    random = np.random.default_rng(7)
    lines = []
    for kind in HALVES:
        blocks = arbitrary_blocks(random, kind)
        lines += [(f"{kind.name}.blocks", blocks), (f"{kind.name}.values", dequantize(blocks, kind))]
    x = values_to_round(random)
    lines.append(("x", x))
    for kind in (Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0):
        lines.append((f"x.{kind.name}", quantize(x, kind)))
    text = "".join(f"{name} {np.ascontiguousarray(values).tobytes().hex()}\n" for name, values in lines)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(text)
    print(f"{len(BLOCKS)} formats, {len(lines)} arrays, {len(text)} bytes")


if __name__ == "__main__":
    main()
