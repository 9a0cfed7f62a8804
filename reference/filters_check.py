#!/usr/bin/env python3
"""Holds the heuristic filters against datatrove's, decision by decision, and times datatrove's.

  documents DATA OUT [COUNT]  writes documents as JSONL: pages of DATA/web (main text, and all text of
                              the page), pieces of DATA/text, and mutations of both, so that every rule
                              drops hundreds; the same bytes each time
  natural DATA OUT            writes the documents of DATA/text as they are, for the example
                              derive_thresholds
  check OURS FILE [built-in]  runs OURS (the built example filter_documents of milpa-corpus) and datatrove
                              over FILE with datatrove's parameters, or with the thresholds built in
                              here; prints the matrix of decisions; fails below 99.9 % agreement
  golden OUT                  writes documents of made-up words with datatrove's decisions
  time OURS FILE              runs datatrove's filters as FineWeb's pipeline, with the thresholds built in
                              here; prints a JSON object

Both sides cut words by the same rules: datatrove takes spaCy's blank pipelines for English, Spanish
and Portuguese and the one for no language in particular (`xx`) for Quechua, Guaraní, Nahuatl and
all others here; they come inside spaCy's wheel and need no download, and milpa_text::WordRules
implements them. Nothing of datatrove is replaced.

Needs: datatrove, spacy, zstandard, blake3. No network is used.
"""
import collections
import html.parser
import io
import json
import math
import pathlib
import random
import subprocess
import sys
import time

PIECES = {"es_novels_a": "spa", "es_novels_b": "spa", "en_novels": "eng", "pt_novels": "por", "es_law_peru": "spa"}
INDIGENOUS = {"gn": "gug", "aym": "ayr", "nah": "nhe", "oto": "ote"}
# Least share of documents on which both sides decide the same.
LEAST = 0.999
SKIPPED = {"script", "style", "noscript", "template", "svg"}


class AllText(html.parser.HTMLParser):
    """All text of a page, a line for each element: noise that filters are made for."""

    def __init__(self):
        super().__init__()
        self.lines, self.depth = [], 0

    def handle_starttag(self, tag, attrs):
        self.depth += tag in SKIPPED

    def handle_endtag(self, tag):
        self.depth -= tag in SKIPPED and self.depth > 0

    def handle_data(self, data):
        if self.depth == 0 and data.strip():
            self.lines.append(" ".join(data.split()))


def rows(path):
    import zstandard

    with open(path, "rb") as file:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
            yield json.loads(line)


def pages(data):
    """The main text of each page, and all of its text."""
    for name in ["wcxb_dev_a", "wcxb_dev_b", "zyte_dev"]:
        for row in rows(data / "web" / f"{name}.jsonl.zst"):
            truth = row["ground_truth"]
            yield "eng", truth.get("main_content") or truth.get("articleBody") or ""
            parser = AllText()
            parser.feed(row["html"])
            yield "eng", "\n".join(parser.lines)


def texts(data):
    """Pieces of novels and law, chapters, and groups of sentences."""
    for name, language in PIECES.items():
        for row in rows(data / "text" / f"{name}.jsonl.zst"):
            lines = row["text"].split("\n")
            step = 40 if "law" in name else 60
            for at in range(0, min(len(lines), 30 * step), step):
                yield language, "\n".join(lines[at : at + step])
    waiting = collections.defaultdict(list)
    for row in rows(data / "text" / "indigenous.jsonl.zst"):
        language = INDIGENOUS.get(row["lang"], row["lang"])
        if row["kind"] == "bible_chapter":
            yield language, row["text"]
            continue
        waiting[language].append(row["text"])
        if len(waiting[language]) == 12:
            yield language, "\n".join(waiting.pop(language))
    sentences = [row["text"] for row in rows(data / "text" / "pt_br_news_sentences.jsonl.zst")]
    for at in range(0, len(sentences), 8):
        yield "por", " ".join(sentences[at : at + 8])


def mutate(random, text):
    """One of the ways in which pages go wrong, in a random strength."""
    lines = text.split("\n")
    words = text.split(" ")
    share = random.random()
    some = lambda line, new: new(line) if random.random() < share else line
    kind = random.randrange(24)
    if kind == 0:  # repeated lines
        return "\n".join(lines + random.choices(lines, k=int(share * 2 * len(lines))))
    if kind == 1:  # repeated paragraphs
        return "\n\n".join(lines + random.choices(lines, k=int(share * 2 * len(lines))))
    if kind == 2:  # bullets
        return "\n".join(some(line, lambda line: random.choice(["- ", "• ", "* "]) + line) for line in lines)
    if kind == 3:  # cut lines
        return "\n".join(some(line, lambda line: line[:40] + random.choice(["...", "…"])) for line in lines)
    if kind == 4:  # filler text
        lines[random.randrange(len(lines))] += " Lorem ipsum dolor sit amet."
        return "\n".join(lines)
    if kind == 5:  # notes on scripts and policies
        notes = ["Please enable JavaScript to go on.", "See our Privacy Policy.", "This site uses cookies."]
        return "\n".join(some(line, lambda line: random.choice(notes)) for line in lines)
    if kind == 6:  # code
        lines[random.randrange(len(lines))] = "function go() { return 1; }."
        return "\n".join(lines)
    if kind == 7:  # short
        return " ".join(words[: random.randrange(1, 80)])
    if kind == 8:  # tags
        return " ".join(some(word, lambda word: "#" + word) if random.random() < 0.3 else word for word in words)
    if kind == 9:  # numbers
        return " ".join(some(word, lambda _: str(random.randrange(10**4))) for word in words)
    if kind == 10:  # words run together
        return " ".join("".join(words[at : at + 4]) if random.random() < share else " ".join(words[at : at + 4]) for at in range(0, len(words), 4))
    if kind == 11:  # letters apart
        return " ".join(some(word, lambda word: " ".join(word)) for word in words)
    if kind == 12:  # a phrase again and again
        at = random.randrange(len(words))
        phrase = " ".join(words[at : at + random.randrange(2, 12)])
        return " ".join(f"{word} {phrase}" if random.random() < share / 6 else word for word in words)
    if kind == 13:  # ellipses in the text
        return " ".join(some(word, lambda word: word + "...") if random.random() < 0.4 else word for word in words)
    if kind == 14:  # a line for each few words
        size = random.randrange(1, 9)
        return "\n".join(" ".join(words[at : at + size]) for at in range(0, len(words), size))
    if kind == 15:  # lines without an end
        return "\n".join(some(line, lambda line: line.rstrip(".!?")) for line in lines)
    if kind == 16:  # a few lines copied
        return "\n".join(lines + lines[: 1 + int(share * 3)])
    if kind == 17:  # references
        return " ".join(some(word, lambda word: word + f"[{random.randrange(30)}]") if random.random() < 0.1 else word for word in words)
    if kind == 18:  # no function words
        return " ".join(word for word in words if len(word) > 4 or random.random() > share)
    if kind == 19:  # long
        return "\n".join([text] * random.randrange(2, 30))
    if kind == 20:  # odd spaces and line ends
        ends = ["\r\n", "\n\n", "\u2028", "\x0b", " \n ", "\t", "\u00a0", "\x1c", "\n\n\n"]
        return "".join(some(char, lambda char: random.choice(ends)) if char in " \n" and random.random() < 0.05 else char for char in text)
    if kind == 21:  # marks
        marks = ["—", "…", "!!", "?)", '"', "(", ":)", "$5", "10%", "→", "©", "a/b", "x@y.org", "www.x.org/a", "“", "'s", "US$", "+"]
        return " ".join(some(word, lambda word: word + random.choice(marks) * random.randrange(1, 3)) for word in words)
    if kind == 22:  # nothing but space or marks
        return random.choice(["", " \n ", "...", "\n\n", "— —", "()", "a"]) * random.randrange(1, 4)
    # the words of the text in any order, many times the same
    few = random.sample(words, k=min(len(words), 5 + int(share * 60)))
    return " ".join(random.choice(few) for _ in range(300))


def documents(data):
    chance = random.Random(1)
    originals = [(language, text[:8_000]) for source in (pages, texts) for language, text in source(data)]
    chance.shuffle(originals)
    originals = originals[:8_000]
    for language, text in originals:
        yield language, text
    while True:
        for language, text in originals:
            yield language, mutate(chance, text[: chance.choice([800, 1_500, 3_000])])


def filters(limits, language):
    """datatrove's filters with the limits of a language; with `None` its own."""
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.utils.word_tokenizers import load_tokenizer_assignments

    # Languages that its table lacks are cut as all without rules of their own.
    name = language if language in load_tokenizer_assignments() else "arn"
    if limits is None:
        made = GopherRepetitionFilter(language=name), GopherQualityFilter(language=name), C4QualityFilter(language=name), FineWebQualityFilter(language=name)
    else:
        # JSON has no word for infinity: a limit that is off comes as null.
        of = lambda name: math.inf if limits.get(name) is None else limits[name]
        made = (
            GopherRepetitionFilter(
                dup_line_frac=of("max_repeated_lines"),
                dup_para_frac=of("max_repeated_paragraphs"),
                dup_line_char_frac=of("max_repeated_line_chars"),
                dup_para_char_frac=of("max_repeated_paragraph_chars"),
                top_n_grams=[(n, of(f"max_top_{n}_gram")) for n in (2, 3, 4)],
                dup_n_grams=[(n, of(f"max_repeated_{n}_grams")) for n in range(5, 11)],
                language=name,
            ),
            GopherQualityFilter(
                min_doc_words=of("min_words"),
                max_doc_words=of("max_words"),
                min_avg_word_length=of("min_mean_word_length"),
                max_avg_word_length=of("max_mean_word_length"),
                max_symbol_word_ratio=of("max_symbols_per_word"),
                max_bullet_lines_ratio=of("max_bullet_lines"),
                max_ellipsis_lines_ratio=of("max_ellipsis_lines"),
                max_non_alpha_words_ratio=of("min_letter_words"),
                min_stop_words=of("min_stop_words") if limits["stop_words"] else None,
                stop_words=limits["stop_words"],
                language=name,
            ),
            C4QualityFilter(language=name),
            FineWebQualityFilter(
                line_punct_thr=of("min_sentence_lines"),
                short_line_thr=of("max_short_lines"),
                short_line_length=of("short_line_chars"),
                char_duplicates_ratio=of("max_copied_line_chars"),
                new_line_ratio=of("max_lines_per_word"),
                language=name,
            ),
        )
    return dict(zip(["gopher_repetition", "gopher_quality", "c4", "fineweb"], made))


def decide(filter, text):
    """The rule that drops `text`, or `None`; and the text that is left."""
    from datatrove.data import Document

    document = Document(text=text, id="")
    verdict = filter.filter(document)
    return (None if verdict is True else verdict[1]), document.text


def compare(ours, file, own):
    from blake3 import blake3

    run = lambda action: subprocess.run([ours, file, *(["--built-in"] if own else []), action], check=True, capture_output=True, text=True).stdout
    limits = json.loads(run("limits")) if own else collections.defaultdict(lambda: None)
    decisions = run("decisions").splitlines()
    made, matrix, texts, examples = {}, collections.Counter(), collections.Counter(), []
    with open(file, encoding="utf-8") as lines:
        for line, decision in zip(lines, decisions, strict=True):
            row, decision = json.loads(line), json.loads(decision)
            language = row["language"]
            if language not in made:
                made[language] = filters(limits[language], language)
            for name, filter in made[language].items():
                rule, left = decide(filter, row["text"])
                matrix[name, rule, decision[name]] += 1
                if rule != decision[name]:
                    examples.append((name, language, rule, decision[name], row["text"][:120]))
                if name == "c4" and rule is None and decision[name] is None:
                    texts[blake3(left.encode()).hexdigest() == decision["c4_text"]] += 1
    print(f"\n{len(decisions)} documents, {'thresholds built in' if own else 'parameters of datatrove'}")
    worst = 1.0
    for name in ["gopher_repetition", "gopher_quality", "c4", "fineweb"]:
        cells = {(theirs, mine): count for (filter, theirs, mine), count in matrix.items() if filter == name}
        equal = sum(count for (theirs, mine), count in cells.items() if theirs == mine)
        worst = min(worst, equal / len(decisions))
        print(f"{name}: the same rule for {equal} of {len(decisions)}, {equal / len(decisions):.5%}")
        for rule in sorted({theirs for theirs, _ in cells}, key=str):
            of_rule = {mine: count for (theirs, mine), count in cells.items() if theirs == rule}
            others = {str(mine): count for mine, count in of_rule.items() if mine != rule}
            print(f"  {str(rule or 'kept'):32} {sum(of_rule.values()):6}  same {of_rule.get(rule, 0):6}  other {others or ''}")
    print(f"text that C4 leaves: the same for {texts[True]}, another for {texts[False]}")
    for example in examples[:12]:
        print("  differs:", *map(repr, example))
    if worst < LEAST:
        sys.exit(f"agreement {worst:.5%} is below {LEAST:.1%}")


def golden(out):
    """Documents of made-up words, enough of each rule for a test that needs no Python."""
    chance = random.Random(2)
    little = {"eng": "the of and that to with".split(), "spa": "el la de que y en".split(), "por": "o a de que e em".split(), "quy": "chay kay mana ima".split()}
    syllables = "ka lu mi ro ta ne so pi cha ña ti re".split()
    seen, kept = collections.Counter(), []
    for number in range(15_000):
        language = chance.choice(list(little))
        long = 4 if language == "quy" else 2
        word = lambda: chance.choice(little[language]) if chance.random() < 0.4 else "".join(chance.choices(syllables, k=chance.randrange(1, long + 1)))
        line = lambda: " ".join(word() for _ in range(chance.randrange(3, 14))).capitalize() + "."
        text = "\n".join(line() for _ in range(chance.randrange(4, 9)))
        if number % 500 == 0:  # long words
            text = " ".join("".join(chance.choices(syllables, k=chance.randrange(6, 9))) for _ in range(60))
        elif number % 500 == 1:  # lines of two long words that end
            line = lambda: " ".join("".join(chance.choices(syllables, k=8)) for _ in range(2)) + "."
            text = "\n".join(line() for _ in range(25))
        elif chance.random() < 0.9:
            text = mutate(chance, text)
        if len(text) > 1_200:
            continue
        made = filters(None, language)
        decisions = {name: decide(filter, text)[0] for name, filter in made.items()}
        new = [(name, rule) for name, rule in decisions.items() if seen[name, rule] < 4]
        if new:
            seen.update(decisions.items())
            kept.append({"language": language, "text": text, **decisions})
    for key, count in sorted(seen.items(), key=str):
        print(*key, count)
    words = [
        ("eng", "I can't, you shouldn’t: it's Mr. X's (U.S.) well-known 3-day... deal—now!"),
        ("eng", "See https://example.org/a?b=c, mail a.b@example.com; cannot gonna let's 5kg 10% $20 US$3"),
        ("spa", "¿Qué dijo el Sr. Paz?—Nada;«pal» pueblo, p.ej. a 40km/h, 12m. y 3pm. Núm. 5º, 50%."),
        ("por", "Custa R$50, diz o Dr. Sá: guarda-chuva,bem-te-vi e/ou art. 5º… Ph.D."),
        ("quy", "Ñuqanchikpa 'hinaspam' wawankunata, yachachinku:) imayna—allpata. K'anchay! 2-3 a.b C.D"),
        ("gug", "Che ha'e peteĩ g\u0303uahe, ko’ẽro!! ñe'ẽ—joja (opa) :D"),
    ]
    import spacy
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    # All words for which spaCy has a rule of its own; one with a space inside is two here.
    for language, code in [("eng", "en"), ("spa", "es"), ("por", "pt"), ("quy", "xx")]:
        own = sorted(text for text in spacy.blank(code).tokenizer.rules if not any(map(str.isspace, text)))
        words.append((language, " ".join(own)))
    cut = [{"language": language, "text": text, "words": load_word_tokenizer(language).word_tokenize(text)} for language, text in words]
    print(f"{len(kept)} documents that show {len(seen)} decisions; {len(cut)} sentences cut into words")
    pathlib.Path(out).write_text(json.dumps({"documents": kept, "words": cut}, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def timed(ours, file):
    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter

    limits = json.loads(subprocess.run([ours, file, "--built-in", "limits"], check=True, capture_output=True, text=True).stdout)
    made, work = {}, []
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            language = row["language"]
            if language not in made:
                these = filters(limits[language], language)
                these["c4"] = C4QualityFilter(filter_no_terminal_punct=False, language=these["c4"].language)
                made[language] = list(these.values())
                # Loads the rules of the language before the clock runs.
                decide(these["gopher_quality"], "Uno.")
            work.append((made[language], Document(text=row["text"], id="")))
    size = sum(len(document.text.encode()) for _, document in work)
    begin, kept = time.perf_counter(), 0
    for these, document in work:
        kept += all(filter.filter(document) is True for filter in these)
    seconds = time.perf_counter() - begin
    print(json.dumps({"documents": len(work), "bytes": size, "kept": kept, "seconds": seconds}))


def main(action, *rest):
    if action == "documents":
        data, out = map(pathlib.Path, rest[:2])
        count = int(rest[2]) if len(rest) > 2 else 30_000
        with open(out, "w", encoding="utf-8") as file:
            for (language, text), _ in zip(documents(data), range(count)):
                file.write(json.dumps({"language": language, "text": text}, ensure_ascii=False) + "\n")
    elif action == "natural":
        data, out = map(pathlib.Path, rest)
        with open(out, "w", encoding="utf-8") as file:
            for language, text in texts(data):
                file.write(json.dumps({"language": language, "text": text}, ensure_ascii=False) + "\n")
    elif action == "check":
        ours, file, *own = rest
        compare(ours, file, own == ["built-in"])
    elif action == "golden":
        golden(*rest)
    elif action == "time":
        timed(*rest)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
