#!/usr/bin/env python3
"""Families of open decoders, as `transformers` computes them: golden values and a check of real folders.

    model_families.py golden          rewrites crates/milpa-model/tests/golden/families.{json,safetensors}
    model_families.py make FOLDER     writes a small model of each family as users find it: sharded, in f32,
                                      bf16 or f16, with what the peer computes from it
    model_families.py check FOLDER    reads back what `cargo run -p milpa-model --example families_check FOLDER`
                                      has saved, and compares logits and gradients

Weights are no file: value i of tensor NAME is a hash of both (`values` below), the same on both sides. Norms lie
around one, matrices are scaled by their inputs so that logits have a size. Computed in single precision with
plain ("eager") attention. Needs: torch, transformers, safetensors; no network.
"""
import json
import math
import os
import shutil
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "crates/milpa-model/tests/golden"
torch.set_num_threads(1)
VOCABULARY, TOKENS, SEQUENCES, GREEDY = 48, 20, 2, 64

BASE = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=40,
            vocab_size=VOCABULARY, max_position_embeddings=160, bos_token_id=1, eos_token_id=2, pad_token_id=None)
LLAMA3 = dict(rope_type="llama3", rope_theta=1e4, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=40)
LONG = dict(rope_type="longrope", rope_theta=1e4, short_factor=[1.0, 1.25, 1.5, 2.0],
            long_factor=[1.0, 3.0, 6.0, 9.0])
GEMMA3_ROPES = dict(full_attention=dict(rope_type="linear", rope_theta=1e6, factor=8.0),
                    sliding_attention=dict(rope_type="default", rope_theta=1e4))
SLIDE, FULL = "sliding_attention", "full_attention"
# Name: kind in transformers, what differs from BASE, type of the stored weights.
CASES = {
    "llama2": ("Llama", dict(), "bfloat16"),
    "llama3": ("Llama", dict(rope_parameters=LLAMA3, tie_word_embeddings=True, head_dim=16), "bfloat16"),
    "llama_biases": ("Llama", dict(attention_bias=True, mlp_bias=True, num_key_value_heads=1,
                                   rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=2.0)), "float32"),
    "mistral": ("Mistral", dict(sliding_window=8), "bfloat16"),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True), "bfloat16"),
    "qwen2_window": ("Qwen2", dict(use_sliding_window=True, sliding_window=6, max_window_layers=1), "float16"),
    "qwen3": ("Qwen3", dict(head_dim=16, tie_word_embeddings=True), "bfloat16"),
    "qwen3_yarn": ("Qwen3", dict(head_dim=16, rope_parameters=YARN, attention_bias=True), "float16"),
    "gemma2": ("Gemma2", dict(head_dim=16, sliding_window=8, query_pre_attn_scalar=20, num_hidden_layers=3,
                              attn_logit_softcapping=3.0, final_logit_softcapping=4.0), "bfloat16"),
    "gemma3": ("Gemma3Text", dict(head_dim=16, sliding_window=6, query_pre_attn_scalar=20, num_hidden_layers=3,
                                  rope_parameters=GEMMA3_ROPES, layer_types=[SLIDE, SLIDE, FULL]), "bfloat16"),
    "olmo2": ("Olmo2", dict(), "float32"),
    "smollm3": ("SmolLM3", dict(no_rope_layers=[1, 0, 1], num_hidden_layers=3), "bfloat16"),
    "phi3": ("Phi3", dict(sliding_window=9, rope_parameters=dict(
        rope_type="default", rope_theta=1e4, partial_rotary_factor=0.7)), "float16"),
    "phi3_long": ("Phi3", dict(hidden_size=32, original_max_position_embeddings=32, rope_parameters=LONG), "float32"),
    "mixtral": ("Mixtral", dict(num_local_experts=4, num_experts_per_tok=2), "bfloat16"),
    "qwen3_moe": ("Qwen3Moe", dict(head_dim=16, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=12,
                                   norm_topk_prob=False, mlp_only_layers=[0]), "float16"),
    "qwen3_moe_norm": ("Qwen3Moe", dict(head_dim=16, num_experts=8, num_experts_per_tok=2, norm_topk_prob=True,
                                        moe_intermediate_size=20, tie_word_embeddings=True), "float32"),
}


def splitmix64(x):
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(name, count):
    """Values in -1..1 that single precision holds exactly."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        state = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return ((splitmix64(state) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23)) - np.float32(1)


def values(name, shape, less_one):
    u = uniform(name, math.prod(shape))
    if len(shape) == 1:
        middle = np.float32(0 if less_one or name.endswith("bias") else 1)
        u = middle + np.float32(0.3) * u
    else:
        gain = 1.0 if "embed" in name else 3.0 if name.endswith("gate.weight") or "lm_head" in name else 1.2
        inputs = 3.0 if "embed" in name else shape[-1]
        u = u * np.float32(gain * math.sqrt(3.0 / inputs))
    return torch.from_numpy(u.reshape(shape))


def saved_model(case, folder, dtype="float32", shard_size="5GB"):
    """Writes a model with hashed weights as transformers would, and reads it back in single precision."""
    kind, fields, _ = CASES[case]
    config_class = getattr(transformers, f"{kind}Config")
    model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config_class(**{**BASE, **fields}))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    # In the names of the files, which are not those of the modules: fused projections, experts.
    file = folder / "model.safetensors"
    weights = {name: values(name, list(tensor.shape), kind.startswith("Gemma"))
               for name, tensor in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    model = load(folder)
    if dtype != "float32" or shard_size != "5GB":
        shutil.rmtree(folder)
        model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard_size)
        assert (folder / "model.safetensors.index.json").exists()
        model = load(folder)
    return model, {name: list(tensor.shape) for name, tensor in weights.items()}


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def tokens_of(case, rows, columns):
    ids = (uniform(case, rows * columns) * np.float32(0.5) + np.float32(0.5)) * VOCABULARY
    return torch.from_numpy(ids.astype(np.int64)).reshape(rows, columns)


def gradients_of(model, tokens, folder):
    """Gradients of the mean loss of predicting each next token, in the names of the files."""
    model.zero_grad()
    out = model(tokens, use_cache=False, output_hidden_states=True)
    logits = out.logits
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad if parameter.grad is not None else torch.zeros_like(parameter))
    model.save_pretrained(folder)
    states = [state.detach() for state in out.hidden_states]
    return logits.detach(), states, float(loss.detach()), load_file(folder / "model.safetensors")


def summary(name, values):
    """A dot product with hashed numbers, and the norm."""
    signs = torch.from_numpy(uniform("sign " + name, values.numel()))
    return [float((values.flatten() * signs).sum()), float(values.norm())]


def golden():
    description, stored = {}, {}
    for case in CASES:
        folder = ROOT / "target/families_golden" / case
        model, shapes = saved_model(case, folder)
        config = json.loads((folder / "config.json").read_text())
        tokens = tokens_of(case, SEQUENCES, TOKENS)
        logits, states, loss, gradients = gradients_of(model, tokens, folder)
        names = sorted(shapes)
        sums = [summary(n, gradients[n]) for n in names]
        description[case] = dict(config=config, tensors={n: shapes[n] for n in names}, loss=loss)
        stored[f"{case}.tokens"] = tokens.int()
        stored[f"{case}.logits"] = logits.contiguous()
        stored[f"{case}.gradients"] = torch.tensor(sums)
        stored[f"{case}.states"] = torch.tensor([summary(f"state {i}", s) for i, s in enumerate(states)])
        top = logits.flatten().abs().max()
        print(f"{case}: loss {loss:.3f}, largest logit {top:.2f}")
        assert 2.0 < top < 60.0
    lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(entry)}" for case, entry in description.items())
    (GOLDEN / "families.json").write_text("{\n" + lines + "\n}\n")
    save_file(stored, GOLDEN / "families.safetensors")
    (GOLDEN / "families.safetensors").chmod(0o644)
    print(f"{len(CASES)} models: logits, states, loss and gradients of {sum(len(d['tensors']) for d in description.values())} tensors")


def make(root):
    for case, (_, _, dtype) in CASES.items():
        folder = root / case
        model, _ = saved_model(case, folder / "model", dtype, "12KB")
        # Beyond the original context of LongRoPE, where all positions take the same factors.
        prompt = tokens_of(case + " prompt", 1, 40 if case.endswith("long") else 12)
        with torch.no_grad():
            ids = prompt
            for _ in range(GREEDY):
                ids = torch.cat((ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)), 1)
            logits = model(ids, use_cache=False).logits[0]
        two = logits.topk(2, -1).values
        expected = dict(prompt=prompt[0].tolist(), greedy=ids[0, prompt.shape[1]:].tolist(),
                        gaps=(two[:, 0] - two[:, 1]).tolist(), logits=logits.flatten().tolist())
        tokens = tokens_of(case + " step", 2, 30)
        _, _, expected["loss"], gradients = gradients_of(model, tokens, folder / "gradients")
        expected["tokens"] = tokens.flatten().tolist()
        save_file(gradients, folder / "gradients.safetensors")
        (folder / "expected.json").write_text(json.dumps(expected))
        print(f"{case}: {dtype}, {len(list((folder / 'model').glob('*.safetensors')))} shards")


def relative(found, expect):
    return float((found - expect).abs().max() / expect.abs().max())


def check(root):
    tensors, largest_error = 0, 0.0
    for case in CASES:
        folder = root / case
        expected = json.loads((folder / "expected.json").read_text())
        ids = torch.tensor([expected["prompt"] + expected["greedy"]])
        with torch.no_grad():
            ours = load(folder / "saved")(ids, use_cache=False).logits
            theirs = load(folder / "model")(ids, use_cache=False).logits
        assert torch.equal(ours, theirs), (case, relative(ours, theirs))
        found, expect = load_file(folder / "saved_gradients/model.safetensors"), load_file(folder / "gradients.safetensors")
        assert found.keys() == expect.keys(), (case, found.keys() ^ expect.keys())
        # A key's bias shifts all scores of a query alike: its true gradient is zero, and both are rounding.
        largest = max(float(g.abs().max()) for g in expect.values())
        compared = [n for n in expect if float(expect[n].abs().max()) > 1e-5 * largest]
        worst = max(relative(found[n], expect[n]) for n in compared)
        assert worst < 1e-4, (case, worst)
        print(f"{case}: saved folder gives equal logits; gradients of {len(expect)} tensors within {worst:.1e}")
        tensors, largest_error = tensors + len(expect), max(largest_error, worst)
    print(f"{len(CASES)} models: saved folders give equal logits, gradients of {tensors} tensors within {largest_error:.1e}; "
          f"ours held their logits and {GREEDY} greedy tokens")


if __name__ == "__main__":
    if sys.argv[1] == "golden":
        golden()
    elif sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        check(Path(sys.argv[2]))
