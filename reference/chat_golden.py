"""Chat templates: golden renderings of transformers, and a sweep over published templates.

    pip install transformers jinja2 tokenizers
    python reference/chat_golden.py golden crates/milpa-tokens/tests/it/golden
    cargo build --release -p milpa-tokens --example tokens
    python reference/chat_golden.py check target/release/examples/tokens DATA TEMPLATES...

`golden` writes `chat_cases.json`: templates written here for each extension of transformers, with
text and assistant's spans. `check` renders every `.jinja` file under TEMPLATES (the folder
`chat_templates` of trl's wheel, the published templates of DATA) for many conversations with both,
and compares text, spans in bytes, and the mask of tokens under DATA's GPT-2 and OLMo tokenizers. Both
must fail on the same cases. Exit status 1 if anything differs.
"""

import datetime
import json
import pathlib
import subprocess
import sys
import tempfile

from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

NOW = [2026, 3, 5, 14, 7, 9]


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(*NOW)


chat_template_utils.datetime = FixedTime

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "clima",
            "description": "Dice el clima de un «lugar».",
            "parameters": {
                "type": "object",
                "properties": {
                    "lugar": {"type": "string", "description": "Ciudad, <país>"},
                    "días": {"type": "integer", "enum": [1, 2, 3]},
                    "unidad": {"type": ["string", "null"], "default": None},
                },
                "required": ["lugar"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "hora", "description": "Hora local", "parameters": {"type": "object", "properties": {}}},
    },
]
SYSTEM = {"role": "system", "content": "Eres breve. "}
USER = {"role": "user", "content": "  ¿Mba’éichapa\r\n\n reime?\n"}
REPLY = {"role": "assistant", "content": "Iporã, «aguyje» 👩\u200d🌾.\n"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "type": "function",
            "id": "abc123456",
            "function": {"name": "clima", "arguments": {"lugar": "Asunción", "días": 2, "ok": True, "x": 1.5, "n": None}},
        }
    ],
}
ANSWER = {"role": "tool", "name": "clima", "tool_call_id": "abc123456", "content": '{"grados": 31.5}'}
THINK = {"role": "assistant", "content": "Son 12.", "reasoning_content": "5 + 7\nes 12"}
CONVERSATIONS = {
    "user": {"messages": [USER]},
    "system": {"messages": [SYSTEM, USER]},
    "turns": {"messages": [SYSTEM, USER, REPLY, USER, REPLY]},
    "no system": {"messages": [USER, REPLY, USER]},
    "tools": {"messages": [SYSTEM, USER], "tools": TOOLS},
    "tool call": {"messages": [SYSTEM, USER, CALL, ANSWER, REPLY], "tools": TOOLS},
    "open tool call": {"messages": [USER, CALL], "tools": TOOLS},
    "tool result": {"messages": [USER, CALL, ANSWER], "tools": TOOLS},
    "text arguments": {
        "messages": [USER, {**CALL, "content": "", "tool_calls": [
            {"type": "function", "id": "a", "function": {"name": "hora", "arguments": "{\"a\": 1}"}}]}, ANSWER, REPLY],
        "tools": TOOLS,
    },
    "two calls": {
        "messages": [USER, {**CALL, "content": "Voy. ", "tool_calls": CALL["tool_calls"] * 2}, ANSWER, ANSWER, REPLY, USER],
        "tools": TOOLS,
    },
    "thinking": {"messages": [USER, THINK, USER]},
    "thinking last": {"messages": [SYSTEM, USER, THINK]},
    "think tags": {"messages": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nSí."}, USER]},
    "no thinking": {"messages": [USER], "variables": {"enable_thinking": False}},
    "none content": {"messages": [USER, {"role": "assistant", "content": None}]},
    "empty content": {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]},
    "parts": {"messages": [{"role": "user", "content": [
        {"type": "image"}, {"type": "text", "text": "¿Qué es?"}, {"type": "text", "text": " Di."}]}, REPLY]},
    "all parts": {"messages": [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in (
        ("system", "Sé breve."), ("user", "¿Qué?"), ("assistant", "Nada."))]},
    "two users": {"messages": [USER, USER]},
    "developer": {"messages": [{"role": "developer", "content": "Habla en guaraní."}, USER, REPLY]},
    "documents": {"messages": [USER], "documents": [{"title": "Ley", "text": "Art. 1"}]},
}  # fmt: skip

OWN_TEMPLATES = {
    "generation": "{{ bos_token }}{% for m in messages %}\n  {% if m.role == 'assistant' %}\n    {% generation %}\n"
    "{{ m.content }}{{ eos_token }}\n    {% endgeneration %}\n  {% else %}\n{{ m.role }}: {{ m.content }}\n  {% endif %}\n{% endfor %}",
    "generation trimmed": "{%- for m in messages -%} {%- if m.role == 'assistant' -%} < {%- generation -%} {{ m.content }}"
    " {%- endgeneration -%} > {%- else -%} {{ m.content | trim }} {%- endif -%} {%- endfor -%}",
    "generation scope": "{% set x = 1 %}{% for m in messages %}{% generation %}{% set x = 2 %}{{ x }}{{ loop.index }}"
    "{% endgeneration %}{{ x }}{% endfor %}{% generation %}{% endgeneration %}",
    "tojson": "{{ messages | tojson }}|{{ tools | tojson(indent=2) }}|{{ tools | tojson(separators=(',', ':')) }}"
    "|{{ tools | tojson(sort_keys=true) }}|{{ messages | tojson(ensure_ascii=true) }}|{{ {'a': 1e20, 'b': 0.1, 'c': []} | tojson }}",
    "time": "{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%A, %B %-d, %H:%M:%S %j %p %I %y %a %F') }}",
    "raise": "{% if messages | length > 2 %}{{ raise_exception('demasiados') }}{% endif %}ok",
    "loops": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% if loop.index0 == 3 %}{% break %}"
    "{% endif %}{{ loop.index }}{{ loop.last }}{{ loop.previtem.role }}{% endfor %}",
    "printing": "{{ none }}{{ true }}{{ 1.0 }}{{ [1, 'a', none, true] }}{{ {'a': 'ñ', 'b': [1.5]} }}{{ tools is defined }}{{ nothing }}"
    "{{ messages[0].role }}{{ messages[-1]['role'] }}{{ 7 // 2 }}{{ 7 / 2 }}{{ 2 ** 3 }}{{ 'a' * 3 }}{{ -7 % 3 }}",
    "macros": "{%- macro f(m, x='q') -%}<{{ m.role }}{{ x }}>{%- endmacro -%}{% for m in messages %}{{ f(m) }}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0, last=none) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.last = m.role %}"
    "{% endfor %}{{ ns.n }}{{ ns.last }}",
}


def cases(templates):
    for name, template in templates.items():
        for conversation, given in CONVERSATIONS.items():
            for prompt in (False, True):
                yield name, conversation, {
                    "template": template, "now": NOW, "add_generation_prompt": prompt, **given,
                }  # fmt: skip


def rendered(case):
    # As `apply_chat_template` does before it renders.
    messages = [{k: v for k, v in message.items() if v is not None} for message in case["messages"]]
    try:
        text, spans = chat_template_utils.render_jinja_template(
            [messages],
            tools=case.get("tools"),
            documents=case.get("documents"),
            chat_template=case["template"],
            return_assistant_tokens_mask=True,
            add_generation_prompt=case["add_generation_prompt"],
            bos_token="<s>",
            eos_token="</s>",
            **case.get("variables", {}),
        )
    except Exception as error:
        return {"error": str(error)}
    size = lambda index: len(text[0][:index].encode())
    return {"text": text[0], "spans": [[size(a), size(b)] for a, b in spans[0]]}


def golden(folder):
    made = []
    for name, conversation, case in cases(OWN_TEMPLATES):
        if conversation in ("turns", "tool call", "parts") and case["add_generation_prompt"]:
            result = rendered(case)
            result.pop("error", None)
            made.append({"name": f"{name}, {conversation}", **case, "expect": result})
    text = json.dumps(made, ensure_ascii=False, indent=0)
    (folder / "chat_cases.json").write_text(text + "\n")
    print(f"{len(OWN_TEMPLATES)} templates of our own, {len(made)} cases")


def ours(program, made, *tokenizer):
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "cases.jsonl"
        path.write_text("".join(json.dumps(case) + "\n" for case in made))
        done = subprocess.run([program, "render", path, *tokenizer], check=True, capture_output=True)
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def masks(tokenizer, case):
    try:
        done = tokenizer.apply_chat_template(
            case["messages"], tools=case.get("tools"), documents=case.get("documents"),
            chat_template=case["template"], add_generation_prompt=case["add_generation_prompt"],
            return_assistant_tokens_mask=True, return_dict=True, bos_token="<s>", eos_token="</s>",
            **case.get("variables", {}),
        )  # fmt: skip
    except Exception:
        return None
    return done["input_ids"], [bool(bit) for bit in done["assistant_masks"]]


def check(program, data, folders):
    files = sorted(f for folder in folders for f in pathlib.Path(folder).rglob("*.jinja"))
    templates = {f"{file.parent.parent.name}/{file.name}": file.read_text() for file in files}
    counts = [f"{sum(f.is_relative_to(folder) for f in files)} templates of {pathlib.Path(folder).parent.name}" for folder in folders]
    listed = list(cases({**templates, **OWN_TEMPLATES}))
    made = [case for *_, case in listed]
    results = ours(program, made)
    wrong = failing = spans = 0
    shown = set()
    for (name, conversation, case), mine in zip(listed, results, strict=True):
        theirs = rendered(case)
        if "error" in theirs:
            failing += 1
            equal = "error" in mine
        else:
            spans += bool(theirs["spans"])
            equal = mine == theirs
        if not equal:
            wrong += 1
            if name not in shown:
                shown.add(name)
                a, b = (json.dumps(r, ensure_ascii=False) for r in (theirs, mine))
                at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), 0)
                print("differs:", name, "|", conversation, case["add_generation_prompt"])
                print("    ", a[max(0, at - 60) : at + 100])
                print("    ", b[max(0, at - 60) : at + 100])
    summary = (
        f"{', '.join(counts)} and {len(OWN_TEMPLATES)} of our own, {len(CONVERSATIONS)} conversations, "
        f"with and without prompt: {len(made) - wrong} of {len(made)} equal "
        f"({failing} of them fail in both, {spans} have assistant's spans)"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("allenai_dolma2",):
            path = data / f"tokenizers/olmo/{name}.json"
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
            marked = [case for *_, case in listed if "{% generation" in case["template"] or "{%- generation" in case["template"]]
            bad = count = 0
            for case, mine in zip(marked, ours(program, marked, path), strict=True):
                theirs = masks(tokenizer, case)
                if theirs is None:
                    continue
                count += 1
                if theirs != (mine.get("ids"), mine.get("mask")):
                    bad += 1
                    if bad <= 5:
                        print("mask differs:", case["template"][:80], case["messages"][-1:], mine.get("error"))
            summary += f"; {count - bad} of {count} masks of tokens equal"
            wrong += bad
    print(summary)
    sys.exit(1 if wrong else 0)


def main():
    command, *arguments = sys.argv[1:]
    if command == "golden":
        golden(pathlib.Path(arguments[0]))
    else:
        check(arguments[0], pathlib.Path(arguments[1]), arguments[2:])


if __name__ == "__main__":
    main()
