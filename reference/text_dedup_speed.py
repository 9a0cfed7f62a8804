#!/usr/bin/env python3
"""Times the MinHash signatures of text-dedup.

  documents DATA OUT [COUNT]  as dedup_check.py
  time OURS FILE              signatures of word 5-grams, 14 bands of 8 rows, 64-bit arithmetic as text-dedup
                              has it by default; prints a JSON object

Its command reads a data set through `datasets` and maps this function over it; the function alone is timed,
so that neither side pays for reading.

Needs: text-dedup, datasets, numpy. No network is used.
"""
import json
import sys
import time

import dedup_check


def timed(file):
    import numpy
    from text_dedup import minhash

    with open(file, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    rows, bands = 8, 14
    prime = numpy.uint64((1 << 61) - 1)
    draw = numpy.random.RandomState(42)
    options = {
        "num_perm": bands * rows,
        "ngram_size": 5,
        "min_length": 5,
        "hashranges": [(band * rows, (band + 1) * rows) for band in range(bands)],
        "permutations": (
            draw.randint(1, prime, size=bands * rows, dtype=numpy.uint64),
            draw.randint(0, prime, size=bands * rows, dtype=numpy.uint64),
        ),
        "hash_func": minhash.xxh3_32hash,
        "dtype": numpy.uint64,
        "max_hash": numpy.uint32((1 << 32) - 1),
        "modulo_prime": prime,
    }
    minhash.embed_func("uno dos tres cuatro cinco seis", 0, **options)
    begin = time.perf_counter()
    for index, text in enumerate(texts):
        minhash.embed_func(text, index, **options)
    seconds = time.perf_counter() - begin
    size = sum(len(text.encode()) for text in texts)
    print(json.dumps({"documents": len(texts), "bytes": size, "kept": len(texts), "seconds": seconds}))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["documents", *rest]:
            dedup_check.main("documents", *rest)
        case ["time", _, file]:
            timed(file)
        case _:
            sys.exit(__doc__)
