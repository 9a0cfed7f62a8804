#!/usr/bin/env python3
"""Holds GGUF files in every format against the `gguf` package and llama.cpp, in both directions.

The example `gguf_check` of milpa-model trains small models and writes them: DIR/formats holds what Milpa trains (qwen3, llama)
in every format, and `quantise` lets llama.cpp make files of the same formats from ours in F32; DIR/families holds the other
families in some formats. The example reads all of them; `check` then asserts for each file that
  - the values that we read equal those that the `gguf` package reads, bit for bit;
  - llama.cpp loads it and gives the same token ids for texts in Spanish, Portuguese, Quechua, Guaraní and Nahuatl, with
    special tokens in text read as text and as tokens;
  - llama.cpp predicts the same next token as we do, wherever the gap between our two largest logits exceeds the quantisation
    error there: the largest difference between the logits of the file and those of the f32 weights (at least 0.001).
    llama.cpp also rounds what it multiplies weights with, so its logits differ from ours by about as much; with experts,
    that may send a token to another one, which is allowed at one position in fifty of rounded files;
and for each format of DIR/formats that both chose the same type for each tensor, that tensors are the same bytes where a format says how to
round (but for ties, which a fused multiply-add breaks another way), and that ours lose at most 3 % more than llama.cpp's
where it does not (root mean square error of Q4_K and Q6_K).
Needs: llama-cpp-python, gguf, numpy. Usage:

    cargo run --release -p milpa-model --example gguf_check -- write DIR
    python reference/gguf_check.py quantise DIR
    cargo run --release -p milpa-model --example gguf_check -- read DIR
    python reference/gguf_check.py check DIR
"""
import ctypes
import json
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf.quants import dequantize

# llama.cpp's numbers of the formats.
FORMATS = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q6_K": 18, "Q4_K_M": 15, "Q4_0": 2}
SEARCHED = ("Q4_K", "Q6_K")
quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)


def quantise(folder):
    for name, number in FORMATS.items():
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype, parameters.nthread = number, 2
        source, target = folder / "milpa-F32.gguf", folder / f"llama-{name}.gguf"
        failed = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
        assert failed == 0, target


def tensors(path):
    """Type, bytes and values of each tensor."""
    read = gguf.GGUFReader(path).tensors
    return {t.name: (t.tensor_type.name, np.array(t.data), dequantize(t.data, t.tensor_type).reshape(-1)) for t in read}


def check_values(path):
    theirs = tensors(path)
    ours = np.fromfile(f"{path}.values", dtype=np.uint32)
    joined = np.concatenate([np.ascontiguousarray(theirs[name][2]).view(np.uint32) for name in sorted(theirs)])
    assert np.array_equal(ours, joined), f"{path}: {np.count_nonzero(ours != joined)} values differ"
    return len(joined)


def check_llama(path, expected, experts):
    tokens, exact = expected["tokens"], np.array(expected["logits"], dtype=np.float32)
    ours = np.fromfile(f"{path}.logits", dtype=np.float32).reshape(exact.shape)
    # Keys and values in F32, so that the weights alone are rounded.
    model = llama_cpp.Llama(model_path=str(path), n_ctx=len(tokens), logits_all=True, n_threads=2, type_k=0, type_v=0, verbose=False)
    for entry in expected["texts"]:
        text = entry["text"].encode()
        for special, ids in ((False, entry["plain"]), (True, entry["special"])):
            found = model.tokenize(text, add_bos=False, special=special)
            assert found == ids, (path, entry["text"], special, found, ids)
    model.eval(tokens)
    theirs = np.array(model.scores[: len(tokens)])[:, : exact.shape[1]]
    errors = np.maximum(np.abs(ours - exact).max(1), 1e-3)
    difference = np.abs(theirs - ours).max(1)
    ranked = np.sort(ours, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > errors
    # Where experts are about equally apt, rounded activations choose another one.
    routed = experts and not path.stem.endswith("F32")
    turned = len(tokens) // 50 if routed else 0
    same = theirs.argmax(1) == ours.argmax(1)
    print(f"{path.parent.name}/{path.name}: quantisation error {errors.max():.3f}, max |logits of llama.cpp - ours| "
          f"{difference.max():.4f} (largest logit {np.abs(ours).max():.1f}); same next token at {int(same[clear].sum())} of "
          f"{int(clear.sum())} clear positions, {int(same.sum())} of {len(same)} in all")
    assert clear.sum() >= len(clear) // 4, "hardly any position is clear: the error is too large to say anything"
    assert np.count_nonzero(clear & ~same) <= turned
    difference = np.sort(difference)[: len(difference) - turned]
    assert difference.max() < 3 * errors.max() + 0.02, "more than two roundings of the same size explain"


def compare_quantisers(folder, name, exact):
    ours, theirs = tensors(folder / f"milpa-{name}.gguf"), tensors(folder / f"llama-{name}.gguf")
    kinds = lambda file: {tensor: kind for tensor, (kind, _, _) in file.items()}
    assert kinds(ours) == kinds(theirs), {t: (k, kinds(theirs)[t]) for t, k in kinds(ours).items() if k != kinds(theirs)[t]}
    squares, differing, total = {}, 0, 0
    for tensor, (kind, data, values) in ours.items():
        if kind in SEARCHED:
            sums = squares.setdefault(kind, [0.0, 0.0])
            for index, found in enumerate((values, theirs[tensor][2])):
                sums[index] += float(((found - exact[tensor][2]).astype(np.float64) ** 2).sum())
        else:
            differing += int(np.count_nonzero(data != theirs[tensor][1]))
            total += data.size
    lines = [f"{differing} of {total} elements of other types differ"]
    assert differing <= total * 1e-4
    for kind, (mine, other) in squares.items():
        lines.append(f"error of {kind} is {np.sqrt(mine / other):.4f} of llama.cpp's")
        assert mine <= other * 1.03**2, (folder, name, kind, mine, other)
    print(f"{folder.name} {name}: same types as llama.cpp chooses; {'; '.join(lines)}")


def check(folder):
    expected = json.loads((folder / "expected.json").read_text())
    exact = tensors(folder / "milpa-F32.gguf")
    files = sorted(folder.glob("*.gguf"))
    for path in files:
        values = check_values(path)
        check_llama(path, expected, any("_exps" in name for name in exact))
    print(f"{folder.name}: {len(files)} files, the {values} values of each equal to the gguf package's bit for bit")
    return len(files)


def main():
    action, root = sys.argv[1], Path(sys.argv[2])
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p())
    formats, families = (sorted((root / kind).iterdir()) for kind in ("formats", "families"))
    if action == "quantise":
        for folder in formats:
            quantise(folder)
        return
    files = sum(check(folder) for folder in formats + families)
    for folder in formats:
        exact = tensors(folder / "milpa-F32.gguf")
        for name in FORMATS:
            compare_quantisers(folder, name, exact)
    print(f"{files} GGUF files of {len(formats + families)} models: values, ids and next tokens; {len(FORMATS)} formats quantised by both")


if __name__ == "__main__":
    main()
