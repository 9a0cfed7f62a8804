#!/usr/bin/env python3
"""Times FastWARC beside Milpa's reader of archives, on one core.

  documents DATA OUT [COUNT]   writes a WARC gzipped by record, as crawlers do: of each page of
                               DATA/web/wcxb_dev_* the request, the response and what the crawler noted, again
                               and again until COUNT records are there
  time OURS FILE               reads all of FILE with FastWARC: headers parsed, HTTP taken apart, content
                               decoded and read to its end; prints a JSON object (`kept` are responses)

Needs: fastwarc, warcio, zstandard. No network is used.
"""
import io
import json
import pathlib
import sys
import time

from pipeline_check import rows


def documents(data, out, count):
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    pages = io.BytesIO()
    writer = WARCWriter(pages, gzip=True)
    written = 0
    for name in ("wcxb_dev_a", "wcxb_dev_b"):
        for row in rows(data / "web" / f"{name}.jsonl.zst"):
            url = row.get("url") or f"http://page.example/{row['page_type']}"
            request = StatusAndHeaders("GET / HTTP/1.1", [("Accept", "text/html"), ("User-Agent", "crawler")], is_http_request=True)
            response = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
            html = io.BytesIO(row["html"].encode("utf-8", "replace"))
            noted = io.BytesIO(b"fetchTimeMs: 120\r\n")
            for record in (
                writer.create_warc_record(url, "request", http_headers=request),
                writer.create_warc_record(url, "response", payload=html, http_headers=response),
                writer.create_warc_record(url, "metadata", payload=noted, warc_content_type="application/warc-fields"),
            ):
                writer.write_record(record)
                written += 1
    with open(out, "wb") as file:
        for _ in range(-(-count // written)):
            file.write(pages.getvalue())


def timed(path):
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    records, kept = 0, 0
    start = time.perf_counter()
    for record in ArchiveIterator(path, auto_decode="all"):
        records += 1
        content = record.reader.read()
        kept += record.record_type == WarcRecordType.response and bool(content)
    seconds = time.perf_counter() - start
    size = pathlib.Path(path).stat().st_size
    print(json.dumps({"documents": records, "bytes": size, "kept": kept, "seconds": seconds}))


def main():
    match sys.argv[1:]:
        case ["documents", data, out, *count]:
            documents(pathlib.Path(data), pathlib.Path(out), int(count[0]) if count else 1)
        case ["time", _ours, path]:
            timed(path)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
