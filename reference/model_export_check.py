#!/usr/bin/env python3
"""Holds exported models against the Hugging Face and GGUF ecosystems.

For each model that the example `export_check` of milpa-model wrote (DIR/qwen3, DIR/llama):
  - transformers loads the folder and gives the same logits to 1e-4 (f32);
  - tokenizers gives the same ids for texts in four languages;
  - the gguf package reads the metadata, and its dequantised tensors equal the f32 weights to rounding;
  - transformers with those dequantised weights gives the logits that we get from the GGUF file.
Nothing is downloaded. Needs: torch, transformers, safetensors, tokenizers, gguf. Usage:

    cargo run --release -p milpa-model --example export_check -- DIR
    HF_HUB_OFFLINE=1 python reference/model_export_check.py DIR
"""
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    plain = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    if name in plain:
        return plain[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def unpermute(weight, heads):
    """Undoes the order of q and k rows in files of architecture llama: pairs back to halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def difference(a, b):
    return float((a - b).abs().max())


def check(folder):
    expected = json.loads((folder / "expected.json").read_text())
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    model.eval()
    tokens = torch.tensor([expected["tokens"]])
    ours = torch.tensor(expected["logits"])
    with torch.no_grad():
        worst = difference(model(tokens).logits[0], ours)
    print(f"{folder.name}: {type(model).__name__}, max |difference of logits| {worst:.2e} (largest logit {ours.abs().max():.1f})")
    assert worst < 1e-4

    plain, wrapped = Tokenizer.from_file(str(folder / "tokenizer.json")), AutoTokenizer.from_pretrained(folder)
    for entry in expected["texts"]:
        ids = plain.encode(entry["text"], add_special_tokens=False).ids
        assert ids == entry["special"], (entry, ids)
        assert wrapped(entry["text"], add_special_tokens=False)["input_ids"] == entry["special"], entry
        assert plain.decode(entry["plain"], skip_special_tokens=False) == entry["text"], entry
    rendered = wrapped.apply_chat_template([{"role": "user", "content": "Hola"}], tokenize=False, add_generation_prompt=True)
    assert "Hola" in rendered
    print(f"{folder.name}: token ids equal on {len(expected['texts'])} texts; chat template renders")

    reader = GGUFReader(folder / "model-Q8_0.gguf")
    field = lambda key: reader.get_field(key).contents()
    architecture = folder.name
    config = model.config
    for key, value in {
        "general.architecture": architecture, "general.license": "MIT OR Apache-2.0", "general.file_type": 7,
        "general.source.blake3": expected["source_hash"],
        f"{architecture}.block_count": config.num_hidden_layers, f"{architecture}.embedding_length": config.hidden_size,
        f"{architecture}.feed_forward_length": config.intermediate_size, f"{architecture}.context_length": config.max_position_embeddings,
        f"{architecture}.attention.head_count": expected["heads"], f"{architecture}.attention.head_count_kv": expected["kv_heads"],
        f"{architecture}.attention.key_length": expected["head_dim"], "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen35", "tokenizer.ggml.eos_token_id": expected["eos"], "tokenizer.ggml.add_bos_token": False,
    }.items():
        assert field(key) == value, (key, field(key), value)
    assert abs(field(f"{architecture}.attention.layer_norm_rms_epsilon") - config.rms_norm_eps) < 1e-9
    vocabulary = plain.get_vocab(with_added_tokens=True)
    listed = field("tokenizer.ggml.tokens")
    assert len(listed) == config.vocab_size and all(listed[i] == token for token, i in vocabulary.items())
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    assert field("tokenizer.ggml.merges") == [m if isinstance(m, str) else " ".join(m) for m in merges]
    assert "<|im_start|>" in field("tokenizer.chat_template")

    weights = load_file(folder / "model.safetensors")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == len(weights), sorted(tensors)
    rounded, kinds = {}, set()
    for name, weight in weights.items():
        tensor = tensors[gguf_name(name)]
        kinds.add(tensor.tensor_type.name)
        values = dequantize(tensor.data, tensor.tensor_type).reshape(weight.shape)
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            values = unpermute(values, expected["heads" if "q_proj" in name else "kv_heads"])
        rounded[name] = torch.from_numpy(np.array(values, dtype=np.float32))
        blocks = weight.reshape(-1, 32) if weight.dim() == 2 and weight.shape[1] % 32 == 0 else None
        error = (rounded[name] - weight).abs()
        if blocks is None:
            assert float(error.max()) == 0.0, name
        else:  # half a step of each block, and half precision of its scale
            limit = blocks.abs().amax(1, keepdim=True) * (0.5 / 127 + 1.1 * 2.0**-11)
            assert bool((error.reshape(-1, 32) <= limit).all()), name
    if architecture == "qwen3":
        rounded["lm_head.weight"] = rounded["model.embed_tokens.weight"]
    model.load_state_dict(rounded)
    with torch.no_grad():
        worst = difference(model(tokens).logits[0], torch.tensor(expected["gguf_logits"]))
    print(f"{folder.name}: GGUF with {sorted(kinds)} has the right metadata and weights; "
          f"max |difference of logits| with its weights {worst:.2e}")


if __name__ == "__main__":
    for name in ("qwen3", "llama"):
        check(Path(sys.argv[1]) / name)
    print("2 exported models: folder, tokenizer, template and GGUF")
