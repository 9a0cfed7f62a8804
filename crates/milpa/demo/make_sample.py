#!/usr/bin/env python3
"""Writes the demo sample: sample.warc.gz, entities.jsonl, questions.jsonl and expected.json.

Reads texts/, templates/ and entities.toml beside it; needs Python 3.11 and nothing else. The output depends on
these files alone (fixed dates, ids derived from the URLs, gzip without a time stamp), so running it twice gives the
same bytes; another zlib may compress differently, but the records inside stay the same.

    python3 make_sample.py            write the four files
    python3 make_sample.py --check    write nothing; fail if the files here differ from the sources or break a rule
"""

import base64
import gzip
import hashlib
import html
import json
import re
import struct
import sys
import tomllib
import uuid
import zlib
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
CRAWL_START = datetime(2024, 11, 5, 12, 0, 0, tzinfo=timezone.utc)
MAX_WARC_BYTES = 400_000

SITES = {
    "escuela": "https://elceibo.example",
    "museo": "https://museo.example.org",
    "cooperativa": "https://laacequia.example.com",
    "bibliopopular": "https://bibliopopular.example",
    "bibliotecaipe": "https://biblioteca-ipe.example",
    "jornalescola": "https://jornaldopatio.example",
    "spam": "https://ofertas.example",
}
SERVERS = {
    "escuela": "nginx/1.24.0",
    "museo": "Apache/2.4.58 (Debian)",
    "cooperativa": "Apache/2.2.34",
    "bibliopopular": "nginx",
    "bibliotecaipe": "Microsoft-IIS/10.0",
    "jornalescola": "nginx",
    "spam": "openresty",
}
# A sentence of each site's furniture that an extractor should leave out.
FURNITURE = {
    "escuela": "Este sitio usa cookies para recordar tu visita.",
    "museo": "Utilizamos cookies propias para contar las visitas.",
    "cooperativa": "Esta página guarda una cookie para contar visitas.",
    "bibliopopular": "Al navegar acepta nuestra política de cookies.",
    "bibliotecaipe": "Usamos cookies para melhorar a sua experiência.",
    "jornalescola": "Este site guarda cookies. Ao continuar, você concorda.",
}


# ---------------------------------------------------------------- texts

def read_source(path):
    """Splits a text file into its header fields and its body."""
    head, _, body = path.read_text(encoding="utf-8").partition("\n\n")
    fields = dict(line.split(": ", 1) for line in head.split("\n") if line)
    return fields, body.rstrip("\n")


def load_pages():
    """Returns every page in crawl order, each a dict with url, kind, language, title, blocks and charsets."""
    articles, pages = {}, []
    for language in ("es", "pt", "qu", "gn", "en"):
        for path in sorted((HERE / "texts" / language).glob("*.txt")):
            fields, body = read_source(path)
            kind = "english" if language == "en" else "article"
            if fields.get("declares", "utf-8") != fields.get("bytes", "utf-8"):
                kind = "wrong_charset"
            articles[f"{language}/{path.stem}"] = (fields, body, language)
            pages.append(page_of(fields, body, language, kind, None, f"{language}/{path.stem}"))
    for path in sorted((HERE / "texts" / "traps").glob("*.txt")):
        fields, body = read_source(path)
        pages.append(page_of(fields, body, fields["lang"], fields["kind"], None, f"traps/{path.stem}"))
    for path in sorted((HERE / "texts" / "variants").glob("*.txt")):
        change, edits = read_source(path)
        fields, body, language = articles[change["of"]]
        original = SITES[fields["site"]] + fields["path"]
        merged = {**fields, **{k: v for k, v in change.items() if k not in ("of", "kind")}}
        page = page_of(merged, apply_edits(body, edits, path), language, change["kind"] + "_of", original, f"variants/{path.stem}")
        if change["kind"] == "exact_duplicate":
            page["canonical"] = original
        pages.append(page)
    pages.sort(key=lambda page: hashlib.sha256(page["url"].encode()).hexdigest())
    return pages


def page_of(fields, body, language, kind, original, source):
    site = fields["site"]
    url = SITES[site] + fields["path"]
    return {
        "url": url, "canonical": url, "site": site, "path": fields["path"], "kind": kind, "of": original,
        "language": language, "title": fields["title"], "date": fields["date"], "source": source,
        "blocks": body.split("\n\n") if body else [],
        "declares": fields.get("declares", "utf-8"), "bytes": fields.get("bytes", "utf-8"),
    }


def apply_edits(body, edits, path):
    """Applies pairs of `- old` and `+ new` lines; each old text must occur exactly once."""
    lines = [line for line in edits.split("\n") if line]
    for old, new in zip(lines[::2], lines[1::2], strict=True):
        if not old.startswith("- ") or not new.startswith("+ ") or body.count(old[2:]) != 1:
            raise SystemExit(f"{path}: cannot apply {old!r}")
        body = body.replace(old[2:], new[2:])
    return body


def article_text(page):
    """The text that a perfect extractor would give: title and blocks, one per line."""
    return "\n".join([page["title"]] + [block.removeprefix("## ") for block in page["blocks"]])


# ---------------------------------------------------------------- pages

def render(page, pages):
    """Fills the site's template and encodes it in the page's real charset."""
    template = (HERE / "templates" / f"{page['site']}.html").read_text(encoding="utf-8")
    body = "\n".join(
        f"<h2>{html.escape(b[3:], quote=False)}</h2>" if b.startswith("## ") else f"<p>{html.escape(b, quote=False)}</p>"
        for b in page["blocks"]
    )
    # The exact duplicate is the same payload at another address, so it keeps the original's address inside.
    inner_path = page["canonical"].removeprefix(SITES[page["site"]])
    neighbours = [p for p in pages if p["site"] == page["site"] and p["canonical"] != page["canonical"]
                  and p["kind"] in ("article", "english", "wrong_charset")]
    neighbours.sort(key=lambda p: hashlib.sha256((page["canonical"] + p["url"]).encode()).hexdigest())
    related = "\n".join(f'      <li><a href="{p["path"]}">{html.escape(p["title"], quote=False)}</a></li>' for p in neighbours[:4])
    values = {
        "lang": {"en": "en", "pt": "pt-BR"}.get(page["language"], "es" if page["site"] != "museo" else page["language"]),
        "charset": page["declares"], "title": html.escape(page["title"]),
        "title_json": page["title"].replace('"', '\\"'), "url": page["canonical"], "path": inner_path,
        "date": page["date"], "body": body, "related": related,
        "number": str(int(hashlib.sha256(page["canonical"].encode()).hexdigest()[:4], 16)),
        # Only this site's template leaves the charset to the HTTP header when the two would disagree.
        "meta_charset": f'<meta charset="{page["declares"]}">\n' if page["declares"] == page["bytes"] else "",
    }
    text = re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)
    # A neighbour's title may need a letter that an old charset lacks; HTML writes it as a numeric reference.
    return text.encode(page["bytes"], "xmlcharrefreplace")


# ---------------------------------------------------------------- WARC

def gzip_member(data):
    """One gzip member with no name, no time and a fixed operating-system byte."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = deflate.compress(data) + deflate.flush()
    return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff" + packed + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def sha1_label(data):
    return "sha1:" + base64.b32encode(hashlib.sha1(data).digest()).decode()


def warc_record(headers, block):
    lines = ["WARC/1.0"] + [f"{name}: {value}" for name, value in headers] + [f"Content-Length: {len(block)}"]
    return gzip_member("\r\n".join(lines).encode() + b"\r\n\r\n" + block + b"\r\n\r\n")


def record_id(name):
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, 'https://milpa.example/demo/' + name)}>"


def build_warc(pages):
    info = (
        "software: make_sample.py of the Milpa demo\r\nformat: WARC File Format 1.0\r\n"
        "description: hand-written pages in Spanish, Portuguese, Quechua and Guarani with planted defects\r\n"
        "license: CC0-1.0\r\n"
    ).encode()
    stamp = CRAWL_START.strftime("%Y-%m-%dT%H:%M:%SZ")
    out = [warc_record([
        ("WARC-Type", "warcinfo"), ("WARC-Date", stamp), ("WARC-Filename", "sample.warc.gz"),
        ("WARC-Record-ID", record_id("warcinfo")), ("Content-Type", "application/warc-fields"),
    ], info)]
    for i, page in enumerate(pages):
        when = CRAWL_START + timedelta(seconds=7 * (i + 1))
        payload = render(page, pages)
        http = "\r\n".join([
            "HTTP/1.1 200 OK",
            when.strftime("Date: %a, %d %b %Y %H:%M:%S GMT"),
            f"Server: {SERVERS[page['site']]}",
            f"Content-Type: text/html; charset={page['declares']}",
            f"Content-Length: {len(payload)}",
            datetime.fromisoformat(page["date"]).strftime("Last-Modified: %a, %d %b %Y 09:00:00 GMT"),
            "Cache-Control: max-age=3600",
            "Connection: close",
        ]).encode() + b"\r\n\r\n"
        block = http + payload
        out.append(warc_record([
            ("WARC-Type", "response"), ("WARC-Target-URI", page["url"]),
            ("WARC-Date", when.strftime("%Y-%m-%dT%H:%M:%SZ")), ("WARC-Record-ID", record_id(page["url"])),
            ("WARC-Warcinfo-ID", record_id("warcinfo")), ("WARC-IP-Address", "192.0.2.10"),
            ("WARC-Payload-Digest", sha1_label(payload)), ("WARC-Block-Digest", sha1_label(block)),
            ("WARC-Identified-Payload-Type", "text/html"), ("Content-Type", "application/http; msgtype=response"),
        ], block))
    return b"".join(out)


# ---------------------------------------------------------------- entities

CLASS = {"country": "Q6256", "capital": "Q5119", "city": "Q515", "river": "Q4022", "lake": "Q23397", "mountain": "Q8502", "language": "Q34770"}


def build_entities(facts):
    """Turns entities.toml into objects of the shape of a Wikidata dump."""
    def statement(subject, prop, datavalue, datatype, qualifiers=None):
        value_key = hashlib.sha256(f"{subject}{prop}{json.dumps(datavalue, sort_keys=True)}".encode()).hexdigest()
        snak = {"snaktype": "value", "property": prop, "datavalue": datavalue, "datatype": datatype}
        out = {"mainsnak": snak, "type": "statement", "id": f"{subject}${uuid.UUID(value_key[:32])}", "rank": "normal"}
        if qualifiers:
            out["qualifiers"] = qualifiers
            out["qualifiers-order"] = list(qualifiers)
        return out

    def item(subject, prop, target):
        value = {"entity-type": "item", "numeric-id": int(target[1:]), "id": target}
        return statement(subject, prop, {"value": value, "type": "wikibase-entityid"}, "wikibase-item")

    entities = []
    for qid, fact in facts.items():
        kind = fact["kind"]
        if kind == "country":
            about = {"es": "país de América", "pt": "país da América"}
        elif kind == "capital":
            about = {"es": "capital " + facts[fact["country"]]["de_es"], "pt": "capital " + facts[fact["country"]]["de_pt"]}
        else:
            about = {"es": fact["about_es"], "pt": fact["about_pt"]}
        claims = {"P31": [item(qid, "P31", CLASS[kind])]}
        for prop, key in (("P17", "country"), ("P30", "continent"), ("P36", "capital")):
            if key in fact:
                claims[prop] = [item(qid, prop, fact[key])]
        for prop, key in (("P17", "countries"), ("P37", "languages"), ("P47", "borders")):
            if key in fact:
                claims[prop] = [item(qid, prop, target) for target in fact[key]]
        if kind == "capital":
            claims["P1376"] = [item(qid, "P1376", fact["country"])]
        if "at" in fact:
            value = {"latitude": fact["at"][0], "longitude": fact["at"][1], "altitude": None, "precision": 0.1,
                     "globe": "http://www.wikidata.org/entity/Q2"}
            claims["P625"] = [statement(qid, "P625", {"value": value, "type": "globecoordinate"}, "globe-coordinate")]
        if "population" in fact:
            time = {"time": f"+{fact['population_year']}-00-00T00:00:00Z", "timezone": 0, "before": 0, "after": 0, "precision": 9,
                    "calendarmodel": "http://www.wikidata.org/entity/Q1985727"}
            year = {"snaktype": "value", "property": "P585", "datavalue": {"value": time, "type": "time"}, "datatype": "time"}
            amount = {"amount": f"+{fact['population']}", "unit": "1"}
            claims["P1082"] = [statement(qid, "P1082", {"value": amount, "type": "quantity"}, "quantity", {"P585": [year]})]
        entities.append({
            "type": "item", "id": qid,
            "labels": {code: {"language": code, "value": fact[code]} for code in ("es", "pt", "qu", "gn") if code in fact},
            "descriptions": {code: {"language": code, "value": text} for code, text in about.items()},
            "aliases": {}, "claims": claims, "sitelinks": {},
        })
    return entities


# ---------------------------------------------------------------- questions

# (language, template, property of the subject whose value is the answer, kind of the choices, subjects)
# `{of}` is the name with its preposition, `{name}` the bare name.
QUESTIONS = [
    ("es", "¿Cuál es la capital {of}?", "P36", "capital", ["Q419", "Q736", "Q155", "Q733", "Q783", "Q811", "Q774", "Q241"]),
    ("es", "¿De qué país es capital {name}?", "P1376", "country", ["Q1335", "Q1533", "Q2887", "Q3070"]),
    ("es", "¿En qué país está el monte {name}?", "P17", "country", ["Q39739"]),
    ("es", "¿Por cuál de estos países pasa el río {name}?", "P17", "country", ["Q127892"]),
    ("es", "¿Cuál de estos países comparte el lago {name}?", "P17", "country", ["Q35342"]),
    ("es", "¿Cuál de estos países limita con {name}?", "P47", "country", ["Q733", "Q774"]),
    ("es", "¿Cuál de estas es la lengua oficial {of}?", "P37", "language", ["Q155"]),
    ("pt", "Qual é a capital {of}?", "P36", "capital", ["Q419", "Q739", "Q736", "Q298"]),
    ("pt", "De que país {name} é a capital?", "P1376", "country", ["Q2933", "Q1563"]),
    ("pt", "Por qual destes países passa o rio {name}?", "P17", "country", ["Q3783"]),
    ("pt", "Em que país fica o monte {name}?", "P17", "country", ["Q39739"]),
    ("qu", "¿Mayqinmi {name} suyup uma llaqtan?", "P36", "capital", ["Q419", "Q736"]),
    ("gn", "Mbaʼéichapa héra {name} tavusu?", "P36", "capital", ["Q77"]),
    ("gn", "Mbaʼe ñeʼẽpa haʼe {name} ñeʼẽ tetãgua?", "P37", "language", ["Q155"]),
]


def build_questions(entities, facts):
    """Builds the multiple-choice questions from the claims, with the answer in each position in turn."""
    by_id = {entity["id"]: entity for entity in entities}

    def targets(qid, prop):
        return [s["mainsnak"]["datavalue"]["value"]["id"] for s in by_id[qid]["claims"].get(prop, [])]

    def label(qid, language):
        labels = by_id[qid]["labels"]
        return labels.get(language, labels["es"])["value"]

    questions = []
    for language, template, prop, kind, subjects in QUESTIONS:
        for subject in subjects:
            right = targets(subject, prop)
            # Every value of the property is a right answer, and so is the subject's own name out of place.
            wrong = [q for q, fact in facts.items() if fact["kind"] == kind and q not in right and q != subject]
            wrong.sort(key=lambda q: hashlib.sha256(f"{subject}{prop}{q}".encode()).hexdigest())
            position = len(questions) % 4
            choices = [label(q, language) for q in wrong[:3]]
            choices.insert(position, label(right[0], language))
            questions.append({
                "id": f"latam-{len(questions) + 1:03}", "lang": language,
                "question": template.format(of=facts[subject].get(f"de_{language}", ""), name=label(subject, language)),
                "choices": choices, "answer": position, "source": f"entities.jsonl#{subject}",
            })
    return questions


# ---------------------------------------------------------------- expectations and checks

def build_expected(pages):
    def tally(key):
        values = [page[key] for page in pages]
        return {value: values.count(value) for value in sorted(set(values))}

    rows = []
    for page in sorted(pages, key=lambda page: page["url"]):
        row = {"url": page["url"], "kind": page["kind"], "language": page["language"]}
        if page["of"]:
            row["of"] = page["of"]
        row |= {"declared_charset": page["declares"], "actual_charset": page["bytes"], "text_bytes": len(article_text(page).encode())}
        if page["kind"] not in ("spam", "menu_only"):
            paragraphs = [block for block in page["blocks"] if not block.startswith("## ")]
            row |= {"opens_with": paragraphs[0][:60].rstrip(), "closes_with": paragraphs[-1][-60:].lstrip(),
                    "leaves_out": FURNITURE[page["site"]]}
        rows.append(row)
    return {
        "records": len(pages) + 1, "responses": len(pages), "languages": tally("language"), "kinds": tally("kind"),
        "pages": rows,
    }


class VisibleText(HTMLParser):
    """Collects text outside script, style and title, to prove that pages hold what expected.json says."""

    def __init__(self):
        super().__init__()
        self.skip, self.parts = 0, []

    def handle_starttag(self, tag, attrs):
        self.skip += tag in ("script", "style", "title")

    def handle_endtag(self, tag):
        self.skip -= tag in ("script", "style", "title")

    def handle_data(self, data):
        if not self.skip:
            self.parts.append(data)


def shingles(text):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i:i + 5]) for i in range(len(words) - 4)}


def check(warc, pages, entities, questions, expected):
    """Reads the archive back byte by byte and holds it against the sources; raises AssertionError."""
    assert len(warc) < MAX_WARC_BYTES, f"{len(warc)} bytes"
    assert gzip.decompress(warc)
    rest, payloads, records = warc, {}, 0
    while rest:
        inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        record = inflate.decompress(rest)
        assert inflate.eof
        rest = inflate.unused_data
        head, _, tail = record.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        block = tail[:int(headers["Content-Length"])]
        assert lines[0] == "WARC/1.0" and tail[len(block):] == b"\r\n\r\n"
        records += 1
        if headers["WARC-Type"] == "response":
            http, _, payload = block.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in http.decode().split("\r\n")[1:])
            assert int(fields["Content-Length"]) == len(payload)
            assert headers["WARC-Payload-Digest"] == sha1_label(payload) and headers["WARC-Block-Digest"] == sha1_label(block)
            payloads[headers["WARC-Target-URI"]] = payload
    assert records == expected["records"] and len(payloads) == expected["responses"]

    by_url = {page["url"]: page for page in pages}
    for row in expected["pages"]:
        payload = payloads[row["url"]]
        parser = VisibleText()
        parser.feed(payload.decode(row["actual_charset"]))
        visible = " ".join("".join(parser.parts).split())
        for key in ("opens_with", "closes_with", "leaves_out"):
            assert row.get(key, "") in visible, (row["url"], key)
        if row["kind"] == "wrong_charset":
            try:
                wrong = payload.decode(row["declared_charset"])
            except UnicodeDecodeError:
                wrong = ""
            assert row["opens_with"] not in wrong or row["closes_with"] not in wrong, row["url"]
        if row["kind"] == "exact_duplicate_of":
            assert payload == payloads[row["of"]]
        if row["kind"] == "near_duplicate_of":
            a, b = (shingles("\n".join(by_url[url]["blocks"])) for url in (row["url"], row["of"]))
            assert 0.8 < len(a & b) / len(a | b) < 1, row["url"]

    seen, said = {}, {}
    for page in pages:
        if page["of"] or page["kind"] == "spam":
            continue
        for block in page["blocks"]:
            assert not re.search(r"\s{2}|\u00ad|\t|\n", block), (page["source"], block)
            if len(block) >= 30:
                assert block not in seen, (page["source"], seen.get(block), block)
            seen[block] = page["source"]
        for sentence in re.split(r"(?<=[.!?])\s+", "\n".join(page["blocks"])):
            if len(sentence) >= 60:
                assert sentence not in said, (page["source"], said.get(sentence), sentence)
                said[sentence] = page["source"]

    known = {entity["id"] for entity in entities}
    assert len(known) == len(entities)
    for entity in entities:
        for prop in ("P17", "P36", "P37", "P47", "P1376"):
            for s in entity["claims"].get(prop, []):
                assert s["mainsnak"]["datavalue"]["value"]["id"] in known, entity["id"]
    borders = {e["id"]: {s["mainsnak"]["datavalue"]["value"]["id"] for s in e["claims"].get("P47", [])} for e in entities}
    for a, others in borders.items():
        assert all(a in borders[b] for b in others), a
    for q in questions:
        assert len(set(q["choices"])) == 4 and 0 <= q["answer"] < 4, q
        assert q["choices"][q["answer"]] not in q["question"], q
    assert len({q["question"] for q in questions}) == len(questions)


def main():
    facts = tomllib.loads((HERE / "entities.toml").read_text(encoding="utf-8"))
    pages = load_pages()
    entities = build_entities(facts)
    questions = build_questions(entities, facts)
    expected = build_expected(pages)
    warc = build_warc(pages)
    check(warc, pages, entities, questions, expected)

    def lines(rows):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()

    products = {
        "sample.warc.gz": warc, "entities.jsonl": lines(entities), "questions.jsonl": lines(questions),
        "expected.json": (json.dumps(expected, ensure_ascii=False, indent=1) + "\n").encode(),
    }
    for name, data in products.items():
        if "--check" in sys.argv[1:]:
            old = (HERE / name).read_bytes()
            # Compare what is inside the archive: the compressed bytes may change with the zlib version.
            same = gzip.decompress(old) == gzip.decompress(data) if name.endswith(".gz") else old == data
            if not same:
                raise SystemExit(f"{name} differs from its sources: run make_sample.py")
        else:
            (HERE / name).write_bytes(data)
        print(f"{name}: {len(data)} bytes")
    total = {}
    for page in pages:
        for key in (page["language"], "all pages"):
            count, size = total.get(key, (0, 0))
            total[key] = (count + 1, size + len(article_text(page).encode()))
    for key, (count, size) in sorted(total.items()):
        print(f"{key}: {count} pages, {size} bytes of article text")
    print("kinds:", expected["kinds"], "questions:", len(questions), "entities:", len(entities))


if __name__ == "__main__":
    main()
