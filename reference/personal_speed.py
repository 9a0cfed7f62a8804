#!/usr/bin/env python3
"""Times datatrove's PIIFormatter, which covers e-mail and IP addresses.

  documents DATA OUT [COUNT]  as filters_check.py
  time OURS FILE              prints a JSON object; `kept` counts the documents without either

Needs: datatrove, zstandard. No network is used.
"""
import json
import sys
import time

import filters_check


def timed(file):
    from datatrove.pipeline.formatters import PIIFormatter

    with open(file, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    formatter = PIIFormatter()
    begin = time.perf_counter()
    kept = sum(formatter.format(text) == text for text in texts)
    seconds = time.perf_counter() - begin
    size = sum(len(text.encode()) for text in texts)
    print(json.dumps({"documents": len(texts), "bytes": size, "kept": kept, "seconds": seconds}))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["documents", *rest]:
            filters_check.main("documents", *rest)
        case ["time", _, file]:
            timed(file)
        case _:
            sys.exit(__doc__)
