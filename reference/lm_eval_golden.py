#!/usr/bin/env python3
"""Holds `milpa eval run` against lm-evaluation-harness: prompts, examples, log-likelihoods, metrics.

  golden OUT        writes tasks with their documents to OUT, and what lm_eval makes of them with a model
                    of its own there (requests, answers, metrics) as expected.json
  check MILPA TASKS [--data DATA] [--model DIR]...
                    runs lm_eval and MILPA (the binary) on the tasks of the folder TASKS, and with
                    --data on tasks over DATA/eval as well, with a random Llama and each model given;
                    fails unless prompts are equal, examples are the same documents, log-likelihoods
                    within 1e-4 (6e-7 of long sums) and metrics equal; prints times and memory of both
  model OUT         writes the random Llama to OUT
  cold MILPA        a cold run of four questions by both: seconds and memory

A generated text is compared up to the first token at which the two best tokens are closer than
floating point tells apart; how often that happened is printed.

Needs: lm_eval, torch, transformers, tokenizers. No network is used.
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false",
                  TRANSFORMERS_VERBOSITY="error", LMEVAL_LOG_LEVEL="ERROR")
# Largest difference of a log-likelihood, and its share of sums of more than 170 nats: held against f64, f32 is
# off by up to 1e-4 on either side (600 requests of 200 to 700 nats: PyTorch 9.7e-5, ours 1.0e-4), in what is then
LARGEST = 1e-4
# up to 5e-7 of the sum.
SHARE = 6e-7

COUNTRIES = [
    ("Perú", "Lima", "sol", "Machu Picchu"), ("Chile", "Santiago", "peso", "Atacama"),
    ("Bolivia", "Sucre", "boliviano", "Uyuni"), ("Paraguay", "Asunción", "guaraní", "Itaipú"),
    ("Uruguay", "Montevideo", "peso", "Colonia"), ("México", "Ciudad de México", "peso", "Teotihuacán"),
    ("Guatemala", "Guatemala", "quetzal", "Tikal"), ("Honduras", "Tegucigalpa", "lempira", "Copán"),
    ("Costa Rica", "San José", "colón", "Arenal"), ("Panamá", "Panamá", "balboa", "el Canal"),
    ("Brasil", "Brasília", "real", "Iguaçu"), ("Ecuador", "Quito", "dólar", "Galápagos"),
]
PHRASES = [
    ("El maíz crece en la milpa.", "O milho cresce na roça."), ("La lluvia llegó tarde.", "A chuva chegou tarde."),
    ("¿Dónde está la escuela?", "Onde fica a escola?"), ("El río baja con fuerza.", "O rio desce com força."),
    ("Mañana hay mercado.", "Amanhã há feira."), ("La abuela cuenta cuentos.", "A avó conta histórias."),
]


def documents():
    """Documents of every kind, the same each time."""
    draw = random.Random(7)
    capitals, letters, sums, blanks = [], [], [], []
    for number, (country, capital, currency, place) in enumerate(COUNTRIES):
        others = [row[1] for row in COUNTRIES if row[1] != capital]
        choices = draw.sample(others, 3) + [capital]
        draw.shuffle(choices)
        capitals.append({"id": f"c{number}", "country": country, "question": f"¿Cuál es la capital de {country}?",
                         "choices": choices, "answer": choices.index(capital)})
        options = draw.sample(sorted({row[2] for row in COUNTRIES if row[2] != currency}), 2) + [currency]
        draw.shuffle(options)
        letters.append({"question": f"Moneda de {country}", "a": options[0], "b": options[1], "c": options[2],
                        "key": "ABC"[options.index(currency)], "topic": "economía" if number % 2 else "países"})
        blanks.append({"sentence": f"En {country} se visita _ cada año.", "option1": place,
                       "option2": COUNTRIES[number - 1][3], "answer": "1"})
    for number in range(14):
        a, b = draw.randrange(2, 60), draw.randrange(2, 60)
        sums.append({"question": f"Ana tiene {a} mazorcas y recoge {b}. ¿Cuántas tiene?",
                     "answer": f"Tiene {a} + {b} = {a + b} mazorcas.\n#### {a + b}"})
    cloze = [{"text": f"La moneda de {c} es", "end": f" el {m}"} for c, _, m, _ in COUNTRIES]
    pages = [{"page": " ".join(draw.choice(PHRASES)[n % 2] for _ in range(length))}
             for n, length in enumerate([1, 3, 40, 90])] + [{"page": " Empieza y termina en blanco. "}]
    spans = [{"context": f"{c} tiene su capital en {k} y usa el {m}.", "question": f"¿Qué moneda usa {c}?",
              "answers": {"text": [m, f"el {m}"]}} for c, k, m, _ in COUNTRIES]
    verdicts = [{"claim": f"{c} usa el {m}.", "label": n % 2, "both": [0, 1] if n % 5 == 0 else [n % 2]}
                for n, (c, _, m, _) in enumerate(COUNTRIES)]
    pairs = [{"es": es, "pt": pt} for es, pt in PHRASES]
    return {"capitals": capitals, "letters": letters[4:], "letters_examples": letters[:4], "sums": sums[6:],
            "sums_examples": sums[:6], "blanks": blanks, "cloze": cloze, "pages": pages, "spans": spans,
            "verdicts": verdicts, "pairs": pairs}


HEAD = "dataset_path: json\ndataset_kwargs:\n  data_files:\n"
TASKS = {
    "capitals": """task: capitals
{files test=capitals}
test_split: test
output_type: multiple_choice
doc_to_text: "Pregunta: {{question}}\\nRespuesta:"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
  - metric: acc_bytes
  - metric: acc_mutual_info
  - metric: exact_match
  - metric: brier_score
metadata:
  version: 1.0
""",
    "capitals_same_split": """include: capitals.yaml
task: capitals_same_split
fewshot_split: test
num_fewshot: 6
description: "Capitales de América.\\n\\n"
metric_list:
  - metric: acc
  - metric: acc_norm
""",
    "letters": """task: letters
{files test=letters train=letters_examples}
training_split: train
test_split: test
fewshot_split: train
fewshot_config:
  sampler: first_n
num_fewshot: 3
output_type: multiple_choice
description: "Tema: {{topic}}.\\n"
doc_to_text: "{{question.strip()}}\\n{% for option in [a, b, c] %}{{loop.index}}. {{option}}\\n{% endfor %}Clave:"
doc_to_choice: ["A", "B", "C"]
doc_to_target: key
fewshot_delimiter: "\\n###\\n"
metric_list:
  - metric: acc
""",
    "letters_template": """task: letters_template
{files test=letters train=letters_examples}
training_split: train
test_split: test
num_fewshot: 2
output_type: multiple_choice
doc_to_text: "{{question}}: {{a}}, {{b}} o {{c}}?"
doc_to_choice: "{{[a, b, c]}}"
doc_to_target: "{% if key == 'A' %}0{% elif key == 'B' %}1{% else %}2{% endif %}"
target_delimiter: "\\n"
metric_list:
  - metric: acc
  - metric: acc_norm
""",
    "blanks": """task: blanks
{files test=blanks}
test_split: test
output_type: multiple_choice
doc_to_text: "{{answer | int - 1}}"
doc_to_choice: "{% set at = sentence.index('_') %}{{[sentence[:at] + option1, sentence[:at] + option2]}}"
doc_to_target: "{{sentence[sentence.index('_') + 1:].strip()}}"
num_fewshot: 0
metric_list:
  - metric: acc
""",
    "cloze": """task: cloze
{files test=cloze}
test_split: test
output_type: loglikelihood
doc_to_text: text
doc_to_target: end
""",
    "pages": """task: pages
{files test=pages}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: page
""",
    "sums": """task: sums
{files test=sums train=sums_examples}
training_split: train
test_split: test
fewshot_split: train
num_fewshot: 4
doc_to_text: "Pregunta: {{question}}\\nRespuesta:"
doc_to_target: "{{answer}}"
generation_kwargs:
  until:
    - "\\n\\n"
    - "Pregunta:"
  do_sample: false
  temperature: 0.0
  max_gen_toks: 40
filter_list:
  - name: strict
    filter:
      - function: regex
        regex_pattern: "#### (\\\\-?[0-9\\\\.\\\\,]+)"
      - function: take_first
  - name: flexible
    filter:
      - function: regex
        group_select: -1
        regex_pattern: "(-?[$0-9.,]{2,})|(-?[0-9]+)"
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: false
    regexes_to_ignore:
      - ","
      - "(?s).*#### "
      - "\\\\.$"
metadata:
  version: 3.0
""",
    "spans": """task: spans
{files test=spans}
test_split: test
validation_split: test
fewshot_split: test
num_fewshot: 1
doc_to_text: "{{context}}\\n{{question}}"
doc_to_target: "{{answers.text}}"
gen_prefix: "Usa:"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 12
metric_list:
  - metric: exact_match
    ignore_case: true
    ignore_punctuation: true
""",
    "verdicts": """task: verdicts
{files test=verdicts}
test_split: test
output_type: multiple_choice
doc_to_text: "{{claim}}\\n¿Es verdad?"
doc_to_choice:
  falso: "no"
  verdad: "sí"
doc_to_target: label
fewshot_config:
  samples:
    - {claim: "Perú usa el sol.", label: 1, both: [1]}
    - {claim: "Chile usa el real.", label: 0, both: [0]}
  sampler: first_n
num_fewshot: 2
metric_list:
  - metric: f1
  - metric: mcc
  - metric: acc
""",
    "verdicts_several": """include: verdicts.yaml
task: verdicts_several
doc_to_target: both
num_fewshot: 0
metric_list:
  - metric: acc
  - metric: acc_norm
""",
    "pairs": """task: pairs
{files test=pairs}
test_split: test
fewshot_split: test
num_fewshot: 2
doc_to_text: "Español: {{es}}\\nPortuguês:"
doc_to_target: pt
generation_kwargs:
  until: "\\n"
  max_gen_toks: 16
metric_list:
  - metric: chrf
  - metric: chrf++
""",
}

TASKS["repeated"] = """include: sums.yaml
task: repeated
repeats: 3
filter_list:
  - name: vote
    filter:
      - function: regex
        regex_pattern: "([0-9])"
      - function: majority_vote
      - function: take_first
  - name: two
    filter:
      - function: take_first_k
        k: 2
      - function: remove_whitespace
      - function: take_first
metric_list:
  - metric: exact_match
"""

# Tasks whose answers are drawn: only `golden` runs them, which keeps the draws.
DRAWN = {
    "votes": """task: votes
{files test=capitals}
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "a"
repeats: 8
generation_kwargs: {until: ["\\n"], do_sample: true, temperature: 1.5, max_gen_toks: 6}
filter_list:
  - name: first
    filter:
      - {function: regex, regex_pattern: "[aeiou]", fallback: "-"}
      - {function: take_first}
  - name: vote@8
    filter:
      - {function: regex, regex_pattern: "[aeiou]", fallback: "-"}
      - {function: majority_vote}
      - {function: take_first}
  - name: vote@5
    filter:
      - {function: take_first_k, k: 5}
      - {function: regex, regex_pattern: "[aeiou]", fallback: "-"}
      - {function: majority_vote}
      - {function: take_first}
  - name: vote of kinds
    filter:
      - {function: regex, regex_pattern: "[aeiou]", group_select: -1, fallback: "-"}
      - {function: map, mapping_dict: {a: a, e: a, i: i}, default_value: u}
      - {function: majority_vote}
      - {function: take_first}
  - name: mean@8
    filter:
      - {function: regex, regex_pattern: "[AEIOUaeiou]", fallback: "-"}
  - name: mean@3
    filter:
      - {function: regex, regex_pattern: "[aeiou]", group_select: -1, fallback: "-"}
      - {function: take_first_k, k: 3}
  - name: vote kept
    filter:
      - {function: lowercase}
      - {function: regex, regex_pattern: "[aeiou]", fallback: "-"}
      - {function: majority_vote}
metric_list:
  - metric: exact_match
    ignore_case: true
""",
    "votes_several": """task: votes_several
{files test=capitals}
test_split: test
doc_to_text: "{{question}} "
doc_to_target: "{{['a', 'u']}}"
repeats: 4
generation_kwargs: {until: ["\\n"], temperature: 1.2, max_gen_toks: 5}
filter_list:
  - name: vote
    filter:
      - {function: regex, regex_pattern: "[aeiou]", fallback: "-"}
      - {function: majority_vote}
      - {function: take_first}
metric_list:
  - metric: exact_match
""",
}

# Tasks over the published sets; {data} is the folder with them.
PUBLISHED = {
    "enem": ("enem_2022.jsonl", """task: enem
{files test=@}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}\\nResposta:"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_bytes}]
"""),
    "exams": ("exams_es_pt.jsonl", """task: exams
{files test=@}
test_split: test
fewshot_split: test
num_fewshot: 1
output_type: multiple_choice
doc_to_text: "{{question}}\\nRespuesta:"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
"""),
    "xcopa": ("xcopa_qu_ht_val.jsonl.zst", """task: xcopa
{files test=@}
test_split: test
output_type: multiple_choice
doc_to_text: premise
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
"""),
    "mgsm": ("mgsm_es.jsonl", """task: mgsm
{files test=@}
test_split: test
doc_to_text: "Pregunta: {{question}}\\nRespuesta:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n\\n", "Pregunta:"], do_sample: false, max_gen_toks: 24}
filter_list:
  - name: flexible
    filter:
      - function: regex
        group_select: -1
        regex_pattern: "(-?[$0-9.,]{2,})|(-?[0-9]+)"
      - function: take_first
metric_list: [{metric: exact_match, ignore_case: true}]
"""),
}


def write_task(folder, name, text, files=None):
    """Writes a task file with its `files` line as YAML."""
    lines = []
    for line in text.splitlines():
        if line.startswith("{files "):
            lines += HEAD.rstrip("\n").split("\n")
            for part in line[7:-1].split():
                split, stem = part.split("=")
                lines.append(f"    {split}: {files or stem + '.jsonl'}")
        else:
            lines.append(line)
    (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_tasks(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in documents().items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for name, text in {**TASKS, **DRAWN}.items():
        write_task(folder, name, text)


def own_texts():
    return [json.dumps(row, ensure_ascii=False) for rows in documents().values() for row in rows]


def make_model(folder, texts):
    """A random Llama with a byte-level BPE tokenizer; its weights are large enough for clear choices."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<|endoftext|>"], initial_alphabet=sorted(alphabet),
                                  show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", model_max_length=256)
    torch.manual_seed(11)
    config = LlamaConfig(vocab_size=len(fast), hidden_size=64, intermediate_size=160, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
                         eos_token_id=fast.eos_token_id, bos_token_id=None, tie_word_embeddings=False,
                         initializer_range=0.1)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def run_peer(model, tasks, folder, limit=None):
    """Runs lm_eval in this process; gives its results and its seconds without loading."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    here = pathlib.Path.cwd()
    os.chdir(folder)
    try:
        held = HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=8)
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        start = time.perf_counter()
        results = lm_eval.simple_evaluate(held, tasks=list(tasks), task_manager=manager, log_samples=True,
                                          limit=limit, bootstrap_iters=0, confirm_run_unsafe_code=False)
        return results, time.perf_counter() - start, held
    finally:
        os.chdir(here)


def requests_of(results, name):
    """Per document: what was asked, and the answers."""
    rows = {}
    for sample in results["samples"][name]:
        asked = [list(argument.values()) if isinstance(argument, dict) else list(argument)
                 for argument in (sample["arguments"].values() if isinstance(sample["arguments"], dict)
                                  else sample["arguments"])]
        flat = []
        for response in sample["resps"]:
            answer = response[0] if isinstance(response, (list, tuple)) and len(response) == 1 else response
            flat.append(list(answer) if isinstance(answer, (list, tuple)) else answer)
        rows[sample["doc_id"]] = (asked, flat)
    return [rows[number] for number in sorted(rows)]


def metrics_of(results, name):
    values = {}
    for key, value in results["results"][name].items():
        metric, _, rest = key.partition(",")
        if isinstance(value, (int, float)) and not metric.endswith("_stderr") and metric not in ("sample_len",):
            values[f"{metric},{rest or 'none'}"] = float(value)
    return values


def golden(out):
    out = pathlib.Path(out).resolve()
    write_tasks(out)
    expected = {}
    with tempfile.TemporaryDirectory() as scratch:
        make_model(scratch, own_texts())
        results, _, _ = run_peer(scratch, [*TASKS, *DRAWN], out)
        for name in [*TASKS, *DRAWN]:
            rows = []
            for asked, answers in requests_of(results, name):
                rows.append({"requests": [[part for part in one if isinstance(part, str)] for one in asked],
                             "responses": [float(a) if isinstance(a, (int, float)) else
                                           a if isinstance(a, str) or isinstance(a[0], str) else
                                           [float(a[0]), bool(a[1])] for a in answers]})
            expected[name] = {"questions": rows, "metrics": metrics_of(results, name)}
    text = json.dumps(expected, ensure_ascii=False, sort_keys=True)
    (out / "expected.json").write_text(text + "\n", encoding="utf-8")
    asked = sum(len(row["requests"]) for task in expected.values() for row in task["questions"])
    print(f"{len(expected)} tasks, {asked} requests, {sum(len(t['metrics']) for t in expected.values())} metrics")


def run_ours(milpa, model, tasks, folder, out, limit=None):
    command = [milpa, "eval", "run", "--model", str(model), "--out", str(out), "--log-texts", "--json", "--quiet"]
    for name in tasks:
        command += ["--task", str(folder / f"{name}.yaml")]
    if limit:
        command += ["--limit", str(limit)]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    wall = time.perf_counter() - start
    report = json.loads(done.stdout)
    logs = {}
    with open(pathlib.Path(out) / "questions.jsonl", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            logs.setdefault(row["task"], []).append(row)
    return report, logs, wall


def gap_at(held, prompt, ours, theirs):
    """The gap of the two best tokens where two generated texts part."""
    import torch
    tokenizer = held.tokenizer
    shared = os.path.commonprefix([ours, theirs])
    ids = tokenizer.encode(prompt + shared)[-(held.max_length - 1):]
    # The parting token may begin earlier than the parting character.
    gaps = []
    for cut in range(max(1, len(ids) - 6), len(ids) + 1):
        with torch.no_grad():
            logits = held.model(torch.tensor([ids[:cut]])).logits[0, -1]
        best = torch.topk(logits, 2).values
        gaps.append(float(best[0] - best[1]))
    return min(gaps)


def compare(milpa, model, tasks, folder, limit=None):
    results, peer_wall, held = run_peer(model, tasks, folder, limit)
    with tempfile.TemporaryDirectory() as out:
        report, logs, wall = run_ours(milpa, model, tasks, folder, out, limit)
    ours = {task["task"]: task for task in report["tasks"]}
    requests = parted = 0
    worst, faults = 0.0, []
    for name in tasks:
        rows = requests_of(results, name)
        if len(rows) != len(logs[name]):
            faults.append(f"{name}: {len(logs[name])} questions for {len(rows)}")
            continue
        task_parted = 0
        for (asked, answers), log in zip(rows, logs[name]):
            if any(isinstance(answer, list) and isinstance(answer[0], str) for answer in answers):
                # An answer that is drawn several times stands in one list there, here as so many requests.
                asked, answers = asked * len(answers[0]), answers[0]
            for one, answer, request, response in zip(asked, answers, log["requests"], log["responses"], strict=True):
                requests += 1
                texts = [part for part in one if isinstance(part, str)]
                sent = {"continuation": ("context", "continuation"), "text": ("text",), "generation": ("prompt",)}
                mine = [request[key] for key in sent[request["kind"]]]
                if texts != mine:
                    faults.append(f"{name} {log['number']}: asked {mine!r} instead of {texts!r}")
                elif request["kind"] == "generation":
                    if answer != response["text"]:
                        gap = gap_at(held, texts[0], response["text"], answer)
                        parted += 1
                        task_parted += 1
                        if gap > 1e-3:
                            faults.append(f"{name} {log['number']}: wrote {response['text']!r} instead of {answer!r} "
                                          f"(gap {gap:.4f})")
                else:
                    value = answer[0] if isinstance(answer, list) else answer
                    difference = abs(float(value) - response["log_likelihood"])
                    worst = max(worst, difference)
                    if difference > max(LARGEST, abs(float(value)) * SHARE):
                        faults.append(f"{name} {log['number']}: {response['log_likelihood']} instead of {value}")
                    if isinstance(answer, list) and bool(answer[1]) != response["is_greedy"]:
                        faults.append(f"{name} {log['number']}: greedy {response['is_greedy']}")
        theirs = metrics_of(results, name)
        mine = {f"{score['metric']},{score['filter']}": score["value"] for score in ours[name]["metrics"]}
        for key, value in theirs.items():
            # A perplexity is the exponential of a mean log-likelihood.
            within = LARGEST if "perplexity" in key else 1e-6
            close = key in mine and abs(mine[key] - value) <= within * max(1.0, abs(value))
            # One word more or less in a text that parted moves a metric.
            if not close and not (task_parted and key in mine):
                faults.append(f"{name}: {key} is {mine.get(key)} instead of {value}")
        print(f"  {name:<22} " + ", ".join(f"{key} {value:.6g}" for key, value in theirs.items()))
    for fault in faults[:20]:
        print("  " + fault)
    walls = sum(task["wall_seconds"] for task in report["tasks"])
    print(f"  {requests} requests, largest difference {worst:.1e}, {parted} texts part where two tokens are equal; "
          f"lm_eval {peer_wall:.2f} s, ours {walls:.2f} s without start-up ({peer_wall / max(walls, 1e-9):.1f} times), "
          f"{wall:.2f} s with it")
    return requests, worst, len(faults)


def usable(row):
    choices = row.get("choices", ["a"])
    return bool(choices) and all(isinstance(choice, str) and choice for choice in choices)


def check(arguments):
    folder = pathlib.Path(arguments.tasks).resolve()
    milpa = str(pathlib.Path(arguments.milpa).resolve())
    total, worst, faults, models = 0, 0.0, 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        make_model(scratch / "random", own_texts())
        published = scratch / "published"
        published.mkdir()
        if arguments.data:
            data = pathlib.Path(arguments.data).resolve() / "eval"
            for name, (file, text) in PUBLISHED.items():
                import zstandard
                raw = (data / file).read_bytes()
                if file.endswith(".zst"):
                    raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
                # lm_eval stops at a document without choices or with an empty one; ours counts it.
                rows = [line for line in raw.decode().splitlines() if usable(json.loads(line))]
                (published / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
                write_task(published, name, text, f"{name}.jsonl")
        for model in [scratch / "random", *map(pathlib.Path, arguments.model)]:
            models += 1
            for tasks, where in [(TASKS, folder)] + ([(PUBLISHED, published)] if arguments.data else []):
                print(f"{model.name}: {', '.join(tasks)}")
                asked, largest, wrong = compare(milpa, model.resolve(), tasks, where)
                total, worst, faults = total + asked, max(worst, largest), faults + wrong
    print(f"{len(TASKS) + (len(PUBLISHED) if arguments.data else 0)} tasks, {models} models, {total} requests: prompts "
          f"equal, largest difference {worst:.1e}, {faults} faults")
    sys.exit(faults > 0)


def cold(arguments):
    """A cold run of four questions by both commands."""
    milpa = str(pathlib.Path(arguments.milpa).resolve())
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        write_tasks(scratch)
        # In a process of its own: a child's peak of memory begins with that of the process it comes from.
        subprocess.run([sys.executable, __file__, "model", scratch / "random"], check=True, stderr=subprocess.DEVNULL)
        task = scratch / "capitals.yaml"
        commands = {
            "lm_eval": [str(pathlib.Path(sys.executable).parent / "lm_eval"), "run", "--model", "hf", "--model_args",
                        f"pretrained={scratch / 'random'},dtype=float32", "--tasks", "capitals", "--include_path",
                        str(scratch), "--device", "cpu", "--limit", "4", "--log_samples", "--output_path",
                        str(scratch / "peer")],
            "milpa": [milpa, "eval", "run", "--model", str(scratch / "random"), "--task", str(task), "--limit", "4",
                      "--out", str(scratch / "ours"), "--quiet"],
        }
        seconds, memory = {}, {}
        for name, command in commands.items():
            start = time.perf_counter()
            child = subprocess.Popen(command, cwd=scratch, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            said = child.stderr.read()
            _, status, usage = os.wait4(child.pid, 0)
            if status:
                sys.exit(f"{name}: {said.decode()[-2000:]}")
            seconds[name], memory[name] = time.perf_counter() - start, usage.ru_maxrss / 1024
        print(f"four questions, cold: lm_eval {seconds['lm_eval']:.2f} s and {memory['lm_eval']:.0f} MiB, milpa "
              f"{seconds['milpa']:.3f} s and {memory['milpa']:.1f} MiB: {seconds['lm_eval'] / seconds['milpa']:.0f} times less "
              f"time, {memory['lm_eval'] / memory['milpa']:.0f} times less memory")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("golden").add_argument("out")
    one = commands.add_parser("check")
    one.add_argument("milpa")
    one.add_argument("tasks")
    one.add_argument("--data")
    one.add_argument("--model", action="append", default=[])
    commands.add_parser("cold").add_argument("milpa")
    commands.add_parser("model").add_argument("out")
    arguments = parser.parse_args()
    if arguments.command == "golden":
        golden(arguments.out)
    elif arguments.command == "check":
        check(arguments)
    elif arguments.command == "model":
        make_model(arguments.out, own_texts())
    else:
        cold(arguments)


if __name__ == "__main__":
    main()
