#!/usr/bin/env python3
"""Golden values for merging, as mergekit computes it: three small Llama folders made by transformers.

Rewrites crates/milpa-model/tests/golden/merge.{json,safetensors}: the tensors of the models (base., one., two.) and
of what mergekit makes of them by each method, with the method's numbers. Needs: mergekit, torch, transformers;
no network. mergekit's task arithmetic of two models, one of them with weight 1, is the chat vector.
"""
import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
import transformers
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "crates/milpa-model/tests/golden"
torch.set_num_threads(1)
SHAPE = dict(vocab_size=310, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
             intermediate_size=12, max_position_embeddings=48, tie_word_embeddings=True, bos_token_id=None,
             eos_token_id=0)
# Tensors in which "two" points almost where "one" does, so that SLERP is a straight line.
PARALLEL = ["model.layers.0.self_attn.q_proj.weight"]
CASES = {
    "linear": ("linear", dict(one=0.7, two=0.4, base=0.2), dict(normalize=True)),
    "sum": ("linear", dict(one=0.7, two=-0.4, base=0.5), dict(normalize=False)),
    "slerp": ("slerp", dict(one=None, two=None), dict(t=0.3)),
    "ties": ("ties", dict(one=1.0, two=0.6), {"density": 0.4, "lambda": 0.9, "normalize": True}),
    "ties_few": ("ties", dict(one=0.5, two=0.5), {"density": 0.07, "lambda": 1.0, "normalize": True}),
    "chat_vector": ("task_arithmetic", dict(one=0.75, two=1.0), dict(normalize=False)),
}


def values(random, shape, scale):
    return torch.tensor(random.standard_normal(shape) * scale, dtype=torch.float32)


def models(folder):
    """The base at random, the others near it, as after more training."""
    random = np.random.RandomState(7)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
    kept = {}
    for name in ["base", "one", "two"]:
        state = {}
        for key, tensor in model.state_dict().items():
            if key == "lm_head.weight":
                continue
            if name == "base":
                state[key] = values(random, tensor.shape, 0.3)
            elif name == "two" and key in PARALLEL:
                state[key] = kept["one"][key] * 1.05 + values(random, tensor.shape, 0.002)
            else:
                state[key] = kept["base"][key] + values(random, tensor.shape, 0.25)
        kept[name] = state
        model.load_state_dict(state, strict=False)
        model.save_pretrained(folder / name)
        stored = load_file(folder / name / "model.safetensors")
        assert stored.keys() == state.keys() and all(torch.equal(stored[key], state[key]) for key in state)
    return kept


def main():
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        kept = models(folder)
        stored = {f"{name}.{key}": tensor for name, state in kept.items() for key, tensor in state.items()}
        config = json.loads((folder / "base/config.json").read_text())
        for case, (method, weights, parameters) in CASES.items():
            recipe = {"merge_method": method, "dtype": "float32", "parameters": parameters}
            if method == "slerp":
                recipe.update(base_model=str(folder / "one"))
            elif method != "linear":
                recipe.update(base_model=str(folder / "base"))
            recipe["models"] = [
                {"model": str(folder / name)} | ({} if weight is None else {"parameters": {"weight": weight}})
                for name, weight in weights.items()]
            out = folder / "merged" / case
            run_merge(MergeConfiguration.model_validate(recipe), str(out),
                      MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False))
            merged = {}
            for file in sorted(out.glob("*.safetensors")):
                merged |= load_file(file)
            assert merged.keys() == kept["base"].keys()
            stored |= {f"{case}.{key}": tensor for key, tensor in merged.items()}
    description = dict(config=config, cases={
        case: dict(method=method, weights=weights, parameters=parameters)
        for case, (method, weights, parameters) in CASES.items()})
    (GOLDEN / "merge.json").write_text(json.dumps(description) + "\n")
    save_file({name: stored[name].contiguous() for name in sorted(stored)}, GOLDEN / "merge.safetensors")
    (GOLDEN / "merge.safetensors").chmod(0o644)
    print(f"{len(CASES)} merges of 3 models, {len(kept['base'])} tensors each")


main()
