#!/usr/bin/env python3
"""Times fastText's predictions beside Milpa's language identifier and its text classifier, on one core.

  language documents DATA OUT [COUNT]    trains fastText on the paragraphs of DATA/lid whose numbers do not end
                                         in 0 or 5, as Milpa's model was (OUT.bin), and writes as documents
                                         those that end in 5 and lines of novels and law, half and half
  classifier documents DATA OUT [COUNT]  trains it to tell the official text of laws from scans (OUT.bin; the
                                         examples are in OUT.train.txt for the other side), and writes other
                                         laws of DATA/text as documents, cut to 2,000 characters, until
                                         there are COUNT
  language time OURS FILE, classifier time OURS FILE
                                         predicts all documents one by one; prints a JSON object, `kept` are
                                         those whose label is right

Both sides see the same text on one line. fastText has dimension 16 and one thread; for languages character
n-grams of 2 to 4 and the hierarchical softmax, as in its own language model, for laws as in
classifier_check.py.

Needs: fasttext-numpy2-wheel, numpy, zstandard. No network is used.
"""
import hashlib
import json
import pathlib
import sys
import time

from filters_check import rows

LARGE = {"es_novels_a": "spa", "pt_novels": "por", "en_novels": "eng"}


def line_of(text):
    return " ".join(text.split())


def side(key):
    return hashlib.blake2b(key.encode()).digest()[0] % 5


def language_examples(data, count):
    training, documents = [], []
    for row in rows(data / "lid" / "udhr_paragraphs.jsonl.zst"):
        number = int(row["id"].rsplit("/", 1)[1]) % 10
        if number == 5:
            documents.append((row["lang"], line_of(row["text"])))
        elif number != 0:
            training.append((row["lang"], line_of(row["text"])))
    documents = documents[: count // 2]
    share = (count - len(documents)) // len(LARGE)
    for name, language in LARGE.items():
        lines = (line_of(line) for row in rows(data / "text" / f"{name}.jsonl.zst") for line in row["text"].split("\n"))
        long = [(language, line) for line, _ in zip((line for line in lines if len(line) >= 100), range(share + 200))]
        # fastText must know these languages from more than the declaration, as ours does.
        training += long[:200]
        documents += long[200:]
    return training, documents, {"minn": 2, "maxn": 4, "loss": "hs", "epoch": 25, "lr": 0.5}


def law_examples(data, count):
    training, documents = [], []
    for row in rows(data / "text" / "es_law_peru.jsonl.zst"):
        label = "clean" if row["tier"] == "national_clean" else "scan"
        (documents if side(row["title"].lower()) == 0 else training).append((label, line_of(row["text"])[:2000]))
    # Again and again: the timed texts are few.
    documents = (documents * (1 + count // len(documents)))[:count]
    return training, documents, {"minn": 2, "maxn": 4, "wordNgrams": 2, "loss": "softmax", "epoch": 5, "lr": 0.5}


def documents(what, data, out, count):
    import fasttext

    training, documents, options = {"language": language_examples, "classifier": law_examples}[what](data, count)
    train = pathlib.Path(f"{out}.train.txt")
    train.write_text("".join(f"__label__{label} {text}\n" for label, text in training), encoding="utf-8")
    model = fasttext.train_supervised(str(train), dim=16, bucket=1 << 18, minCount=1, thread=1, seed=0, verbose=0, **options)
    model.save_model(f"{out}.bin")
    with open(out, "w", encoding="utf-8") as file:
        for label, text in documents:
            file.write(json.dumps({"label": label, "text": text}, ensure_ascii=False) + "\n")


def timed(file):
    import fasttext

    with open(file, encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    model = fasttext.load_model(f"{file}.bin")
    begin = time.perf_counter()
    kept = sum(model.predict(row["text"])[0][0] == "__label__" + row["label"] for row in found)
    seconds = time.perf_counter() - begin
    size = sum(len(row["text"].encode()) for row in found)
    print(json.dumps({"documents": len(found), "bytes": size, "kept": kept, "seconds": seconds}))


if __name__ == "__main__":
    match sys.argv[1:]:
        case [what, "documents", data, out, *count]:
            documents(what, pathlib.Path(data), out, int(count[0]) if count else 4000)
        case [_, "time", _ours, file]:
            timed(file)
        case _:
            sys.exit(__doc__)
