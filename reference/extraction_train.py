#!/usr/bin/env python3
"""Trains the trees that tell a page's text from the rest (crates/milpa-corpus/src/extract).

    cargo run --release -p milpa-corpus --example extraction_features -- OUT FILE.jsonl.zst...
    python3 reference/extraction_train.py OUT --train NAME... [--check] [--write FOLDER]

OUT is what the example wrote. A block's label is the share of its words that stand, in order, in
the page's text as people marked it. Pages of the files whose names contain one of NAME train; all
others are held out and only measured. --check prints five-fold cross-validation over the pages of
all files (no page is measured by trees that saw it): the figure to quote, as the committed trees
saw all pages. --write puts `model.bin` and
`model_golden.json` (rows with LightGBM's own scores) into FOLDER.
Needs lightgbm and numpy.
"""
import argparse
import collections
import json
import re
import struct

import lightgbm
import numpy

WORD = re.compile(r"\w+")
MAGIC = b"MLPTREE1"
PARAMETERS = {
    # Small trees and strong smoothing: the pages are few, and blocks of a page are alike.
    "objective": "cross_entropy", "learning_rate": 0.08, "num_leaves": 8, "max_depth": 4,
    "min_data_in_leaf": 150, "min_sum_hessian_in_leaf": 20.0, "feature_fraction": 0.2,
    "bagging_fraction": 0.6, "bagging_freq": 1, "lambda_l2": 50.0, "max_bin": 31, "verbose": -1,
    "seed": 7, "deterministic": True, "force_row_wise": True, "num_threads": 2,
}
ROUNDS = 120
# As in main_content.rs (but for copies beside one another): blocks with so many words are kept
# once, and the share of the best F1 that
# a block must likely reach.
LONG = 12
CARE = 0.9


def words(text):
    return WORD.findall(text.lower())


def labels(page):
    """For each block the share of its words that the gold text has, in order."""
    gold = words(page["gold"])
    joined = " " + " ".join(gold) + " "
    lines = {" ".join(words(line)) for line in page["gold"].split("\n")}
    grams = collections.Counter(tuple(gold[at:at + 4]) for at in range(len(gold) - 3))
    blocks = [words(text) for text in page["blocks"]]
    out = []
    for at, block in enumerate(blocks):
        if not block:
            out.append(0.0)
        elif len(block) >= 8:
            found = [tuple(block[i:i + 4]) in grams for i in range(len(block) - 3)]
            covered = [any(found[max(0, i - 3):i + 1]) for i in range(len(block))]
            out.append(sum(covered) / len(block))
        else:
            text = " ".join(block)
            before = " ".join(blocks[at - 1][-2:]) if at else ""
            after = " ".join(blocks[at + 1][:2]) if at + 1 < len(blocks) else ""
            near = (before and f" {before} {text} " in joined) or (
                after and f" {text} {after} " in joined)
            whole = len(block) >= 3 and f" {text} " in joined
            out.append(float(bool(near or whole or text in lines)))
    return numpy.array(out, dtype=numpy.float32), numpy.array([len(b) for b in blocks])


class Page:
    def __init__(self, row, numbers):
        self.file, self.type, self.url = row["file"], row["type"], row["url"]
        self.x = numbers
        self.y, self.words = labels(row)
        self.gold = collections.Counter(words(row["gold"]))
        self.bags = [collections.Counter(words(text)) for text in row["blocks"]]
        seen = set()
        self.first = numpy.array([
            words < LONG or not (text in seen or seen.add(text))
            for words, text in zip(self.words, row["blocks"])], dtype=bool)
        wanted = max(1, sum(self.gold.values()))
        # Each page counts alike; within it a block counts by its words.
        self.w = (self.words + 1.0) / (wanted + 0.5 * self.words.sum() + 50) * 100

    def choose(self, scores):
        """The blocks that Milpa would keep: those above half of the F1 to be expected."""
        if not len(scores):
            return self.first
        weights = self.words * self.first
        order = numpy.argsort(-scores, kind="stable")
        hits = numpy.cumsum((scores * weights)[order])
        sizes = numpy.cumsum(weights[order]) + (scores * weights).sum()
        best = (2 * hits / numpy.maximum(sizes, 1e-9)).max()
        return (scores >= CARE * best / 2) & self.first

    def f1(self, kept):
        found = collections.Counter()
        for bag, keep in zip(self.bags, kept):
            if keep:
                found.update(bag)
        total = sum(found.values()) + sum(self.gold.values())
        return 1.0 if not total else 2 * sum((found & self.gold).values()) / total


def read(out):
    pages, numbers, at = [], numpy.fromfile(out + ".f32", dtype="<f4"), 0
    with open(out + ".jsonl", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            size = len(row["blocks"]) * row["features"]
            pages.append(Page(row, numbers[at:at + size].reshape(-1, row["features"])))
            at += size
    assert at == len(numbers), "the two files are not of one run"
    return pages


def train(pages):
    data = lightgbm.Dataset(
        numpy.concatenate([page.x for page in pages]),
        numpy.concatenate([page.y for page in pages]),
        weight=numpy.concatenate([page.w for page in pages]))
    return lightgbm.train(PARAMETERS, data, ROUNDS)


def report(title, pages, kept):
    groups = collections.defaultdict(list)
    for page, keep in zip(pages, kept):
        value = page.f1(keep)
        groups[page.file, ""].append(value)
        groups[page.file, page.type].append(value)
    print(title)
    for (file, kind), values in sorted(groups.items()):
        print(f"  {file:24} {kind:14} {sum(values) / len(values):.4f} of {len(values)}")


def cross_validate(pages, folds=5):
    scores = [None] * len(pages)
    for fold in range(folds):
        model = train([p for at, p in enumerate(pages) if at % folds != fold])
        for at in range(fold, len(pages), folds):
            scores[at] = model.predict(pages[at].x)
    return scores


def write(model, folder, pages):
    dump = model.dump_model()
    out = bytearray(MAGIC)
    out += struct.pack("<HH", len(dump["tree_info"]), dump["max_feature_idx"] + 1)
    for tree in dump["tree_info"]:
        nodes = []

        def add(node):
            at = len(nodes)
            nodes.append(None)
            if "leaf_value" in node:
                nodes[at] = (0xFFFF, node["leaf_value"], 0, 0)
            else:
                assert node["decision_type"] == "<="
                left = add(node["left_child"])
                right = add(node["right_child"])
                nodes[at] = (node["split_feature"], node["threshold"], left, right)
            return at
        add(tree["tree_structure"])
        out += struct.pack("<H", len(nodes))
        for feature, value, left, right in nodes:
            # Values of features are f32: a threshold rounds down to keep `<=` the same.
            narrow = numpy.float32(value)
            if feature != 0xFFFF and narrow > value:
                narrow = numpy.nextafter(narrow, numpy.float32(-numpy.inf))
            out += struct.pack("<HfHH", feature, narrow, left, right)
    with open(f"{folder}/model.bin", "wb") as file:
        file.write(out)
    rows = [page.x[at] for page in pages[:6] for at in range(0, len(page.x), 40)][:20]
    scores = model.predict(numpy.array(rows), raw_score=True)
    golden = [{"row": [round(float(v), 6) for v in row], "score": float(s)}
              for row, s in zip(rows, scores)]
    golden = [g | {"score": float(model.predict(numpy.array([g["row"]], dtype=numpy.float32),
                                               raw_score=True)[0])} for g in golden]
    with open(f"{folder}/model_golden.json", "w", encoding="utf-8") as file:
        json.dump(golden, file, separators=(",", ":"))
    print(f"{len(out)} bytes, {len(dump['tree_info'])} trees")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--train", nargs="*", default=[])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write")
    options = parser.parse_args()
    pages = read(options.out)
    print(f"{len(pages)} pages, {sum(len(p.x) for p in pages)} blocks of {pages[0].x.shape[1]}")
    report("if every label were met", pages, [page.y >= 0.5 for page in pages])
    if options.check:
        scores = cross_validate(pages)
        report("five folds", pages, [page.choose(s) for page, s in zip(pages, scores)])
    if options.train:
        inside = [p for p in pages if any(name in p.file for name in options.train)]
        model = train(inside)
        scores = [model.predict(page.x) for page in pages]
        kept = [page.choose(s) for page, s in zip(pages, scores)]
        report(f"trained on {options.train}", pages, kept)
        if options.write:
            write(model, options.write, pages)


if __name__ == "__main__":
    main()
