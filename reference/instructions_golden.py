#!/usr/bin/env python3
"""Writes IFEval's verdicts for responses that keep and break each of its 25 kinds, as lm_eval gives them.

  instructions_golden.py OUT    writes the JSON file OUT

The responses are made here: some are built to keep or break a kind, the rest are assembled from parts
that the checkers look for, so that every kind is met by responses meant for others too. Each case
has the strict and the loose verdict.

Needs: lm_eval, langdetect, immutabledict, nltk, and the package llama-index-core, whose wheel holds
NLTK's Punkt model as data (only that folder is read). Set PUNKT to a folder with `tokenizers/punkt_tab` to
use another copy. langdetect is seeded; no network is used.
"""
import importlib.util
import json
import os
import pathlib
import random
import sys


def punkt():
    if "PUNKT" in os.environ:
        return os.environ["PUNKT"]
    found = importlib.util.find_spec("llama_index")
    for place in found.submodule_search_locations if found else []:
        folder = pathlib.Path(place) / "core" / "_static" / "nltk_cache"
        if (folder / "tokenizers" / "punkt_tab" / "english").is_dir():
            return str(folder)
    sys.exit("no Punkt model: install llama-index-core without its dependencies, or set PUNKT")


os.environ["NLTK_DATA"] = punkt()
import langdetect  # noqa: E402
from lm_eval.tasks.ifeval import utils  # noqa: E402

SEED = 20
LETTER = ("Dear neighbours, the river rose again last night. We carried the seeds to the school, and Mr. Ortega "
          "opened the gate at 6 a.m. for us. Who will help tomorrow? Bring rope, bread and lamps! It cost $3.50 "
          "per person... and nobody complained.")
POEM = "the maize is green\nthe beans climb up\nthe squash lies low and shades the ground"
LIST = "What to bring:\n* a rope\n* bread, water\n- a lamp\n  * batteries\n** not a star item"
NUMBERED = "Steps:\n1. Soak the maize.\n2. Boil it with lime.\n3. Rinse and grind."
SECTIONS = "SECTION 1\nThe field.\nSECTION 2\nThe harvest.\n\nSection 3\nThe market."
MARKED = "*one* and **two** and ***three*** but * * is empty and ** ** too, *broken\nline*"
BRACKETS = "Write to [name] at [address], [city]. [] [open"
TITLED = "<<The milpa>>\nIt feeds us. <<>> << >>"
CAPITALS = "NASA and the U.S. Army met B2B firms; AT&T, UTF-8, I'M and CAN'T (OK) \"YES\" **LOUD** ONE/TWO no-NO."
SHOUTED = "THE MAIZE IS GREEN AND THE BEANS ARE CLIMBING UP THE STALKS WHILE WE SLEEP IN THE OLD HOUSE BY THE RIVER."
QUOTED = "\"All of this is between quotation marks, she said. \"Really?\" Yes!\""
TWO = "The first answer is maize.\n******\nThe second answer is beans."
STARS = "First paragraph, with a comma.\n\n***\n\nSecond paragraph.\n***\nThird one."
BLANKS = "'For us, the field is home.\n\nIt's \"home\" because we work there.\n\nHowever, it floods."
SPANISH = ("El maíz, el frijol y la calabaza crecen juntos en la milpa. Cada familia guarda sus semillas, y en la "
           "escuela las niñas y los niños aprenden a sembrarlas con sus abuelos.")
GERMAN = ("Der Mais, die Bohnen und der Kürbis wachsen zusammen auf dem Feld. Jede Familie bewahrt ihr Saatgut auf, "
          "und in der Schule lernen die Kinder, wie man es sät.")
HINDI = "मक्का, सेम और कद्दू एक साथ खेत में उगते हैं और हर परिवार अपने बीज बचाकर रखता है।"
OBJECT = "{\"maize\": [1, 2.5e400, \"\\ud800\"], \"beans\": {\"green\": true, \"rope\": null}}"
POSTSCRIPTS = ["P.S. Bring bread.", "p. s. bring bread", "P.P.S Bring more.", "p.p. s. bring", "PS: none"]
BASES = [LETTER, POEM, LIST, NUMBERED, SECTIONS, MARKED, BRACKETS, TITLED, CAPITALS, SHOUTED, QUOTED, TWO, STARS,
         BLANKS, SPANISH, GERMAN, HINDI, OBJECT, f"```json\n{OBJECT}\n```", f"```\n{OBJECT}", "{maize: 1}",
         "My answer is yes.", "I say: My answer is maybe. Or not.", "", " \n ", "Maize", "one two_three four-five 6",
         "Same\n******\nSame", "******\nOne\n******\nTwo\n******", "a******\n******b", "***\none\n***", "a***b***c"]

CASES = [
    ("keywords:existence", {"keywords": ["maize", "beans"]}),
    ("keywords:existence", {"keywords": ["rope", "bread", "lamp"]}),
    ("keywords:frequency", {"keyword": "the", "frequency": 4, "relation": "at least"}),
    ("keywords:frequency", {"keyword": "maize", "frequency": 2, "relation": "less than"}),
    ("keywords:forbidden_words", {"forbidden_words": ["field", "rope"]}),
    ("keywords:forbidden_words", {"forbidden_words": ["house", "us"]}),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 12, "let_relation": "at least"}),
    ("keywords:letter_frequency", {"letter": "O", "let_frequency": 5, "let_relation": "less than"}),
    ("language:response_language", {"language": "es"}),
    ("language:response_language", {"language": "de"}),
    ("language:response_language", {"language": "hi"}),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}),
    ("length_constraints:number_sentences", {"num_sentences": 5, "relation": "at least"}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 3}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 1}),
    ("length_constraints:number_words", {"num_words": 20, "relation": "at least"}),
    ("length_constraints:number_words", {"num_words": 8, "relation": "less than"}),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 3, "nth_paragraph": 1, "first_word": "For"}),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 3, "nth_paragraph": 3, "first_word": "However"}),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "dear"}),
    ("detectable_content:number_placeholders", {"num_placeholders": 3}),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 4}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}),
    ("detectable_format:constrained_response", {}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 4}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2}),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 1}),
    ("detectable_format:json_format", {}),
    ("detectable_format:title", {}),
    ("combination:two_responses", {}),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Dear neighbours, the River rose "}),
    ("startend:end_checker", {"end_phrase": "nobody complained."}),
    ("startend:end_checker", {"end_phrase": "Bring bread"}),
    ("startend:quotation", {}),
    ("change_case:capital_word_frequency", {"capital_frequency": 3, "capital_relation": "at least"}),
    ("change_case:capital_word_frequency", {"capital_frequency": 12, "capital_relation": "less than"}),
    ("change_case:capital_word_frequency", {"capital_frequency": 13, "capital_relation": "at least"}),
    ("change_case:english_capital", {}),
    ("change_case:english_lowercase", {}),
    ("punctuation:no_comma", {}),
]


def responses():
    draw = random.Random(SEED)
    made = list(BASES)
    made += [base + "\n\n" + draw.choice(POSTSCRIPTS) for base in draw.sample(BASES, 8)]
    made += ["Sure, here it is:\n\n" + base + "\n\nI hope this helps." for base in draw.sample(BASES, 8)]
    made += [base.lower() for base in (LETTER, CAPITALS, STARS)]
    made += [base.upper() for base in (LETTER, POEM, NUMBERED, SPANISH)]
    made += ["\n\n".join(draw.sample([LETTER, NUMBERED, CAPITALS, BLANKS, LIST], 2)) for _ in range(6)]
    return list(dict.fromkeys(made))


def main(out):
    made, cases = responses(), []
    for kind, arguments in CASES:
        strict, loose = [], []
        for response in made:
            given = utils.InputExample(0, [kind], "", [dict(arguments)])
            # A generator of its own for each text: the verdict does not depend on the order.
            langdetect.DetectorFactory.seed = 0
            strict.append(utils.test_instruction_following_strict(given, response).follow_all_instructions)
            loose.append(utils.test_instruction_following_loose(given, response).follow_all_instructions)
        # 1 is kept; a digit for each response.
        digits = ["".join(str(int(kept)) for kept in verdicts) for verdicts in (strict, loose)]
        cases.append({"id": kind, "kwargs": arguments, "strict": digits[0], "loose": digits[1]})
    lines = ["{", '"peer": "lm_eval ' + importlib.import_module("importlib.metadata").version("lm_eval") + '",',
             '"responses": [', ",\n".join(json.dumps(text, ensure_ascii=False) for text in made), "],",
             '"cases": [', ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases), "]", "}"]
    pathlib.Path(out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    kept = sum(case["strict"].count("1") for case in cases)
    print(f"{len(CASES)} constraints of {len({case['id'] for case in cases})} kinds x {len(made)} responses, "
          f"{kept} kept strictly")
    for case in cases:
        if "1" not in case["strict"] or "0" not in case["strict"]:
            print("one-sided:", case["id"], case["kwargs"])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
