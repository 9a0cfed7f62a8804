#!/usr/bin/env python3
"""Measures trafilatura's extraction on pages whose text people marked, as Milpa's is measured.

  score FILE...               mean word F1 by type of page, and pages per second; FILE is a
                              `.jsonl.zst` with `html`, `ground_truth.main_content` or
                              `ground_truth.articleBody`, and `page_type`
  documents DATA OUT [COUNT]  writes the pages of DATA/web (WCXB and Zyte) as JSONL, for `time`
  time OURS FILE              extracts all pages of FILE; prints a JSON object

The score is WCXB's: F1 between the multisets of lower-case words (`\\w+`), averaged over pages.
`cargo run --release -p milpa-corpus --example measure_extraction -- FILE...` prints Milpa's in the
same form. trafilatura runs with its defaults and the page's URL.

The best published Rust extractor, rs-trafilatura 0.2.2, is run in a crate of its own outside of
this repository (97 crates, three of them with embedded models, are too many for a comparison):
a program that calls `extract_with_options(html, &Options { url, ..Options::default() })`, takes
`content_text` and scores it in the same way.

Needs: trafilatura, lxml_html_clean, zstandard. No network is used.
"""
import collections
import io
import json
import pathlib
import re
import sys
import time

WORD = re.compile(r"\w+")
FILES = ["wcxb_dev_a.jsonl.zst", "wcxb_dev_b.jsonl.zst", "zyte_dev.jsonl.zst"]


def rows(path):
    if path.suffix == ".zst":
        import zstandard

        with open(path, "rb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(file)
            yield from map(json.loads, io.TextIOWrapper(reader, encoding="utf-8"))
    else:
        with open(path, encoding="utf-8") as file:
            yield from map(json.loads, file)


def gold_of(row):
    truth = row["ground_truth"]
    gold = truth.get("main_content")
    return truth.get("articleBody") if gold is None else gold


def word_f1(found, gold):
    found, gold = (collections.Counter(WORD.findall(text.lower())) for text in (found, gold))
    total = sum(found.values()) + sum(gold.values())
    return 2 * sum((found & gold).values()) / total if total else 1.0


def extracted(row):
    from trafilatura import extract

    return extract(row["html"], url=row.get("url")) or ""


def score(paths):
    for path in paths:
        by_type, seconds = collections.defaultdict(list), 0.0
        for row in rows(path):
            gold = gold_of(row)
            if gold is None:
                continue
            start = time.perf_counter()
            text = extracted(row)
            seconds += time.perf_counter() - start
            by_type[row.get("page_type") or "article"].append(word_f1(text, gold))
        scores = [value for values in by_type.values() for value in values]
        print(f"{path}: mean word F1 {sum(scores) / len(scores):.4f} of {len(scores)} pages, "
              f"{len(scores) / seconds:.1f} pages/s")
        for kind, values in sorted(by_type.items()):
            print(f"  {kind:14} {sum(values) / len(values):.4f} of {len(values)}")


def documents(data, out, count):
    written = 0
    with open(out, "w", encoding="utf-8") as file:
        for name in FILES:
            for row in rows(data / "web" / name):
                if written < count and gold_of(row) is not None:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    written += 1


def timed(path):
    pages = list(rows(path))
    extracted(pages[0])
    start = time.perf_counter()
    kept = sum(bool(extracted(page)) for page in pages)
    seconds = time.perf_counter() - start
    size = sum(len(page["html"].encode()) for page in pages)
    print(json.dumps({"documents": len(pages), "bytes": size, "kept": kept, "seconds": seconds}))


def main():
    match sys.argv[1:]:
        case ["score", *paths] if paths:
            score([pathlib.Path(path) for path in paths])
        case ["documents", data, out, *count]:
            documents(pathlib.Path(data), out, int(count[0]) if count else 1 << 30)
        case ["time", _ours, path]:
            timed(pathlib.Path(path))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
