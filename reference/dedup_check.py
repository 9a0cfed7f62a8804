#!/usr/bin/env python3
"""Holds deduplication and decontamination against exact answers, and times datatrove's signatures.

  planted DATA OUT [COUNT]     writes COUNT (20,000) documents as JSONL: pieces of DATA/text, and for each a
                               near copy of some kind (words changed, passages moved, the same text around
                               it) and strength, so that similarities cover 0.3 to 1; the same bytes each time
  check OURS FILE              computes the Jaccard similarity of the word 5-grams of all pairs of documents
                               that share one, by counting, and holds OURS (the built example
                               dedup_documents of milpa-corpus) against it: pairs that share a band against
                               1-(1-s^8)^14 and other bandings, clusters against the components of those
                               pairs, and with a threshold; fails where a number is off by more than four
                               standard errors
  repeats OURS DATA [BYTES]    finds every run of BYTES (200) bytes that stood before in DATA's laws and dated
                               constitutions by hashing all of them, and holds what OURS cuts against it, byte
                               by byte; fails if OURS cuts a byte that it must not, or misses one in a thousand
  contaminate OURS DATA        plants items of four evaluation sets into natural documents, as they are and
                               changed, and prints which share OURS finds, for several n-grams and shares,
                               and what it finds in documents in which nothing was planted
  documents DATA OUT [COUNT]   writes Spanish documents of about 5 kB, to be timed on
  time OURS FILE               runs datatrove's MinHash signatures (14 x 8, word 5-grams, 64-bit SHA-1, as
                               FineWeb has them) in one thread, without writing them; prints a JSON object
  time-rensa FILE              runs rensa's RMinHash (112 permutations) in one thread over shingles that are
                               ready before the clock runs, so that cutting and joining words is free for it

Words are cut and folded here by a regular expression of its own; the similarity does not come from
the code that is checked. Needs: numpy, zstandard; `time` also datatrove, spacy, tokenizers (which
datatrove imports on the way), `time-rensa` rensa. No network is used.
"""
import collections
import io
import json
import math
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

PIECES = ["es_novels_a", "es_novels_b", "pt_novels", "es_law_peru"]
SETS = {"enem_2022": "enem_2022.jsonl", "exams_es_pt": "exams_es_pt.jsonl", "xquad_es": "xquad_es.jsonl.zst", "mgsm_es": "mgsm_es.jsonl"}
PASSAGES = [["context"], ["question", "choices"]]
WORD = re.compile(r"[^\W_]+(?:['’‘ʼʻꞌ´`][^\W_]+)*")
BANDINGS = [(14, 8), (20, 5), (9, 13), (5, 20)]


def rows(path):
    import zstandard

    with open(path, "rb") as raw:
        stream = zstandard.ZstdDecompressor().stream_reader(raw) if path.suffix == ".zst" else raw
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            yield json.loads(line)


def pieces(data, names, chance, least, most):
    """Runs of `least` to `most` words that do not overlap, cut where lines end."""
    for name in names:
        for row in rows(data / "text" / f"{name}.jsonl.zst"):
            words, wanted, lines = 0, chance.randint(least, most), []
            for line in row["text"].split("\n"):
                lines.append(line)
                words += len(line.split())
                if words >= wanted:
                    if words <= 3 * most:
                        yield "\n".join(lines)
                    words, wanted, lines = 0, chance.randint(least, most), []


def jsonl(path, texts):
    with open(path, "w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def run(ours, *arguments):
    out = subprocess.run([ours, *map(str, arguments)], check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def shingles(text, length=5):
    words = [word.lower() for word in WORD.findall(text)]
    if not words:
        return set()
    return {" ".join(words[at : at + length]) for at in range(max(1, len(words) - length + 1))}


# Near copies


def edited(chance, text, share, pool):
    """Every word is replaced, dropped or doubled with a probability."""
    out = []
    for word in text.split(" "):
        if chance.random() >= share:
            out.append(word)
        elif chance.random() < 0.7:
            out.append(chance.choice(pool))
        elif chance.random() < 0.5:
            out += [word, chance.choice(pool)]
    return " ".join(out)


def moved(chance, text, share, _):
    """Passages in another order; the more, the shorter."""
    words = text.split(" ")
    length = max(6, round(4 / share))
    parts = [words[at : at + length] for at in range(0, len(words), length)]
    chance.shuffle(parts)
    return " ".join(word for part in parts for word in part)


def wrapped(chance, text, share, pool):
    """The same text of a site before and behind; here each site has two pages."""
    words = len(text.split(" "))
    extra = [chance.choice(pool) for _ in range(round(words * share * 4))]
    half = len(extra) // 2
    return " ".join([*extra[:half], text, *extra[half:]])


def planted(data, out, count):
    chance = random.Random(6)
    originals = list(pieces(data, PIECES, chance, 60, 300))
    chance.shuffle(originals)
    originals = originals[: count // 2]
    if len(originals) < count // 2:
        sys.exit(f"only {len(originals)} pieces for {count} documents")
    pool = [word for text in originals[:500] for word in text.split(" ") if word.strip()]
    changes = [edited, moved, wrapped]
    documents = []
    for number, text in enumerate(originals):
        change = changes[number % 3]
        # Word edits spoil five shingles each.
        strength = chance.uniform(0.0, 0.14 if change is edited else 0.22) + 0.002
        documents.append((number, text))
        documents.append((number, change(chance, text, strength, pool)))
    chance.shuffle(documents)
    with open(out, "w", encoding="utf-8") as file:
        for number, text in documents:
            file.write(json.dumps({"text": text, "original": number}, ensure_ascii=False) + "\n")


def similarities(documents):
    """(i, j) with i < j → Jaccard, of all pairs that share a shingle."""
    import numpy as np

    sets = [shingles(row["text"]) for row in documents]
    sizes = np.array([len(found) for found in sets], dtype=np.float64)
    postings = collections.defaultdict(list)
    for number, found in enumerate(sets):
        for shingle in found:
            postings[shingle].append(number)
    postings = {shingle: np.array(numbers) for shingle, numbers in postings.items() if len(numbers) > 1}
    result = {}
    for number, found in enumerate(sets):
        lists = [postings[shingle] for shingle in found if shingle in postings]
        if not lists:
            continue
        shared = np.bincount(np.concatenate(lists))
        for other in np.nonzero(shared[:number])[0]:
            both = shared[other]
            result[int(other), number] = both / (sizes[number] + sizes[other] - both)
    return result


def components(count, pairs):
    roots = list(range(count))

    def find(at):
        while roots[at] != at:
            roots[at] = roots[roots[at]]
            at = roots[at]
        return at

    for one, other in pairs:
        one, other = find(one), find(other)
        roots[max(one, other)] = min(one, other)
    return [find(at) for at in range(count)]


def check(ours, file):
    documents = list(rows(pathlib.Path(file)))
    begin = time.perf_counter()
    similar = similarities(documents)
    print(f"{len(documents)} documents, {len(similar)} pairs that share a shingle, Jaccard by counting in {time.perf_counter() - begin:.0f} s")
    of = collections.defaultdict(list)
    for number, row in enumerate(documents):
        of[row["original"]].append(number)
    twins = [tuple(pair) for pair in of.values() if len(pair) == 2]
    failures = []
    for bands, height in BANDINGS:
        found = {tuple(pair) for pair in run(ours, file, "bands", bands, height)}
        print(f"\n{bands} bands of {height} rows: planted pairs that share a band")
        print("similarity    pairs  expected     found    errors")
        bins = collections.defaultdict(lambda: [0, 0.0, 0.0, 0])
        for pair in twins:
            s = similar.get(pair, 0.0)
            p = 1 - (1 - s**height) ** bands
            for at in (min(int(s * 20), 19), "all"):
                cell = bins[at]
                cell[0] += 1
                cell[1] += p
                cell[2] += p * (1 - p)
                cell[3] += pair in found
        for at in sorted((at for at in bins if at != "all")) + ["all"]:
            pairs, expected, variance, hits = bins[at]
            # Half a pair for what is counted whole.
            errors = max(0.0, abs(hits - expected) - 0.5) / math.sqrt(max(variance, 1e-9))
            name = at if at == "all" else f"{at / 20:.2f}-{(at + 1) / 20:.2f}"
            print(f"{name:10} {pairs:8} {expected:9.1f} {hits:9} {errors:9.2f}")
            if errors > 4 and abs(hits - expected) > 1:
                failures.append(f"{bands} x {height}, similarity {name}: {hits} found, {expected:.1f} expected")
        # All pairs: what shares no shingle must not share a band.
        strangers = [pair for pair in found if pair not in similar]
        above = [sum(similar.get(pair, 0) >= least for pair in found) / max(1, len(found)) for least in (0.5, 0.6, 0.7)]
        print(f"pairs found {len(found)}, of them at least 0.5 similar {above[0]:.2%}, 0.6 {above[1]:.2%}, 0.7 {above[2]:.2%}; without a common shingle {len(strangers)}")
        if strangers:
            failures.append(f"{len(strangers)} pairs that share no shingle share a band")
        if (bands, height) == (14, 8):
            roots = components(len(documents), found)
    for least in (None, 0.7, 0.8):
        members = run(ours, file, "members", *([least] if least else []))
        kept = {row["document"]: row["kept"] for row in members}
        dropped = {document: twin for document, twin in kept.items() if document != twin}
        if least is None:
            same = all(kept.get(document, document) == root for document, root in enumerate(roots))
            print(f"\nmembers of clusters equal the components of the pairs: {same}")
            if not same:
                failures.append("members are not the components of the pairs that share a band")
        exact = [similar.get((twin, document), 0.0) for document, twin in dropped.items()]
        parts = ", ".join(f"{bound} similar {sum(s >= bound for s in exact) / max(1, len(exact)):.2%}" for bound in (0.5, 0.6, 0.7, 0.8))
        recall = []
        for bound in (0.7, 0.8, 0.9):
            due = [pair for pair in twins if similar.get(pair, 0) >= bound]
            recall.append(f"{bound} {sum(kept.get(a, a) == kept.get(b, b) for a, b in due) / max(1, len(due)):.2%} of {len(due)}")
        print(f"{'banding alone' if least is None else f'estimate at least {least}'}: {len(dropped)} dropped; of them at least {parts}; planted pairs in one cluster from {', '.join(recall)}")
        chains = [document for document, twin in dropped.items() if twin in dropped]
        if chains:
            failures.append(f"{len(chains)} documents name a twin that is dropped itself")
    if failures:
        sys.exit("\n".join(failures))


# Repeated passages


def repeated(texts, least):
    """For each text the bytes to cut: windows of `least` bytes that stood in an earlier text, or
    in the same text and apart; characters at the ends of a cut are left whole."""
    import numpy as np

    joined = np.frombuffer(b"\xff".join(texts) + b"\xff", dtype=np.uint8)
    multiplier = 0x9E3779B97F4A7C15
    inverse = pow(multiplier, -1, 2**64)
    values = np.random.default_rng(3).integers(0, 2**64, 256, dtype=np.uint64)
    values[255] = 0
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(len(joined), multiplier, dtype=np.uint64))
        sums = np.concatenate([[np.uint64(0)], np.cumsum(values[joined] * powers)])
        back = np.cumprod(np.full(len(joined), inverse, dtype=np.uint64))
        hashes = (sums[least:] - sums[:-least]) * back[: len(joined) - least + 1]
    starts = np.cumsum([0] + [len(text) + 1 for text in texts])
    owner = np.searchsorted(starts, np.arange(len(hashes)), side="right") - 1
    # Windows across the end of a text are none.
    inside = np.nonzero(np.arange(len(hashes)) + least < starts[owner + 1])[0]
    _, first, back_to = np.unique(hashes[inside], return_index=True, return_inverse=True)
    earliest = inside[first[back_to]]
    again = inside[(owner[earliest] < owner[inside]) | (earliest + least <= inside)]
    edges = np.zeros(len(joined) + 1, dtype=np.int64)
    np.add.at(edges, again, 1)
    np.add.at(edges, again + least, -1)
    cut = np.cumsum(edges)[:-1] > 0
    return [cut[starts[at] : starts[at + 1] - 1] for at in range(len(texts))]


def repeats(ours, data, least):
    texts = [row["text"].encode() for name in ("es_law_peru", "pt_constituicao_versions") for row in rows(data / "text" / f"{name}.jsonl.zst")]
    begin = time.perf_counter()
    expect = repeated(texts, least)
    print(f"{len(texts)} documents, {sum(map(len, texts))} bytes, {sum(int(cut.sum()) for cut in expect)} in runs of {least} bytes that stood before; found by hashing all runs in {time.perf_counter() - begin:.0f} s")
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "texts.jsonl"
        jsonl(file, [text.decode() for text in texts])
        *found, last = run(ours, file, "repeats", least)
    wrong = missed = 0
    mine = {row["document"]: row["ranges"] for row in found}
    for number, (text, cut) in enumerate(zip(texts, expect)):
        own = cut.copy()
        own[:] = False
        for start, end in mine.get(number, []):
            own[start:end] = True
            text[start:end].decode()
        wrong += int((own & ~cut).sum())
        # Bytes of a character that is cut only in part stay.
        rest = (cut & ~own).nonzero()[0]
        missed += sum(text[at] < 0x80 for at in rest)
    print(f"ours: {last['cut']} bytes cut in {last['seconds']:.1f} s; {wrong} that must stay, {missed} (not counting parts of characters) that were missed")
    if wrong or missed > 0.001 * last["cut"]:
        sys.exit("repeats differ")


# Evaluation items


def items(data):
    """(set and identity, passages) of each item."""
    for name, file in SETS.items():
        for row in rows(data / "eval" / file):
            passages = []
            for fields in PASSAGES:
                texts = []
                for field in fields:
                    value = row.get(field) or []
                    texts += [value] if isinstance(value, str) else value
                if texts:
                    passages.append("\n".join(texts))
            yield f"{name} {row['id']}", passages


def changed(chance, text, share, pool):
    return " ".join(chance.choice(pool) if chance.random() < share else word for word in text.split())


VARIANTS = {
    "as it is": lambda chance, text, pool: text,
    "upper case": lambda chance, text, pool: text.upper(),
    "no punctuation": lambda chance, text, pool: re.sub(r"[^\w\s'’]+", " ", text),
    "other spacing": lambda chance, text, pool: re.sub(r"\s+", lambda _: chance.choice(["\n", "  ", "\n\n", "\t"]), text),
    "5 % of words": lambda chance, text, pool: changed(chance, text, 0.05, pool),
    "10 % of words": lambda chance, text, pool: changed(chance, text, 0.10, pool),
    "20 % of words": lambda chance, text, pool: changed(chance, text, 0.20, pool),
    "first half": lambda chance, text, pool: " ".join(text.split()[: len(text.split()) // 2]),
}


def contaminate(ours, data):
    chance = random.Random(9)
    hosts = list(pieces(data, PIECES, chance, 300, 900))
    planted_items = list(items(data))
    pool = [word for text in hosts[:200] for word in text.split() if word]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        sets = folder / "sets.toml"
        lines = [f"[[sets]]\nname = {json.dumps(name)}\npath = {json.dumps(str((data / 'eval' / file).resolve()))}\n" for name, file in SETS.items()]
        sets.write_text("".join(lines), encoding="utf-8")
        natural = folder / "natural.jsonl"
        jsonl(natural, hosts)
        files = {}
        for variant, change in VARIANTS.items():
            texts = []
            for number, (_, passages) in enumerate(planted_items):
                host = hosts[number % len(hosts)].split("\n")
                at = chance.randrange(len(host) + 1)
                planted = change(chance, "\n".join(passages), pool)
                texts.append("\n".join([*host[:at], planted, *host[at:]]))
            files[variant] = folder / f"{len(files)}.jsonl"
            jsonl(files[variant], texts)
        names = [name for name, _ in planted_items]
        print(f"{len(planted_items)} items in {len(hosts)} natural documents of 300 to 900 words; share of documents found")
        print(f"{'n':>3} {'share':>6} {'short':>6} " + " ".join(f"{variant:>15}" for variant in VARIANTS) + "   natural documents found")
        for words in (5, 8, 13):
            for share in (0.3, 0.5, 0.7):
                cells = []
                for variant, file in files.items():
                    *found, last = run(ours, file, "contaminated", sets, words, share)
                    hits = {row["document"] for row in found if row["passage"].rsplit(" ", 1)[0] == names[row["document"]]}
                    cells.append(f"{len(hits) / len(names):15.2%}")
                *found, natural_last = run(ours, natural, "contaminated", sets, words, share)
                false = {row["document"] for row in found}
                rate = natural_last["bytes"] / natural_last["seconds"] / 1e6
                print(f"{words:3} {share:6} {natural_last['too_short']:6} {' '.join(cells)}   {len(false)} of {len(hosts)} ({rate:.0f} MB/s)")
                if (words, share) == (5, 0.3):
                    kept = [row["detail"] for row in found[:20]]
        print("found in natural documents with 5-grams and a share of 0.3:", *(kept or ["nothing"]), sep="\n  ")


# Time


def documents(data, out, count):
    chance = random.Random(4)
    texts = list(pieces(data, ["es_law_peru", "es_novels_a"], chance, 600, 1100))
    chance.shuffle(texts)
    jsonl(out, texts[:count])


def timed(file):
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig

    texts = [row["text"] for row in rows(pathlib.Path(file))]
    with tempfile.TemporaryDirectory() as folder:
        config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64, hash_fc="sha1"))
        step = MinhashDedupSignature(output_folder=folder, config=config, language="spa")
        # Loads the tokenizer before the clock runs.
        step.get_signature(step.get_shingles("uno dos tres cuatro cinco seis"))
        begin, kept = time.perf_counter(), 0
        for text in texts:
            found = step.get_shingles(text)
            if found.size != 0:
                step.get_signature(found)
                kept += 1
        seconds = time.perf_counter() - begin
    size = sum(len(text.encode()) for text in texts)
    print(json.dumps({"documents": len(texts), "bytes": size, "kept": kept, "seconds": seconds, "megabytes_per_second": size / seconds / 1e6}))


def timed_rensa(file):
    import rensa

    texts = [row["text"] for row in rows(pathlib.Path(file))]
    ready = [list(shingles(text)) for text in texts]
    begin = time.perf_counter()
    for found in ready:
        sketch = rensa.RMinHash(num_perm=112, seed=1)
        sketch.update(found)
        sketch.digest()
    seconds = time.perf_counter() - begin
    size = sum(len(text.encode()) for text in texts)
    print(json.dumps({"documents": len(texts), "bytes": size, "kept": sum(map(bool, ready)), "seconds": seconds, "megabytes_per_second": size / seconds / 1e6}))


def main(action, *rest):
    if action == "planted":
        planted(pathlib.Path(rest[0]), rest[1], int(rest[2]) if len(rest) > 2 else 20_000)
    elif action == "check":
        check(*rest)
    elif action == "repeats":
        repeats(rest[0], pathlib.Path(rest[1]), int(rest[2]) if len(rest) > 2 else 200)
    elif action == "contaminate":
        contaminate(rest[0], pathlib.Path(rest[1]))
    elif action == "documents":
        documents(pathlib.Path(rest[0]), rest[1], int(rest[2]) if len(rest) > 2 else 500)
    elif action == "time":
        timed(rest[-1])
    elif action == "time-rensa":
        timed_rensa(rest[-1])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
