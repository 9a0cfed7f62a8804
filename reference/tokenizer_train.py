"""Compares our tokenizer training with Hugging Face's BpeTrainer on the same texts.

    pip install tokenizers zstandard
    cargo build --release -p milpa-tokens --example tokens
    python reference/tokenizer_train.py target/release/examples/tokens 1000 texts.jsonl.zst ...

Both train with the pre-split of Qwen 3.5, the special tokens first, all 256 bytes in the alphabet
and a minimal count of 2. Prints the number of differing tokens and merges; exit status 1 if any.
Hugging Face counts in 32 bits and without bounds, so the texts must stay below some hundred MB.
"""

import io
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import zstandard
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def texts(path):
    data = pathlib.Path(path).read_bytes()
    if path.endswith(".zst"):
        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    for line in data.decode().split("\n"):
        if line:
            yield json.loads(line).get("text", "")


def theirs(vocab_size, paths):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    start = time.time()
    tokenizer.train_from_iterator((t for p in paths for t in texts(p)), trainer)
    print(f"tokenizers: {time.time() - start:.2f} s")
    return json.loads(tokenizer.to_str())["model"]


def ours(program, vocab_size, paths):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "tokenizer"
        start = time.time()
        subprocess.run([program, "train", out, str(vocab_size), "2", *paths], check=True)
        print(f"milpa: {time.time() - start:.2f} s with reading")
        return json.loads((out / "tokenizer.json").read_text())["model"]


def main():
    program, vocab_size, *paths = sys.argv[1:]
    a, b = theirs(int(vocab_size), paths), ours(program, int(vocab_size), paths)
    by_id = [sorted(model["vocab"], key=model["vocab"].get) for model in (a, b)]
    merges = [
        [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
        for model in (a, b)
    ]
    wrong = 0
    for name, (x, y) in (("tokens", by_id), ("merges", merges)):
        differing = [i for i, (p, q) in enumerate(zip(x, y)) if p != q]
        count = len(differing) + abs(len(x) - len(y))
        print(f"{name}: {len(x)} theirs, {len(y)} ours, {count} differ")
        for i in differing[:5]:
            print("  ", i, x[i], y[i])
        wrong += count
    print(f"a vocabulary of {len(by_id[0])} tokens and {len(merges[0])} merges: {wrong} differ")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
