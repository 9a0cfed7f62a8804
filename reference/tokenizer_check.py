"""Compares our ids with those of Hugging Face tokenizers for the same tokenizer.json.

    cargo build --release -p milpa-tokens --example tokens
    python reference/tokenizer_check.py target/release/examples/tokens TOKENIZER.json TEXTS.jsonl[.zst] [--special]

TOKENIZER.json may also be a folder with GPT-2's vocab.json and merges.txt. `--special` reads
special tokens in the texts as such. Also decodes the ids and compares the
text. Prints the number of mismatches; exit status 1 if there is any.
"""

import json
import pathlib
import subprocess
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tokenizer_train import texts


def load(path, special):
    if path.is_dir() and not (path / "tokenizer.json").exists():
        vocab = json.loads((path / "vocab.json").read_text())
        merges = [
            tuple(line.split(" "))
            for line in (path / "merges.txt").read_text().split("\n")
            if line and not line.startswith("#version")
        ]
        tokenizer = Tokenizer(models.BPE(vocab, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<|endoftext|>"])
    else:
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
    tokenizer.encode_special_tokens = not special
    return tokenizer


def main():
    special = "--special" in sys.argv
    program, tokenizer_path, file = [a for a in sys.argv[1:] if a != "--special"]
    tokenizer = load(pathlib.Path(tokenizer_path), special)
    normalizer = tokenizer.normalizer
    documents = tokens = wrong_ids = wrong_texts = 0
    mode = "special-ids" if special else "ids"
    done = subprocess.run([program, mode, tokenizer_path, file], check=True, capture_output=True)
    for text, ids in zip(texts(file), done.stdout.decode().splitlines(), strict=True):
        ours = json.loads(ids)
        theirs = tokenizer.encode(text, add_special_tokens=False).ids
        documents += 1
        tokens += len(theirs)
        if theirs != ours:
            wrong_ids += 1
            if wrong_ids <= 5:
                at = next(
                    (i for i, (x, y) in enumerate(zip(theirs, ours)) if x != y),
                    min(len(theirs), len(ours)),
                )
                print("mismatch", documents, "at token", at, theirs[at : at + 8], ours[at : at + 8])
                print("   ", repr(tokenizer.decode(theirs[max(0, at - 4) : at + 8])))
        plain = normalizer.normalize_str(text) if normalizer else text
        wrong_texts += tokenizer.decode(ours, skip_special_tokens=False) != plain
    print(f"{documents} texts, {tokens} tokens: {wrong_ids} with other ids, {wrong_texts} decoded otherwise")
    sys.exit(1 if wrong_ids or wrong_texts else 0)


if __name__ == "__main__":
    main()
