#!/usr/bin/env python3
"""Holds what shows a training while it runs against the programs that read it.

Trains the model of milpa's own tests with the given binary, kills it half-way, goes on, and checks:
  - while it runs, prometheus_client parses the answer of a GET of /metrics in both of its formats' strictness:
    names, types, labels, and a counter for each name that ends in _total;
  - tbparse and TensorBoard's own reader find in train/tensorboard each step of metrics.jsonl once, in order,
    with the same values to f32, although the run was cut and went on.
Needs: tensorboard, tbparse, prometheus_client. Usage:

    cargo build --release -p milpa
    python reference/watch_check.py target/release/milpa
"""
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tbparse import SummaryReader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

STEPS = 3000
RECIPE = """
name = "huerta"
seed = 3
[corpus]
validation = { share = 0.1 }
dedup = { near = { enabled = false } }
[[corpus.sources]]
name = "uno"
path = "uno.jsonl"
language = "spa"
licence = "CC0-1.0"
filters = "none"
[[corpus.sources]]
name = "a \\\\ b"
path = "dos.jsonl"
language = "spa"
licence = "CC0-1.0"
filters = "none"
[tokenizer]
vocab_size = 320
[model]
hidden_size = 32
layers = 2
heads = 4
kv_heads = 2
ffn_size = 64
context_length = 64
[train]
steps = "%d steps"
sequence_length = 32
batch_size = 4
checkpoint_every = "500 steps"
validate_every = "250 steps"
validation_sequences = 4
schedule = { kind = "cosine", warmup = "20 steps" }
optimizer = { kind = "muon", learning_rate = 0.02, embedding_learning_rate = 0.01 }
[eval]
perplexity = { max_bytes_per_source = "4 KiB" }
[package]
licence = "CC0-1.0"
""" % STEPS


def texts(path, begin):
    lines = []
    for document in range(begin, begin + 24):
        words = [f"El maíz número {document * 31 + at} crece en el valle del año {1800 + document + at}." for at in range(14)]
        lines.append(json.dumps({"id": str(document), "text": " ".join(words)}, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n")


def metrics(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = answer.read().decode()
    families = list(text_string_to_metric_families(text))
    for family in families:
        assert re.fullmatch(r"milpa_[a-z0-9_]+", family.name), family.name
        assert family.type in ("gauge", "counter") and family.documentation, family
        # The parser takes the suffix of a counter off.
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample
    return {(s.name, tuple(s.labels.items())): s.value for f in families for s in f.samples}


def f32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def main():
    milpa = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts(folder / "uno.jsonl", 0)
        texts(folder / "dos.jsonl", 100)
        (folder / "recipe.toml").write_text(RECIPE)
        say = lambda *words: subprocess.run([milpa, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        say("corpus", "build", ".", "--out", "corpus")
        say("tokens", "train", ".", "--corpus", "corpus", "--out", "tokenizer")
        say("tokens", "encode", ".", "--corpus", "corpus", "--tokenizer", "tokenizer", "--out", "tokens")
        train = [milpa, "train", ".", "--tokenizer", "tokenizer", "--tokens", "tokens", "--out", "train", "--metrics-address", "127.0.0.1:0"]
        child = subprocess.Popen(train, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        line = next(line for line in child.stderr if "metrics for Prometheus" in line)
        address = re.search(r"http://(.*)/metrics", line)[1]
        while True:
            seen = metrics(address)
            if seen.get(("milpa_train_step", ()), 0) > STEPS * 0.4:
                break
            time.sleep(0.1)
        assert ("milpa_train_data_share_ratio", (("source", "a \\ b"),)) in seen, seen
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        say(*train[1:-2])

        lines = [json.loads(line) for line in (folder / "train/metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if line["kind"] == "step"]
        assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
        events = folder / "train/tensorboard"
        scalars = SummaryReader(str(events)).scalars
        accumulator = EventAccumulator(str(events), size_guidance={"scalars": 0})
        accumulator.Reload()
        compared = 0

        def same(tag, expect):
            nonlocal compared
            of_tag = scalars[scalars["tag"] == tag]
            by_tbparse = list(zip(of_tag["step"], of_tag["value"]))
            by_tensorboard = [(event.step, event.value) for event in accumulator.Scalars(tag)]
            expect = [(step, f32(value)) for step, value in expect]
            assert by_tbparse == expect, (tag, by_tbparse[:3], expect[:3])
            assert by_tensorboard == expect, (tag, by_tensorboard[:3], expect[:3])
            compared += len(expect)

        for tag, key in [("train/loss", "loss"), ("train/learning_rate", "learning_rate"), ("train/gradient_norm", "gradient_norm"),
                         ("speed/tokens_per_second", "tokens_per_second"), ("speed/mfu", "mfu"), ("memory/peak_bytes", "memory_bytes")]:
            same(tag, [(line["step"], line[key]) for line in steps])
        for line_kind, key, name in [("validation", "bits_per_byte", "validation_bits_per_byte"), ("validation", "loss", "validation_loss")]:
            of_kind = [line for line in lines if line["kind"] == line_kind]
            for source in of_kind[0][key]:
                same(f"{name}/{source}", [(line["step"], line[key][source]) for line in of_kind])
        data = [line for line in lines if line["kind"] == "data"]
        for source in data[0]["tokens"]:
            shares = [(line["step"], line["tokens"].get(source, 0) / sum(line["tokens"].values())) for line in data]
            same(f"data_share/{source}", shares)
        times = [event.wall_time for event in accumulator.Scalars("train/loss")]
        assert all(a <= b for a, b in zip(times, times[1:])) and abs(times[-1] - time.time()) < 600
        print(f"{len(seen)} samples of /metrics parsed; {compared} values of {len(accumulator.Tags()['scalars'])} tags, {STEPS} steps once each")


main()
