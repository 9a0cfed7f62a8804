#!/usr/bin/env python3
"""Holds exported GGUF files against llama.cpp.

For each model that the example `export_check` of milpa-model wrote (DIR/qwen3, DIR/llama), llama.cpp
  - loads the file and gives the same token ids for texts in Spanish, Portuguese, Quechua, Guaraní and Nahuatl, with special
    tokens in text read as text and as tokens;
  - predicts the same next token as we do from the same file, at every position of a given sequence where the gap between our
    two largest logits exceeds the quantisation error there: the largest difference between our logits from the file and from
    the f32 weights (llama.cpp also quantises what it multiplies the weights with, so its logits differ from ours by as much).
Needs: llama-cpp-python, numpy. Usage:

    cargo run --release -p milpa-model --example export_check -- DIR
    python reference/llama_cpp_check.py DIR
"""
import json
import sys
from pathlib import Path

import llama_cpp
import numpy as np


def check(path, expected):
    ours, exact = np.array(expected["gguf_logits"]), np.array(expected["logits"])
    errors = np.abs(ours - exact).max(1)
    error = float(errors.max())
    model = llama_cpp.Llama(model_path=str(path), n_ctx=len(expected["tokens"]), logits_all=True, n_threads=2, verbose=False)
    for entry in expected["texts"]:
        text = entry["text"].encode()
        for special, ids in ((False, entry["plain"]), (True, entry["special"])):
            found = model.tokenize(text, add_bos=False, special=special)
            assert found == ids, (entry["text"], special, found, ids)
    model.eval(expected["tokens"])
    theirs = np.array(model.scores[: len(expected["tokens"])])[:, : ours.shape[1]]
    difference = float(np.abs(theirs - ours).max())
    ranked = np.sort(ours, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > errors
    same = theirs.argmax(1) == ours.argmax(1)
    print(f"{path.parent.name}/{path.name}: token ids equal on {len(expected['texts'])} texts; quantisation error {error:.3f}, "
          f"max |difference of logits| {difference:.3f} (largest logit {np.abs(ours).max():.1f}); same top-1 at {int(same[clear].sum())} of {int(clear.sum())} clear "
          f"positions, {int(same.sum())} of {len(same)} in all")
    assert clear.sum() >= len(clear) // 4, "hardly any position is clear: the error is too large to say anything"
    assert same[clear].all()
    assert difference < 3 * error, "more than two roundings of the same size explain"


def main():
    print(f"llama-cpp-python {llama_cpp.__version__}")
    for folder in ("qwen3", "llama"):
        folder = Path(sys.argv[1]) / folder
        expected = json.loads((folder / "expected.json").read_text())
        check(folder / "model-Q8_0.gguf", expected)
    print("llama.cpp agrees")


if __name__ == "__main__":
    main()
