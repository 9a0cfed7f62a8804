#!/usr/bin/env python3
"""Times datatrove's whole pipeline beside `milpa corpus build`, on one core.

  documents DATA OUT [COUNT]   writes what both read: COUNT Spanish documents as JSONL, or, if OUT's name has
                               "warc" in it, all pages of DATA/web/wcxb_dev_* as a gzipped WARC
  time OURS FILE               runs datatrove as FineWeb's example does: read, extract (trafilatura), Gopher
                               repetition and quality, C4 without its rule on line ends, FineWeb quality,
                               MinHash signatures, buckets, clusters, filter; in one process, one task;
                               prints a JSON object

FineWeb's URL filter and language filter are left out: they download their lists and models. Ours
identifies languages and looks up addresses. Needs: datatrove, trafilatura, warcio, spacy, tokenizers,
zstandard. No network is used.
"""
import io
import json
import logging
import os
import pathlib
import sys
import tempfile
import time


# The filter's own stop words are English.
STOP_WORDS = {"spa": ["de", "la", "que", "el", "en", "y", "a", "los"]}


def rows(path):
    import zstandard

    with open(path, "rb") as raw:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), encoding="utf-8"):
            yield json.loads(line)


def pages(data, out):
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    with open(out, "wb") as file:
        writer = WARCWriter(file, gzip=True)
        for name in ("wcxb_dev_a", "wcxb_dev_b"):
            for row in rows(data / "web" / f"{name}.jsonl.zst"):
                headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
                body = io.BytesIO(row["html"].encode("utf-8", "replace"))
                writer.write_record(writer.create_warc_record(row.get("url") or f"http://page.example/{row['page_type']}", "response", payload=body, http_headers=headers))


def texts(data, out, count):
    """Pieces of novels and laws of about 4 kB, every tenth of them once more with its end cut."""
    written = 0
    with open(out, "w", encoding="utf-8") as file:
        def write(text):
            nonlocal written
            written += 1
            print(json.dumps({"text": text, "id": str(written)}, ensure_ascii=False), file=file)

        for name in ("es_novels_a", "es_law_peru"):
            for row in rows(data / "text" / f"{name}.jsonl.zst"):
                lines, piece = row["text"].split("\n"), ""
                for line in lines:
                    piece += line + "\n"
                    if len(piece) > 4_000:
                        if written >= count:
                            return
                        write(piece)
                        if written % 11 == 10:
                            write(piece[:3_900])
                        piece = ""


def run(file):
    """datatrove over the file; how many documents stay."""
    logging.disable(logging.CRITICAL)
    from loguru import logger

    logger.remove()
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import JsonlReader, WarcReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig

    warc = "warc" in file.name
    language = "eng" if warc else "spa"
    where = {"data_folder": str(file.parent), "glob_pattern": file.name}
    reader = [WarcReader(compression="gzip", **where), Trafilatura(favour_precision=True, timeout=10)] if warc else [JsonlReader(compression=None, **where)]
    with tempfile.TemporaryDirectory() as folder:
        at = lambda name: os.path.join(folder, name)
        config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(hash_fc="sha1", precision=64))
        filtered = lambda: JsonlReader(at("filtered"))
        steps = [
            reader
            + [
                GopherRepetitionFilter(language=language),
                GopherQualityFilter(stop_words=STOP_WORDS.get(language), language=language),
                C4QualityFilter(filter_no_terminal_punct=False, language=language),
                FineWebQualityFilter(language=language),
                JsonlWriter(at("filtered")),
            ],
            [filtered(), MinhashDedupSignature(output_folder=at("signatures"), config=config, language=language)],
            [MinhashDedupBuckets(input_folder=at("signatures"), output_folder=at("buckets"), config=config)],
            [MinhashDedupCluster(input_folder=at("buckets"), output_folder=at("removed"), config=config)],
            [filtered(), MinhashDedupFilter(input_folder=at("removed")), JsonlWriter(at("kept"))],
        ]
        begin = time.perf_counter()
        for number, pipeline in enumerate(steps):
            # Buckets are one task each.
            tasks = config.num_buckets if number == 2 else 1
            LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=1, logging_dir=at(f"logs{number}")).run()
        seconds = time.perf_counter() - begin
        import gzip

        kept = sum(1 for path in pathlib.Path(at("kept")).glob("*.gz") for _ in gzip.open(path))
    return kept, seconds


def count(file):
    if "warc" not in file.name:
        return sum(1 for _ in open(file, "rb"))
    from warcio.archiveiterator import ArchiveIterator

    with open(file, "rb") as stream:
        return sum(1 for _ in ArchiveIterator(stream))


def main():
    match sys.argv[1:]:
        case ["documents", data, out, *rest]:
            data, out = pathlib.Path(data), pathlib.Path(out)
            pages(data, out) if "warc" in out.name else texts(data, out, int(rest[0]) if rest else 4_000)
        case ["time", _, file]:
            file = pathlib.Path(file)
            kept, seconds = run(file)
            print(json.dumps({"documents": count(file), "bytes": file.stat().st_size, "kept": kept, "seconds": seconds}))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
