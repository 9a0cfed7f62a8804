#!/usr/bin/env python3
"""Trains the trees that tell a page's text from the rest (crates/milpa-corpus/src/extract).

    cargo run --release -p milpa-corpus --example extraction_features -- OUT FILE.jsonl.zst...
    python3 reference/extraction_train.py OUT --train NAME... [--check] [--write FOLDER]

OUT is what the example wrote. A block's label is the share of its words that stand, in order, in
the page's text as people marked it. Pages of the files whose names contain one of NAME train; all
others are held out and only measured. --check prints five-fold cross-validation over the pages of
all files (no page is measured by trees that saw a page of its site): the figure to quote, as the
committed trees saw all pages. --write puts `model.bin`, `article.bin` and `model_golden.json` (rows
with LightGBM's own scores) into FOLDER.

Two sets of trees: one scores blocks; the other tells articles from other pages, as on an article
the rules (the column CHOSEN) are trusted more. It is trained on what the first one says of pages
that it did not see.
Needs lightgbm and numpy.
"""
import argparse
import collections
import json
import re
import struct
import urllib.parse

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
ARTICLE_PARAMETERS = {
    "objective": "binary", "learning_rate": 0.08, "num_leaves": 4, "min_data_in_leaf": 10,
    "lambda_l2": 5.0, "feature_fraction": 0.5, "verbose": -1, "seed": 3, "deterministic": True,
    "force_row_wise": True, "num_threads": 1,
}
ARTICLE_ROUNDS = 80
FOLDS = 5
# As in features.rs: the rules' choice, and what holds for the page as a whole.
CHOSEN = 115
PAGE = slice(135, 154)
# As in main_content.rs: blocks with so many words are kept once; the share of the best F1 that a
# block must likely reach; what the rules are worth on an article, in log-odds; runs of words that
# are compared, and the share of them that makes a copy.
LONG = 12
CARE = 0.9
TRUST = 3.0
RUN = 5
COPY = 0.8


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
        self.parents = row["parents"]
        self.texts = row["blocks"]
        runs = [words(text) for text in row["blocks"]]
        self.runs = [{tuple(text[at:at + RUN]) for at in range(len(text) - RUN + 1)}
                     if len(text) >= LONG else set() for text in runs]
        self.rules = self.x[:, CHOSEN] > 0 if len(self.x) else numpy.zeros(0, dtype=bool)
        wanted = max(1, sum(self.gold.values()))
        # Each page counts alike; within it a block counts by its words.
        self.w = (self.words + 1.0) / (wanted + 0.5 * self.words.sum() + 50) * 100

    def best_copies(self, scores):
        """For each block whether it is short, the likeliest with its text, or beside that one."""
        best = {}
        for at, text in enumerate(self.texts):
            if text not in best or scores[at] > scores[best[text]]:
                best[text] = at
        return numpy.array([
            self.words[at] < LONG or self.parents[at] == self.parents[best[text]]
            for at, text in enumerate(self.texts)], dtype=bool)

    def choose(self, scores):
        """The blocks that Milpa would keep: those above half of the F1 to be expected."""
        kept = self.best_copies(scores)
        if not len(scores):
            return kept
        weights = self.words * kept
        order = numpy.argsort(-scores, kind="stable")
        hits = numpy.cumsum((scores * weights)[order])
        sizes = numpy.cumsum(weights[order]) + (scores * weights).sum()
        best = (2 * hits / numpy.maximum(sizes, 1e-9)).max()
        kept &= scores >= CARE * best / 2
        # What was said before in other words' order of blocks: a page's text as one block again.
        said = {}
        for at in numpy.flatnonzero(kept):
            runs, parent = self.runs[at], self.parents[at]
            again = sum(said.get(run, parent) != parent for run in runs)
            if runs and again >= COPY * len(runs):
                kept[at] = False
            else:
                for run in runs:
                    said.setdefault(run, parent)
        return kept

    def article_row(self, scores):
        """What is known of the page when its blocks are scored."""
        if not len(scores):
            return numpy.zeros(PAGE.stop - PAGE.start + 6, dtype=numpy.float32)
        kept, likely = self.choose(scores), scores * self.words
        words = self.words

        def expected(choice):
            return 2 * likely[choice].sum() / max(1e-9, words[choice].sum() + likely.sum())

        both = 2 * words[kept & self.rules].sum()
        return numpy.concatenate([self.x[0, PAGE], [
            expected(kept), expected(self.rules),
            both / max(1, words[kept].sum() + words[self.rules].sum()),
            numpy.log1p(words[kept].sum()), numpy.log1p(words[self.rules].sum()),
            self.rules.sum()]]).astype(numpy.float32)

    def trusting(self, scores, article):
        """The scores with the rules' opinion added, the more the likelier an article it is."""
        clipped = numpy.clip(scores, 1e-6, 1 - 1e-6)
        trust = TRUST * max(0.0, 2 * article - 1)
        odds = numpy.log(clipped / (1 - clipped)) + trust * (2.0 * self.rules - 1)
        return 1 / (1 + numpy.exp(-odds))

    def site(self):
        """The last parts of the host's name, as many as make a site."""
        host = (urllib.parse.urlsplit(self.url).hostname or self.url).lower().split(".")
        second_level = len(host) >= 3 and len(host[-1]) == 2 and len(host[-2]) <= 3
        return ".".join(host[-3 if second_level else -2:])

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


def train_articles(rows, pages):
    data = lightgbm.Dataset(numpy.array(rows), numpy.array([p.type == "article" for p in pages]))
    return lightgbm.train(ARTICLE_PARAMETERS, data, ARTICLE_ROUNDS)


def folds_of(pages):
    """The fold of each page: pages of one site in one, files and types spread evenly."""
    sites = collections.defaultdict(list)
    for page in pages:
        sites[page.site()].append(page)
    counts = [collections.Counter() for _ in range(FOLDS)]
    fold_of = {}
    for site, own in sorted(sites.items(), key=lambda item: (-len(item[1]), item[0])):
        kind = own[0].file, own[0].type
        fold = min(range(FOLDS), key=lambda f: (counts[f][kind], counts[f].total(), f))
        counts[fold][kind] += len(own)
        fold_of[site] = fold
    return numpy.array([fold_of[page.site()] for page in pages])


def cross_validate(pages):
    """For each page the scores of trees that saw no page of its site, without and with the rules'
    opinion; and what the trees for articles are trained on."""
    folds, scores, trusting = folds_of(pages), [None] * len(pages), [None] * len(pages)
    for fold in range(FOLDS):
        model = train([page for page, own in zip(pages, folds) if own != fold])
        for at in numpy.flatnonzero(folds == fold):
            scores[at] = model.predict(pages[at].x)
    rows = [page.article_row(s) for page, s in zip(pages, scores)]
    for fold in range(FOLDS):
        inside = numpy.flatnonzero(folds != fold)
        model = train_articles([rows[at] for at in inside], [pages[at] for at in inside])
        for at in numpy.flatnonzero(folds == fold):
            article = model.predict(rows[at][None])[0]
            trusting[at] = pages[at].trusting(scores[at], article)
    return scores, trusting, rows


def pack(model):
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
    return out


def write(model, articles, folder, pages):
    for name, trees in [("model.bin", model), ("article.bin", articles)]:
        with open(f"{folder}/{name}", "wb") as file:
            file.write(pack(trees))
    rows = [page.x[at] for page in pages[:6] for at in range(0, len(page.x), 40)][:20]
    scores = model.predict(numpy.array(rows), raw_score=True)
    golden = [{"row": [round(float(v), 6) for v in row], "score": float(s)}
              for row, s in zip(rows, scores)]
    golden = [g | {"score": float(model.predict(numpy.array([g["row"]], dtype=numpy.float32),
                                               raw_score=True)[0])} for g in golden]
    with open(f"{folder}/model_golden.json", "w", encoding="utf-8") as file:
        json.dump(golden, file, separators=(",", ":"))


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
    if options.check or options.write:
        scores, trusting, rows = cross_validate(pages)
        report("five folds, blocks alone", pages, [p.choose(s) for p, s in zip(pages, scores)])
        report("five folds", pages, [p.choose(s) for p, s in zip(pages, trusting)])
    if options.train:
        model = train([p for p in pages if any(name in p.file for name in options.train)])
        scores = [model.predict(page.x) for page in pages]
        if options.write:
            articles = train_articles(rows, pages)
            write(model, articles, options.write, pages)
            likely = articles.predict(numpy.array([p.article_row(s) for p, s in zip(pages, scores)]))
            scores = [p.trusting(s, a) for p, s, a in zip(pages, scores, likely)]
        kept = [page.choose(s) for page, s in zip(pages, scores)]
        report(f"trained on {options.train}", pages, kept)


if __name__ == "__main__":
    main()
