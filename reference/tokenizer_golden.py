"""Writes the golden values of crates/milpa-tokens/tests/it/golden/: ids and rendered templates.

    pip install tokenizers transformers jinja2
    python reference/tokenizer_golden.py DATA crates/milpa-tokens/tests/it/golden

DATA is the folder that the tests find through MILPA_DATA. `ids.json` holds the ids of Hugging Face
tokenizers for a fixed set of texts under the published tokenizers; `chat_templates.json` holds what
transformers makes of each published chat template for three conversations (null where it raises).
"""

import json
import pathlib
import random
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template

from tokenizer_check import load

TOKENIZERS = {
    "gpt2": "gpt2",
    "dolma2": "olmo/allenai_dolma2.json",
    "neox": "olmo/allenai_eleuther-ai-gpt-neox-20b-pii-special.json",
}
PIECES = [
    " ", "  ", "\n", "\r\n", "\t", "'s", "'S", "'ll", "Añamemby", "g\u0303uahe", "\u0303", "1", "2024",
    "<|endoftext|>", "|||IP_ADDRESS|||", "<|", "                ", "...", "¿Qué?", "\u00a0",
    "日本語", "👩\u200d🌾", "e\u0301", "'ſ", "ñuqaykuqa", "coração", "_", "#", "\u0301", "Ⅷ", "½",
]  # fmt: skip
CONVERSATIONS = [
    ["system", "user", "assistant", "user"],
    ["user", "assistant"],
    ["user"],
]
WORDS = {
    "system": "Eres breve. ",
    "user": "  ¿Mba’éichapa\r\n\n reime?\n",
    "assistant": "Iporã, «aguyje».\n",
}


def texts():
    pick = random.Random(11)
    return [
        "Mba’éichapa, che irũ? Ag\u0303uyjevete; p'isqukuna 3,1416 m² 'TIS we'll\n\n  fin \n",
        "a" * 300,
        "",
        *("".join(pick.choice(PIECES) for _ in range(pick.randrange(1, 16))) for _ in range(60)),
    ]


def golden_ids(data):
    result = {"texts": texts()}
    for name, path in TOKENIZERS.items():
        result[name] = {}
        for mode in ("plain", "special"):
            tokenizer = load(data / "tokenizers" / path, mode == "special")
            result[name][mode] = [
                tokenizer.encode(text, add_special_tokens=False).ids for text in result["texts"]
            ]
    return result


def golden_templates(data):
    result = {}
    for path in sorted((data / "tokenizers/chat_templates/chat_templates").glob("*.jinja")):
        template = _compile_jinja_template(path.read_text())
        rendered = []
        for roles in CONVERSATIONS:
            messages = [{"role": role, "content": WORDS[role]} for role in roles]
            try:
                rendered.append(
                    template.render(
                        messages=messages,
                        tools=None,
                        documents=None,
                        add_generation_prompt=roles[-1] == "user",
                        bos_token="<s>",
                        eos_token="</s>",
                    )
                )
            except Exception:
                rendered.append(None)
        result[path.stem] = rendered
    return result


def main():
    data, out = map(pathlib.Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    for name, value in (("ids", golden_ids(data)), ("chat_templates", golden_templates(data))):
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        (out / f"{name}.json").write_text(text + "\n")
    print(f"{len(texts())} texts under {len(TOKENIZERS)} tokenizers, templates with {len(CONVERSATIONS)} conversations")


if __name__ == "__main__":
    main()
