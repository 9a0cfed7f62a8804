#!/usr/bin/env python3
"""Writes what lm_eval's own tasks ask of a few documents, for tasks/ to be held against.

  golden OUT    writes OUT: for each task documents in the form of tasks/README.md's files, and the requests
                that lm_eval 0.4.13 makes of the same documents with the task that it ships itself

The documents are made up here. Needs: lm_eval. No network is used.
"""
import json
import os
import pathlib
import sys
import tempfile
import types

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", LMEVAL_LOG_LEVEL="ERROR")

SUMS = [(f"Rosa tiene {a} mazorcas y {who} le da {b}. ¿Cuántas tiene?", a, b)
        for a, b, who in [(3, 4, "Luis"), (12, 30, "Inés"), (7, 9, "su tía"), (100, 1, "Ana"), (5, 5, "Pedro"),
                          (60, 2, "Marta"), (8, 31, "José"), (40, 40, "Elsa")]]
PAIRS = [("Llueve mucho en la sierra.", "Hay agua en la sierra.", 0), ("Ana vende pan ", "Ana vende ropa.", 1),
         ("Nadie vino.", "Vinieron todos.", 2)]
CAUSES = [("Wasi kichasqa karqan. ", "Wayra haykumurqan.", "Ñan wichqasqa karqan.", "effect", 0),
          ("Runa samarqan.", "Pay ancha llamkarqan.", "ÑAWI kicharirqan.", "cause", 0)]
SPANS = [("El Titicaca está entre Perú y Bolivia.", "¿Entre qué países está?", "Perú y Bolivia"),
         ("La quena es de caña.\nSe toca en los Andes.", "¿De qué es la quena?", "caña")]

# Our name, file of lm_eval, documents in its form and in ours.
TASKS = {
    "es/mgsm": ("mgsm/direct/mgsm_direct_es.yaml",
                [{"question": q, "answer": None, "answer_number": a + b} for q, a, b in SUMS],
                [{"question": q, "answer": str(a + b)} for q, a, b in SUMS]),
    "en/gsm8k": ("gsm8k/gsm8k.yaml",
                 [{"question": q, "answer": f"{a}+{b}={a + b}\n#### {a + b}"} for q, a, b in SUMS],
                 [{"question": q, "solution": f"{a}+{b}={a + b}\n#### {a + b}", "answer": str(a + b)}
                  for q, a, b in SUMS]),
    "es/xquad": ("xquad/xquad_es.yaml",
                 [{"context": c, "question": q, "answers": {"text": [a]}} for c, q, a in SPANS],
                 [{"context": c, "question": q, "answers": [a]} for c, q, a in SPANS]),
    "mul/americasnli": ("xnli/xnli_es.yaml",
                        [{"premise": p, "hypothesis": h, "label": n} for p, h, n in PAIRS],
                        [{"lang": "gn", "premise": p, "hypothesis": h,
                          "label": ["entailment", "neutral", "contradiction"][n]} for p, h, n in PAIRS]),
    **{f"{code}/xcopa": (f"xcopa/default_{code}.yaml",
                         [{"premise": p, "choice1": a, "choice2": b, "question": q, "label": n}
                          for p, a, b, q, n in CAUSES],
                         [{"lang": code, "premise": p, "choices": [a, b], "question": q, "answer": n}
                          for p, a, b, q, n in CAUSES]) for code in ("qu", "ht")},
}


def golden(out):
    import lm_eval
    from lm_eval.tasks import TaskManager

    # xquad's scores come from a module that newer transformers lack; its prompts do not.
    for module in ("transformers.data.metrics", "transformers.data.metrics.squad_metrics", "evaluate"):
        sys.modules.setdefault(module, types.ModuleType(module))
    shipped = pathlib.Path(lm_eval.__file__).parent / "tasks"
    found = {}
    for name, (file, theirs, ours) in TASKS.items():
        with tempfile.TemporaryDirectory() as folder:
            data = pathlib.Path(folder) / "documents.jsonl"
            data.write_text("".join(json.dumps(row) + "\n" for row in theirs))
            stem = name.replace("/", "_")
            (pathlib.Path(folder) / "task.yaml").write_text(
                f"include: {shipped / file}\ntask: {stem}\ntag: null\ndataset_path: json\ndataset_name: null\n"
                f"dataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\ntraining_split: null\n"
                f"validation_split: null\nfewshot_split: {'test' if name == 'en/gsm8k' else 'null'}\n")
            manager = TaskManager(include_path=folder, include_defaults=False)
            loaded = manager.load([stem]) if hasattr(manager, "load") else manager.load_task_or_group([stem])
            tasks = loaded.get("tasks", loaded) if isinstance(loaded, dict) else loaded
            task = tasks[stem]
            task.set_fewshot_seed(1234)
            task.build_all_requests(rank=0, world_size=1)
            requests = {}
            for instance in task.instances:
                asked = list(instance.args) if task.OUTPUT_TYPE != "generate_until" else [instance.args[0]]
                requests.setdefault(instance.doc_id, []).append(asked)
            found[name] = {"documents": ours, "requests": [requests[n] for n in range(len(ours))]}
    pathlib.Path(out).write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(len(task['requests']) for task in found.values())} documents of {len(found)} tasks")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "golden":
        sys.exit(__doc__)
    golden(sys.argv[2])
