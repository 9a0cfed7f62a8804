#!/usr/bin/env python3
"""Holds `milpa serve` against lm-evaluation-harness' local-completions, and a model elsewhere against one here.

  served_check.py MILPA MODEL [TASKS]     TASKS is crates/milpa-eval/tests/it/golden/lm_eval unless given

Serves MODEL (a folder with tokenizer.json) with MILPA (the binary), and has the tasks answered three times: by
`milpa eval run --model`, by `milpa eval run --endpoint`, and by lm_eval over the same endpoint. Fails unless
  here and there: texts, counts of tokens and "is greedy" are equal, log-likelihoods within 1e-5, and 6e-7 of
    long sums (f32 here, f64 over the wire);
  there and lm_eval: the same.
lm_eval takes one token less than a model does, and two less where it rolls over long texts; it is told of a model
that takes one token more, and rolling is held against windows of its length (--context-length).

Needs: lm_eval[api], transformers. No network but loopback is used.
"""
import ast
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", LMEVAL_LOG_LEVEL="ERROR")
TASKS = ["capitals", "letters", "cloze", "verdicts", "blanks", "spans", "sums", "pairs"]
ROLLING = ["pages"]


def run(milpa, names, tasks, out, *model):
    """Answers of `milpa eval run`, by task and number of the document."""
    arguments = [argument for name in names for argument in ("--task", tasks / f"{name}.yaml")]
    command = [milpa, "eval", "run", *arguments, "--out", out, "--quiet", *model]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    lines = (out / "questions.jsonl").read_text().splitlines()
    return {(line["task"], line["number"]): line["responses"] for line in map(json.loads, lines)}


def peer(url, name, folder, tasks, length):
    """Answers of lm_eval over the endpoint, in the shape of ours."""
    import lm_eval
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from lm_eval.tasks import TaskManager

    model = LocalCompletionsAPI(base_url=f"{url}/completions", model=name, tokenizer=str(folder),
                                tokenizer_backend="huggingface", batch_size=4, max_length=length + 1)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    samples = lm_eval.simple_evaluate(model=model, tasks=TASKS + ROLLING, task_manager=manager, bootstrap_iters=0,
                                      log_samples=True)["samples"]

    def answer(found):
        if isinstance(found, str) and found.startswith("("):
            found = ast.literal_eval(found)
        if isinstance(found, (tuple, list)):
            return {"log_likelihood": float(found[0]), "is_greedy": bool(found[1])}
        return {"text": found} if isinstance(found, str) else {"log_likelihood": float(found)}

    return {(task, sample["doc_id"]): [answer(found[0]) for found in sample["resps"]]
            for task, rows in samples.items() for sample in rows}


def compare(title, ours, theirs):
    """Holds what both say of each request against each other; gives the number of faults."""
    worst, requests, faults = 0.0, 0, []
    for key, answers in theirs.items():
        for mine, other in zip(ours[key], answers):
            requests += 1
            for name in set(mine) & set(other):
                if name != "log_likelihood":
                    if mine[name] != other[name]:
                        faults.append((key, name, mine[name], other[name]))
                    continue
                difference = abs(mine[name] - other[name])
                worst = max(worst, difference)
                if difference > 1e-5 + 6e-7 * abs(other[name]):
                    faults.append((key, name, mine[name], other[name]))
    print(f"{title}: {requests} requests, largest difference of a log-likelihood {worst:.1e}, {len(faults)} faults")
    for fault in faults[:5]:
        print("  ", *fault)
    return len(faults)


def main():
    milpa, folder = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    golden = pathlib.Path(__file__).resolve().parent.parent / "crates/milpa-eval/tests/it/golden/lm_eval"
    tasks = pathlib.Path(sys.argv[3]).resolve() if len(sys.argv) > 3 else golden
    # Data files of a task are found beside it, by lm_eval in the working folder.
    os.chdir(tasks)
    server = subprocess.Popen([milpa, "serve", folder, "--bind", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in server.stderr if "/v1 (OpenAI" in line)
        url = next(word for word in line.split() if word.startswith("http"))
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            here = run(milpa, TASKS + ROLLING, tasks, scratch / "here", "--model", folder)
            there = run(milpa, TASKS + ROLLING, tasks, scratch / "there", "--endpoint", url)
            model = json.loads((scratch / "there/report.json").read_text())["model"]
            length = model["context_length"]
            rolled = run(milpa, ROLLING, tasks, scratch / "rolled", "--endpoint", url, "--context-length",
                         str(length - 1))
            faults = compare("here and there", here, there)
            theirs = peer(url, model["name"], folder, tasks, length)
            faults += compare("there and lm_eval", {**there, **rolled}, theirs)
    finally:
        server.kill()
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
