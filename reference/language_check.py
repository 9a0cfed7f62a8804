#!/usr/bin/env python3
"""Measures lingua and whatlang on the texts that Milpa's language identifier was measured on.

  language_check.py DIR   DIR is what the example measure_language wrote (test.tsv, stream.tsv)

A peer knows some of the languages alone. It is measured on the test texts of those that it knows,
where it can be wrong with its own labels only; and on the stream, where every line in a language
that it does not know becomes a false answer. Macrolanguages are compared by their individual code
(`zho` is `cmn`, `nor` is `nob`).

Needs: lingua-language-detector, whatlang-pyo3. No network is used.
"""
import collections
import pathlib
import sys
import time

SAME = {"zho": "cmn", "nor": "nob", "fas": "pes", "est": "ekk", "lav": "lvs", "sqi": "als", "swa": "swh",
        "mon": "khk", "aze": "azj", "ara": "arb", "uzb": "uzn", "msa": "zlm", "yid": "ydd", "nep": "npi", "ori": "ory"}
LARGE = {"spa", "por", "eng"}


def code(label):
    label = label.split("_")[0]
    return SAME.get(label, label)


def rows(path):
    return [line.split("\t", 2) for line in path.read_text().splitlines()]


def lingua_peer():
    from lingua import LanguageDetectorBuilder

    detector = LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models().build()

    def answer(text):
        found = detector.detect_language_of(text)
        return code(found.iso_code_639_3.name.lower()) if found else "und"

    known = {code(language.iso_code_639_3.name.lower()) for language in
             __import__("lingua").Language.all()}
    return answer, known


def whatlang_peer():
    from whatlang import detect

    def answer(text):
        try:
            return code(detect(text).lang)
        except Exception:
            return "und"

    known = ("epo eng rus cmn spa por ita ben fra deu ukr kat ara hin jpn heb yid pol amh jav kor nob dan swe fin tur "
             "nld hun ces ell bul bel mar kan ron slv hrv srp mkd lit lav est tam vie urd tha guj uzb pan aze ind tel "
             "pes mal ori mya nep sin khm tuk aka zul sna afr lat slk cat tgl hye cym")
    return answer, {code(label) for label in known.split()}


def measure(name, answer, known, test, stream):
    hits, false, missed = collections.Counter(), collections.Counter(), collections.Counter()
    ours, size, begin = [], 0, time.process_time()
    for label, milpa, text in test:
        if code(label) in known:
            found = answer(text)
            ours.append((code(label), code(milpa)))
            size += len(text.encode())
            if found == code(label):
                hits[found] += 1
            else:
                false[found] += 1
                missed[code(label)] += 1
    seconds = time.process_time() - begin
    labels = sorted(set(hits) | set(missed))
    f1 = {label: 2 * hits[label] / (2 * hits[label] + false[label] + missed[label]) for label in labels}
    print(f"{name}: knows {len(known)} languages, {len(labels)} of them in the test; macro-F1 over these "
          f"{sum(f1.values()) / len(f1):.4f}, {size / seconds / 1e6:.2f} MB/s")
    wrong = collections.Counter(pair for pair in ours if pair[0] != pair[1])
    right = collections.Counter(label for label, found in ours if label == found)
    errors = collections.Counter()
    for (label, found), count in wrong.items():
        errors[label] += count
        errors[found] += count
    print(f"  Milpa, which may also answer with its other labels, on the same texts: macro-F1 "
          f"{sum(2 * right[label] / (2 * right[label] + errors[label]) for label in labels) / len(labels):.4f}")
    print("  " + ", ".join(f"{label} {f1[label]:.3f}" for label in ("spa", "por", "cat", "glg", "eus", "ita", "ron", "fra", "eng")
                           if label in f1))
    print("  languages compared: " + " ".join(labels))
    # Every tenth line: lingua reads some twenty kB a second.
    large = [(label, text) for label, _, text in stream if label in LARGE][::10]
    rare = [(label, text) for label, _, text in stream if label not in LARGE]
    wrong = collections.Counter(found for label, text in large if (found := answer(text)) not in LARGE | {"und"})
    swallowed = sum(answer(text) in LARGE for _, text in rare)
    print(f"  stream: {sum(wrong.values())} of {len(large)} lines of Spanish, Portuguese and English taken for another "
          f"({100 * sum(wrong.values()) / len(large):.3f} %); {swallowed} of {len(rare)} others taken for one of the three")


def main():
    folder = pathlib.Path(sys.argv[1])
    test, stream = rows(folder / "test.tsv"), rows(folder / "stream.tsv")
    for name, peer in (("whatlang", whatlang_peer), ("lingua", lingua_peer)):
        measure(name, *peer(), test, stream)


if __name__ == "__main__":
    main()
