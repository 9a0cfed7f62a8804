#!/usr/bin/env python3
"""Holds the n-gram model against KenLM, and its estimation against the formulas written out plainly.

  ngram_check.py check OURS DATA OUT   OURS is the built example measure_ngram_model, DATA the folder
                                       of the shared data, OUT an empty folder. Estimates a 5-gram
                                       model of three novels, loads its ARPA file with KenLM, and
                                       compares the log10 of each sentence of a novel not seen (to 1e-4
                                       relative); compares the estimates for a smaller text with a slow
                                       exact implementation of modified Kneser-Ney here (and with
                                       KenLM's `lmplz`, if LMPLZ names it); times both, in turns
  ngram_check.py golden OUT            writes a small ARPA file estimated by the slow implementation
                                       and KenLM's scores of sentences under it

Needs: kenlm 0.3.0 (its wheel is built from C++), zstandard. No network is used.
"""
import collections
import io
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time

ORDER = 5


def sentences(path, count, skip=0):
    """One sentence a line of some of the documents, as plain lower-case words."""
    import zstandard

    lines = []
    with zstandard.open(path, "rt", encoding="utf-8") as rows:
        for number, row in enumerate(rows):
            if skip <= number < skip + count:
                for sentence in re.split(r"[.!?\n]+", json.loads(row)["text"]):
                    words = re.findall(r"\w+", sentence.lower())
                    if words:
                        lines.append(" ".join(words))
    return lines


def kneser_ney(lines, order):
    """Interpolated modified Kneser-Ney (Chen and Goodman 1998, equations 26 to 29), in plain loops:
    {n-gram: (log10 p, log10 backoff)}."""
    occurrences = [collections.Counter() for _ in range(order)]
    for line in lines:
        words = ["<s>", *line.split(), "</s>"]
        for length in range(1, order + 1):
            for at in range(len(words) - length + 1):
                occurrences[length - 1][tuple(words[at:at + length])] += 1
    counts = []
    for length in range(1, order + 1):
        if length == order:
            counts.append(dict(occurrences[length - 1]))
            continue
        before = collections.defaultdict(set)
        for ngram in occurrences[length]:
            before[ngram[1:]].add(ngram[0])
        counts.append({ngram: count if ngram[0] == "<s>" else len(before[ngram])
                       for ngram, count in occurrences[length - 1].items()})
    counts[0][("<s>",)] = 0
    counts[0][("<unk>",)] = 0
    # The longest n-grams start inside the sentence or at its beginning; both have plain counts.
    model, lower = {}, None
    for length in range(1, order + 1):
        level = counts[length - 1]
        n = collections.Counter(count for count in level.values() if count < 5)
        try:
            y = n[1] / (n[1] + 2 * n[2])
            discount = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
            assert all(n[k] > 0 and 0 <= d <= k for k, d in zip((1, 2, 3), discount))
        except (ZeroDivisionError, AssertionError):
            discount = [0.5, 1.0, 1.5]
        total, left = collections.Counter(), collections.Counter()
        for ngram, count in level.items():
            total[ngram[:-1]] += count
            left[ngram[:-1]] += discount[min(count, 3) - 1] if count else 0
        here = {}
        for ngram, count in level.items():
            context = ngram[:-1]
            shorter = 1 / (len(level) - 1) if length == 1 else lower[ngram[1:]]
            seen = count - (discount[min(count, 3) - 1] if count else 0)
            here[ngram] = (seen + left[context] * shorter) / total[context]
        for context in total:
            if context:
                model[context][1] = math.log10(left[context] / total[context])
        for ngram, probability in here.items():
            model[ngram] = [-99.0 if ngram == ("<s>",) else math.log10(probability), 0.0]
        lower = here
    return model


def write_arpa(model, order, out):
    levels = [sorted(ngram for ngram in model if len(ngram) == length) for length in range(1, order + 1)]
    out.write("\\data\\\n")
    for length, level in enumerate(levels, 1):
        out.write(f"ngram {length}={len(level)}\n")
    for length, level in enumerate(levels, 1):
        out.write(f"\n\\{length}-grams:\n")
        for ngram in level:
            probability, backoff = model[ngram]
            tail = f"\t{backoff:.7g}" if length < order else ""
            out.write(f"{probability:.7g}\t{' '.join(ngram)}{tail}\n")
    out.write("\n\\end\\\n")


def read_arpa(path):
    model, inside = {}, False
    for line in path.read_text().splitlines():
        if line.startswith("\\"):
            inside = line.endswith("-grams:")
        elif inside and line:
            fields = line.split("\t")
            model[tuple(fields[1].split(" "))] = (float(fields[0]), float(fields[2]) if len(fields) > 2 else 0.0)
    return model


def compare_models(name, ours, theirs):
    assert ours.keys() == theirs.keys(), (name, len(ours), len(theirs))
    worst = 0.0
    for ngram, numbers in theirs.items():
        if ngram != ("<s>",):
            worst = max(worst, abs(ours[ngram][0] - numbers[0]) / max(1.0, abs(numbers[0])))
        # -0.0 and 0.0 are one.
        worst = max(worst, abs(ours[ngram][1] - numbers[1]) / max(1.0, abs(numbers[1])))
    print(f"{name}: {len(theirs)} n-grams, largest relative difference {worst:.1e}")
    assert worst < 1e-4, name


def check(ours, data, out):
    import kenlm

    out.mkdir(parents=True, exist_ok=True)
    run = lambda *words: subprocess.run([ours, *map(str, words)], check=True, capture_output=True, text=True).stdout
    novels = data / "text/es_novels_a.jsonl.zst"
    small, large, test = out / "small.txt", out / "large.txt", out / "test.txt"
    small.write_text("\n".join(sentences(novels, 1)[:3000]) + "\n")
    large.write_text("\n".join(sentences(novels, 12)) + "\n")
    test.write_text("\n".join(sentences(novels, 4, skip=40)) + "\n")

    run("train", small, ORDER, out / "small.arpa", out / "small.model")
    compare_models("estimates against the formulas written out", read_arpa(out / "small.arpa"),
                   kneser_ney(small.read_text().splitlines(), ORDER))
    if "LMPLZ" in os.environ:
        with open(small) as text, open(out / "lmplz.arpa", "w") as arpa:
            subprocess.run([os.environ["LMPLZ"], "-o", str(ORDER)], stdin=text, stdout=arpa, check=True)
        compare_models("estimates against lmplz", read_arpa(out / "small.arpa"), read_arpa(out / "lmplz.arpa"))

    print(run("train", large, ORDER, out / "large.arpa", out / "large.model"), end="")
    run("import", out / "large.arpa", out / "import.model")
    theirs = kenlm.Model(str(out / "large.arpa"))
    lines = test.read_text().splitlines()
    expect = [theirs.score(line) for line in lines]
    for name in ("large", "import"):
        found = [line.split("\t") for line in run("score", out / f"{name}.model", test).splitlines()]
        worst = max(abs(float(row[0]) - value) / abs(value) for row, value in zip(found, expect, strict=True))
        print(f"scores of {len(lines)} unseen sentences ({name}): largest relative difference {worst:.1e}")
        assert worst < 1e-4
        perplexity = 10 ** (-sum(float(row[0]) for row in found) / sum(int(row[1]) for row in found))
        theirs_perplexity = 10 ** (-sum(expect) / sum(len(line.split()) + 1 for line in lines))
        print(f"perplexity {perplexity:.3f}, KenLM's {theirs_perplexity:.3f}")

    # In turns, the best of each, in time of a core: what else runs on the machine slows both.
    best, rate = math.inf, 0.0
    words = sum(len(line.split()) + 1 for line in lines)
    for _ in range(5):
        begin = time.thread_time()
        for line in lines:
            theirs.score(line)
        best = min(best, time.thread_time() - begin)
        timed = json.loads(run("time", out / "large.model", test))
        rate = max(rate, timed["words_per_second"])
    print(f"{rate / 1e6:.2f} million words/s, KenLM's probing model through Python {words / best / 1e6:.2f}: "
          f"ratio {rate * best / words:.2f}; file {timed['bytes'] / 1e6:.1f} MB")


def golden(out):
    import kenlm

    text = ("la milpa da maíz y frijol\nel maíz crece en la milpa\nla calabaza crece entre el maíz\n"
            "el frijol sube por el maíz\nla tierra da lo que la lluvia deja\nen la milpa crece la calabaza\n"
            "la lluvia llega en mayo\nel agua corre por la tierra\n")
    lines = text.splitlines()
    arpa = io.StringIO()
    write_arpa(kneser_ney(lines, 4), 4, arpa)
    out.mkdir(parents=True, exist_ok=True)
    (out / "ngram.arpa").write_text(arpa.getvalue())
    model = kenlm.Model(str(out / "ngram.arpa"))
    tests = [*lines, "el maíz crece entre la calabaza", "la lluvia da agua", "quinua en la sierra", "xyz", ""]
    scores = [{"sentence": line, "log10": model.score(line),
               "words": [[round(p, 6), n] for p, n, _ in model.full_scores(line)]} for line in tests]
    (out / "ngram.json").write_text(json.dumps({"training": lines, "scores": scores}, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"] and len(sys.argv) == 5:
        check(sys.argv[2], pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[4]))
    elif sys.argv[1:2] == ["golden"] and len(sys.argv) == 3:
        golden(pathlib.Path(sys.argv[2]))
    else:
        sys.exit(__doc__)
