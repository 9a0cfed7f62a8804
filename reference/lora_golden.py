#!/usr/bin/env python3
"""Golden values for LoRA and DoRA as peft computes them, on models of `model_families.py` with hashed adapters.

Rewrites crates/milpa-model/tests/golden/lora.{json,safetensors}: adapter_config.json as peft writes it, names and
shapes of the adapter's tensors, logits, loss and two sums of each adapter gradient. Where embedding and output layer
are trained beside the adapter, peft opens the adapter_config.json that Milpa writes, and the test holds Milpa to it.
Needs: torch, transformers, peft.
"""
import copy
import json

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from model_families import GOLDEN, ROOT, SEQUENCES, TOKENS, VOCABULARY, saved_model, summary, tokens_of, values

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "llama3": dict(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"]),
    "qwen2": dict(r=3, lora_alpha=9, use_rslora=True, target_modules=ALL),
    "gemma2": dict(r=2, lora_alpha=2, target_modules=["o_proj", "down_proj"]),
    "llama_biases": dict(r=3, lora_alpha=4, use_dora=True, target_modules=ALL),
    "qwen3": dict(r=2, lora_alpha=6, use_dora=True, use_rslora=True, target_modules=["k_proj", "up_proj"]),
    "phi3": dict(r=3, lora_alpha=4, target_modules=["qkv_proj", "gate_up_proj", "o_proj"]),
    "phi3_long": dict(r=2, lora_alpha=5, use_dora=True, target_modules=["qkv_proj", "gate_up_proj", "down_proj"]),
    # Stacks of experts; peft nests them in the order in which the module has them, whatever is said here.
    "mixtral": dict(r=2, lora_alpha=3, target_modules=[], target_parameters=[
        "mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    "qwen3_moe": dict(r=3, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "o_proj"], target_parameters=[
        "mlp.experts.down_proj", "mlp.experts.gate_up_proj"]),
    "qwen3_moe_norm": dict(r=2, lora_alpha=3, target_modules=["o_proj"], target_parameters=[
        "mlp.experts.gate_up_proj"]),
    # Embedding and output layer are trained beside it: two matrices, and one.
    "llama2 whole": dict(r=3, lora_alpha=4.0, use_rslora=True, target_modules=["q_proj", "down_proj"],
                         modules_to_save=["embed_tokens", "lm_head"]),
    "llama3 whole": dict(r=2, lora_alpha=5.0, target_modules=["v_proj", "gate_proj"],
                         modules_to_save=["embed_tokens", "lm_head"], ensure_weight_tying=True),
}
# What `write_lora` writes beside what the cases say.
MILPA = dict(peft_type="LORA", task_type="CAUSAL_LM", lora_dropout=0.0, use_rslora=False, use_dora=False, bias="none",
             fan_in_fan_out=False, inference_mode=True, init_lora_weights=True, target_parameters=None)


def stored_name(name):
    name = name.replace(".modules_to_save", "").replace(".default", "")
    return name.replace("magnitude_vector.weight", "magnitude_vector")


def main():
    description, stored = {}, {}
    for case, fields in CASES.items():
        folder = ROOT / "target/lora_golden" / case
        family = case.split()[0]
        model, _ = saved_model(family, folder / "model")
        # peft changes the lists that it is given.
        given = LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **copy.deepcopy(fields))
        get_peft_model(model, given).save_pretrained(folder)
        file = folder / "adapter_model.safetensors"
        adapter = {n: values(n, list(t.shape), False) * 0.5 for n, t in load_file(file).items()}
        if fields.get("ensure_weight_tying"):
            adapter["base_model.model.lm_head.weight"] = adapter["base_model.model.model.embed_tokens.weight"].clone()
        save_file(adapter, file, {"format": "pt"})
        config = json.loads((folder / "adapter_config.json").read_text())
        if "modules_to_save" in fields:
            config = {**MILPA, **fields}
        config.update(base_model_name_or_path=case, target_modules=sorted(config["target_modules"]))
        # peft keeps a set of them.
        if config.get("target_parameters"):
            config["target_parameters"].sort()
        (folder / "adapter_config.json").write_text(json.dumps(config))
        base, _ = saved_model(family, folder / "model")
        tuned = PeftModel.from_pretrained(base, folder, is_trainable=True)
        tokens = tokens_of(family, SEQUENCES, TOKENS)
        logits = tuned(tokens, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))
        loss.backward()
        trained = [(n, p) for n, p in tuned.named_parameters(remove_duplicate=False) if p.requires_grad]
        gradients = {stored_name(n): p.grad for n, p in trained}
        assert gradients.keys() == adapter.keys()
        names = sorted(adapter)
        description[case] = dict(config=config, tensors={n: list(adapter[n].shape) for n in names},
                                 loss=float(loss.detach()))
        stored[f"{case}.logits"] = logits.detach().contiguous()
        stored[f"{case}.gradients"] = torch.tensor([summary(n, gradients[n]) for n in names])
        print(case, float(loss.detach()), len(names), "tensors")
    (GOLDEN / "lora.json").write_text(json.dumps(description) + "\n")
    save_file(stored, GOLDEN / "lora.safetensors")
    (GOLDEN / "lora.safetensors").chmod(0o644)
    print(f"{len(CASES)} adapters: logits, loss and gradients of {sum(len(d['tensors']) for d in description.values())} tensors")


main()
