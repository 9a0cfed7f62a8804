"""Measures encoding of Spanish text on one thread: ours, Hugging Face tokenizers, sentencepiece.

    pip install -r reference/requirements.txt
    cargo build --release -p milpa-tokens --example tokens
    python reference/tokenizer_speed.py target/release/examples/tokens DATA SCRATCH [KIND ...]

DATA is the folder that the tests find through MILPA_DATA. Unigram and BPE models are trained by
sentencepiece on the novels `es_novels_b`; what is measured are documents of about 4 kB of other
novels and of laws. They are kept in SCRATCH, so that a second run only measures.

Each row is one tokenizer file and one peer, both in their fastest mode (`encode_batch_fast`,
`encode_as_numpy`; one thread), after a pass that fills caches. Rounds take turns; the median counts.
`other ids` is the number of documents with other ids than the peer's. KIND chooses rows by the
beginning of their name.
"""

import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import sentencepiece
import tokenizers
import zstandard
from tokenizers import Tokenizer

from pieces_golden import bert, unigram_json
from tokenizer_check import load

ROUNDS = 7
DOCUMENT_CHARACTERS = 4000
BYTES_OF_EACH = 2_000_000


def paragraphs(path):
    data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes())).read()
    for line in data.decode().split("\n"):
        if line:
            yield from json.loads(line)["text"].split("\n")


def documents(path, limit):
    """Paragraphs put together to documents, of `limit` bytes in all."""
    made, document, size = [], [], 0
    for paragraph in paragraphs(path):
        # One norm has a table of 300 kB in one line.
        document.append(paragraph[:DOCUMENT_CHARACTERS])
        if sum(map(len, document)) >= DOCUMENT_CHARACTERS:
            made.append("\n".join(document))
            size += len(made[-1].encode())
            document = []
        if size >= limit:
            break
    return made


def prepare(data, scratch):
    """The texts, and trained models, in SCRATCH."""
    scratch.mkdir(parents=True, exist_ok=True)
    texts = scratch / "texts.jsonl"
    if not texts.exists():
        made = [d for n in ("es_novels_a", "es_law_peru") for d in documents(data / f"text/{n}.jsonl.zst", BYTES_OF_EACH)]
        texts.write_text("".join(json.dumps({"text": d}, ensure_ascii=False) + "\n" for d in made))
    for kind, size in (("unigram", 8000), ("unigram", 32000), ("bpe", 32000)):
        if not (scratch / f"{kind}_{size}.model").exists():
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(p for p in paragraphs(data / "text/es_novels_b.jsonl.zst") if p),
                model_prefix=f"{scratch}/{kind}_{size}", model_type=kind, vocab_size=size, num_threads=2,
                input_sentence_size=60_000, max_sentence_length=20_000, shuffle_input_sentence=True, minloglevel=2,
            )  # fmt: skip
    for size in (8000, 32000):
        file = unigram_json((scratch / f"unigram_{size}.model").read_bytes(), "always")
        (scratch / f"unigram_{size}.json").write_text(json.dumps(file))
    (scratch / "bert.json").write_text(json.dumps(bert(data)))
    return [json.loads(line)["text"] for line in texts.read_text().split("\n") if line]


def rows(data, scratch):
    """Name, file, and which peer reads it."""
    published = data / "tokenizers"
    return [
        ("Unigram .model 8,000", scratch / "unigram_8000.model", "sentencepiece"),
        ("Unigram .model 32,000", scratch / "unigram_32000.model", "sentencepiece"),
        ("Unigram json 8,000", scratch / "unigram_8000.json", "tokenizers"),
        ("Unigram json 32,000", scratch / "unigram_32000.json", "tokenizers"),
        ("SentencePiece BPE 32,000", scratch / "bpe_32000.model", "sentencepiece"),
        ("SentencePiece BPE Mistral", published / "mistral/tokenizer.model.v1", "sentencepiece"),
        ("SentencePiece BPE Mistral json", published / "mistral/tokenizer.model.v1", "tokenizers"),
        ("byte-level BPE GPT-2", published / "gpt2", "tokenizers"),
        ("byte-level BPE OLMo 2", published / "olmo/allenai_dolma2.json", "tokenizers"),
        ("WordPiece BERT", scratch / "bert.json", "tokenizers"),
    ]


class Ours:
    """The example `tokens`, which makes one pass for each line that it reads."""

    def __init__(self, program, tokenizer, texts):
        self.command, self.tokenizer, self.texts = program, tokenizer, texts
        self.process = subprocess.Popen(
            [program, "speed", tokenizer, texts], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def seconds(self):
        print(file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())["seconds"]

    def ids(self):
        done = subprocess.run([self.command, "ids", self.tokenizer, self.texts], check=True, capture_output=True)
        return [json.loads(line) for line in done.stdout.decode().splitlines()]


class Theirs:
    def __init__(self, program, peer, tokenizer, texts, scratch):
        self.texts = texts
        if peer == "sentencepiece":
            model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
            self.encode = lambda: [model.encode_as_numpy(text) for text in texts]
            self.to_ids = lambda made: [ids.tolist() for ids in made]
            return
        if ".model" in tokenizer.name:
            # Hugging Face reads what we write of it.
            json_path = scratch / f"{tokenizer.name}.json"
            subprocess.run([program, "json", tokenizer, json_path], check=True)
            tokenizer = json_path
        model = load(tokenizer, False)
        self.encode = lambda: model.encode_batch_fast(texts, add_special_tokens=False)
        self.to_ids = lambda made: [encoding.ids for encoding in made]

    def seconds(self):
        start = time.perf_counter()
        made = self.encode()
        seconds = time.perf_counter() - start
        del made
        return seconds

    def ids(self):
        return self.to_ids(self.encode())


def main():
    program, data, scratch, *kinds = sys.argv[1:]
    data, scratch = pathlib.Path(data), pathlib.Path(scratch)
    texts = prepare(data, scratch)
    size = sum(len(text.encode()) for text in texts)
    print(f"tokenizers {tokenizers.__version__}, sentencepiece {sentencepiece.__version__}, one thread, "
          f"{len(texts)} documents, {size} bytes, {ROUNDS} rounds in turns, MB/s: median (slowest to fastest)")
    print(f"{'tokenizer':<31} {'ours':>20}   {'peer':<13} {'its speed':>19} {'ratio':>6} {'other ids':>10}")
    for name, tokenizer, peer in rows(data, scratch):
        if kinds and not any(name.startswith(kind) for kind in kinds):
            continue
        both = [Ours(program, tokenizer, scratch / "texts.jsonl"), Theirs(program, peer, tokenizer, texts, scratch)]
        for one in both:
            one.seconds()
        speeds = [sorted(size / s / 1e6 for s in column) for column in zip(*([one.seconds() for one in both] for _ in range(ROUNDS)))]
        other = sum(a != b for a, b in zip(*(one.ids() for one in both), strict=True))
        shown = [f"{statistics.median(s):.1f} ({s[0]:.1f} to {s[-1]:.1f})" for s in speeds]
        ratio = statistics.median(speeds[0]) / statistics.median(speeds[1])
        print(f"{name:<31} {shown[0]:>20}   {peer:<13} {shown[1]:>19} {ratio:>6.1f} {other:>10}", flush=True)
        both[0].process.stdin.close()
        both[0].process.wait()


if __name__ == "__main__":
    main()
