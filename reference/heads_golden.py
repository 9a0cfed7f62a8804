#!/usr/bin/env python3
"""Golden values for heads: classifiers and reward models of transformers (`*ForSequenceClassification`), and
trl's value head (`AutoModelForCausalLMWithValueHead` without dropout), on models of `model_families.py`.

    heads_golden.py golden          rewrites crates/milpa-model/tests/golden/heads.{json,safetensors}
    heads_golden.py check FOLDER    opens with the peers what the test `heads` has left in FOLDER (it does where
                                    MILPA_HEADS names one), and compares with the golden values

Two sequences; the shorter one is padded on the right. Stored: config.json, names and shapes of the tensors, scores or
values, and two sums of each gradient of `sum(hashed · output)`. Needs: torch, transformers, trl < 0.25.
"""
import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification
from trl.models.modeling_value_head import AutoModelForCausalLMWithValueHead

from model_families import BASE, CASES, GOLDEN, ROOT, SEQUENCES, TOKENS, summary, tokens_of, uniform, values

PAD = 0
# Case: labels of a classifier, or None for a value head.
HEADS = {"llama3": 1, "qwen3": 3, "gemma2": 2, "gemma3": 4, "mixtral": 1, "qwen2": None, "llama2": None}


def batch_of(case):
    tokens = tokens_of(case, SEQUENCES, TOKENS).clamp_min(1)
    tokens[1, 13:] = PAD
    return tokens


def made(case, folder):
    kind, fields, _ = CASES[case]
    labels = HEADS[case]
    more = {} if labels is None else dict(num_labels=labels, pad_token_id=PAD)
    config = getattr(transformers, f"{kind}Config")(**{**BASE, **fields, **more})
    shutil.rmtree(folder, ignore_errors=True)
    if labels is None:
        model = AutoModelForCausalLMWithValueHead.from_pretrained(
            getattr(transformers, f"{kind}ForCausalLM")(config), summary_dropout_prob=0.0)
    else:
        model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    weights = {name: values(name, list(tensor.shape), kind.startswith("Gemma"))
               for name, tensor in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    return opened(case, folder), {name: list(tensor.shape) for name, tensor in weights.items()}


def opened(case, folder):
    if HEADS[case] is None:
        return AutoModelForCausalLMWithValueHead.from_pretrained(
            str(folder), summary_dropout_prob=0.0, dtype=torch.float32, attn_implementation="eager").eval()
    return AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()


def output_of(case, model, tokens):
    if HEADS[case] is None:
        return model(tokens, use_cache=False)[2]
    return model(tokens, use_cache=False).logits


def golden():
    description, stored = {}, {}
    for case in HEADS:
        folder = ROOT / "target/heads_golden" / case
        model, shapes = made(case, folder)
        config = json.loads((folder / "config.json").read_text())
        tokens = batch_of(case)
        out = output_of(case, model, tokens)
        seed = torch.from_numpy(uniform("seed " + case, out.numel())).reshape(out.shape)
        (out * seed).sum().backward()
        # In the names of the files: what is saved is the gradients.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.grad if parameter.grad is not None else torch.zeros_like(parameter))
        model.save_pretrained(folder)
        gradients = load_file(folder / "model.safetensors")
        names = sorted(shapes)
        description[case] = dict(config=config, tensors={n: shapes[n] for n in names}, loss=0.0)
        stored[f"{case}.tokens"] = tokens.int()
        stored[f"{case}.output"] = out.detach().contiguous()
        stored[f"{case}.gradients"] = torch.tensor([summary(n, gradients[n]) for n in names])
        print(case, tuple(out.shape), float(out.detach().abs().max()))
    lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(entry)}" for case, entry in description.items())
    (GOLDEN / "heads.json").write_text("{\n" + lines + "\n}\n")
    save_file(stored, GOLDEN / "heads.safetensors")
    (GOLDEN / "heads.safetensors").chmod(0o644)
    print(f"{len(HEADS)} models with heads: outputs and gradients of {sum(len(d['tensors']) for d in description.values())} tensors")


def check(root):
    stored = load_file(GOLDEN / "heads.safetensors")
    for case in HEADS:
        with torch.no_grad():
            out = output_of(case, opened(case, root / case), batch_of(case))
        assert torch.equal(out, stored[f"{case}.output"]), case
        print(f"{case}: the saved folder gives equal outputs")
    print(f"{len(HEADS)} saved folders give equal outputs")


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] == "check":
        check(Path(sys.argv[2]))
    else:
        golden()
