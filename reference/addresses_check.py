#!/usr/bin/env python3
"""Holds block lists of addresses against datatrove's URLFilter, and times it.

  documents DATA OUT [COUNT]  writes addresses as JSONL: those of the pages of DATA/web, and hosts and
                              words of the block lists that come inside datatrove's wheel with parts
                              before and behind; the same bytes each time. The lists lie beside it, as
                              OUT.domains, OUT.urls and OUT.words
  check OURS FILE             runs OURS (the built example block_addresses of milpa-corpus) and datatrove
                              over FILE; prints the matrix of decisions; fails if datatrove blocks an
                              address that OURS does not
  time OURS FILE              times datatrove's filter; prints a JSON object

datatrove gets the same domains, addresses and words, and nothing else. It finds a domain only as the
registered one or the whole host, and an address only where it is equal to the end; milpa_corpus finds
every host that ends in the domain and every address that begins with it, so it blocks more.

Needs: datatrove with its extras for URLFilter, zstandard. No network is used: tldextract takes the list of
suffixes that it brings along.
"""
import collections
import json
import pathlib
import random
import subprocess
import sys
import tarfile
import time

from filters_check import rows

KINDS = ["domains", "urls", "words"]


def beside(file, kind):
    return pathlib.Path(f"{file}.{kind}")


def lists(file):
    import datatrove

    assets = pathlib.Path(datatrove.__file__).parent / "assets"
    with tarfile.open(next(assets.glob("url_filterblacklists*.tar.gz"))) as archive:
        for kind in ["domains", "urls"]:
            beside(file, kind).write_bytes(archive.extractfile(kind).read())
    words = (line.strip() for line in (assets / "banned_words.txt").read_text().splitlines())
    beside(file, "words").write_text("".join(f"{word}\n" for word in words if word and word[0] != "#"))


def entries(file, kind):
    return beside(file, kind).read_text(encoding="utf-8", errors="replace").splitlines()


def addresses(data, file):
    chance = random.Random(4)
    own = [row["url"] for name in ["wcxb_dev_a", "wcxb_dev_b"] for row in rows(data / "web" / f"{name}.jsonl.zst") if row["url"]]
    domains, urls, words = (entries(file, kind) for kind in KINDS)
    while True:
        url = chance.choice(own)
        scheme = chance.choice(["http://", "https://", "https://www."])
        path = "/" + url.split("/", 3)[-1] if url.count("/") > 2 else "/"
        kind = chance.randrange(10)
        if kind < 6:
            yield url
        elif kind < 8:
            yield scheme + chance.choice(["", "", "m.", "a.b."]) + chance.choice(domains) + path
        elif kind < 9:
            yield scheme + chance.choice(urls) + chance.choice(["", "/", "?a=1", "-2"])
        else:
            yield url + chance.choice(["/", "-", "?q="]) + chance.choice(words) + chance.choice(["", "/1", "s"])


def made(file):
    from datatrove.pipeline.filters import URLFilter
    from tldextract import TLDExtract

    domains, urls, words = (entries(file, kind) for kind in KINDS)
    filter = URLFilter(extra_domains=domains, extra_urls=urls, banned_words=words, use_integrated_lists=False)
    filter.tldextractor = TLDExtract(suffix_list_urls=())
    return filter


def read(file):
    from datatrove.data import Document

    with open(file, encoding="utf-8") as lines:
        return [Document(text="", id="", metadata={"url": json.loads(line)["url"]}) for line in lines]


def check(ours, file):
    decisions = subprocess.run([ours, file, "decisions"], check=True, capture_output=True, text=True).stdout.splitlines()
    filter, matrix, missed = made(file), collections.Counter(), []
    for document, decision in zip(read(file), decisions, strict=True):
        verdict = filter.filter(document)
        theirs, mine = (None if verdict is True else verdict[1]), json.loads(decision)
        matrix[theirs, mine["kind"]] += 1
        if theirs and not mine["kind"]:
            missed.append(document.metadata["url"])
    for (theirs, mine), count in sorted(matrix.items(), key=str):
        print(f"datatrove {theirs or 'keeps':18} milpa {mine or 'keeps':8} {count}")
    print(f"{len(decisions)} addresses; datatrove blocks {sum(count for (theirs, _), count in matrix.items() if theirs)}, of which {len(missed)} are kept here")
    if missed:
        sys.exit("\n".join(missed[:10]))


def timed(file):
    filter, documents = made(file), read(file)
    filter.filter(documents[0])
    begin = time.perf_counter()
    kept = sum(filter.filter(document) is True for document in documents)
    seconds = time.perf_counter() - begin
    size = sum(len(document.metadata["url"].encode()) for document in documents)
    print(json.dumps({"documents": len(documents), "bytes": size, "kept": kept, "seconds": seconds}))


def main(action, *rest):
    if action == "documents":
        data, out = map(pathlib.Path, rest[:2])
        count = int(rest[2]) if len(rest) > 2 else 30_000
        lists(out)
        with open(out, "w", encoding="utf-8") as file:
            for url, _ in zip(addresses(data, out), range(count)):
                file.write(json.dumps({"url": url}, ensure_ascii=False) + "\n")
    elif action == "check":
        check(*rest)
    elif action == "time":
        timed(rest[1])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
