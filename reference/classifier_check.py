#!/usr/bin/env python3
"""Trains fastText on the splits of Milpa's classifier, with equal features and epochs, and compares.

  classifier_check.py DIR [THREADS]   DIR is what the example train_quality_classifier wrote; prints
                                      fastText's AUROC on the same test texts, its size and how fast
                                      it predicts

fastText is deterministic with one thread alone. It hashes words that it has in its vocabulary
beside the table of 2^18 rows that n-grams share, and starts unknown n-grams at random numbers; the
rest is as in Milpa: dimension 16, word pairs, the same learning rates and epochs. Each
model is trained in a process of its own: the third in one process stops with "Encountered NaN". Times are those of the process on a core.

Needs: fasttext-numpy2-wheel, numpy. No network is used.
"""
import multiprocessing
import pathlib
import sys
import time

# Name of the task, label that the score is for, epochs, learning rate, shortest and longest character n-gram.
TASKS = [
    ("law_by_norm", "clean", 5, 0.5, 2, 4),
    ("law_by_region", "clean", 5, 0.5, 2, 4),
    ("toxic_pt", "toxic", 10, 0.1, 3, 5),
    ("toxic_es", "toxic", 20, 0.5, 3, 5),
]


def auroc(scores, truth):
    """Mann-Whitney, ties count half."""
    import numpy

    scores, truth = numpy.asarray(scores), numpy.asarray(truth)
    _, inverse, counts = numpy.unique(scores, return_inverse=True, return_counts=True)
    ranks = (numpy.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives, negatives = truth.sum(), (~truth).sum()
    return (ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def measure(folder, threads, task, positive, epochs, rate, shortest, longest):
    import fasttext

    begin = time.process_time()
    model = fasttext.train_supervised(
        str(folder / f"{task}.train.txt"), dim=16, lr=rate, epoch=epochs, wordNgrams=2, minn=shortest,
        maxn=longest, bucket=1 << 18, minCount=1, loss="softmax", thread=threads, seed=0, verbose=0)
    trained = time.process_time() - begin
    rows = [line.split(" ", 1) for line in (folder / f"{task}.test.txt").read_text().splitlines()]
    truth = [label == f"__label__{positive}" for label, _ in rows]
    texts = [text for _, text in rows]
    begin = time.process_time()
    labels, probabilities = model.predict(texts, k=2)
    seconds = time.process_time() - begin
    scores = [dict(zip(names, values))[f"__label__{positive}"]
              for names, values in zip(labels, probabilities)]
    size = sum(len(text.encode()) for text in texts)
    path = folder / f"{task}.fasttext.bin"
    model.save_model(str(path))
    print(f"{task}: fastText AUROC {auroc(scores, truth):.4f} on {len(texts)} texts, trained in "
          f"{trained:.1f} s with {threads} thread(s), prediction {size / seconds / 1e6:.1f} MB/s, "
          f"{len(texts) / seconds:.0f} texts/s, file {path.stat().st_size / 1e3:.0f} kB")
    path.unlink()


def main():
    folder = pathlib.Path(sys.argv[1])
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    for task in TASKS:
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(folder, threads, *task))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{task[0]}: fastText failed")


if __name__ == "__main__":
    main()
