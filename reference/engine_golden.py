#!/usr/bin/env python3
"""Golden values for the engine: inputs, outputs and gradients of each operation and of small decoders.

Everything is computed by PyTorch in double precision (autograd, seed 7) and stored in single precision.
Needs: torch, safetensors. Run from the repository root; it rewrites

    crates/milpa-tensor/tests/golden/operations.safetensors
    crates/milpa-model/tests/golden/decoder_{qwen3,llama}.safetensors

Each operation NAME stores its inputs `NAME.in.I`, outputs `NAME.out.O`, the gradients sent back `NAME.dout.O`
and those that arrive `NAME.din.I`. Whole numbers (ids, positions) are stored as `NAME.ids` and so on.
"""
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
torch.set_default_dtype(torch.float64)
generator = torch.Generator().manual_seed(7)
stored = {}


def normal(*shape, scale=1.0):
    """Random values that single precision holds exactly, so both sides start from the same numbers."""
    values = (torch.randn(*shape, generator=generator) * scale).float().double()
    return values.requires_grad_(True)


def put(target, name, value):
    kind = torch.int32 if not value.dtype.is_floating_point else torch.float32
    target[name] = value.detach().to(kind).contiguous().clone()


def record(name, function, inputs, **whole_numbers):
    """Runs `function(*inputs)`, sends random gradients back, and stores everything."""
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    back = [torch.randn(out.shape, generator=generator).float().double() for out in outputs]
    gradients = torch.autograd.grad(outputs, inputs, back)
    for kind, values in (("in", inputs), ("out", outputs), ("dout", back), ("din", gradients)):
        for index, value in enumerate(values):
            put(stored, f"{name}.{kind}.{index}", value)
    for key, value in whole_numbers.items():
        put(stored, f"{name}.{key}", value)


def rms_norm(x, weight, epsilon):
    """Normalises rows of the weight's length, so that one function serves whole rows and heads."""
    rows = x.reshape(-1, weight.numel())
    rows = rows * torch.rsqrt((rows * rows).mean(-1, keepdim=True) + epsilon)
    return (rows * weight).reshape(x.shape)


def rotate(x_bthk, positions_bt, theta):
    k = x_bthk.shape[-1]
    frequencies = theta ** (-torch.arange(0, k, 2).double() / k)
    angles = positions_bt.double()[:, :, None, None] * frequencies
    # The engine's tables are single precision.
    cosine, sine = angles.cos().float().double(), angles.sin().float().double()
    first, second = x_bthk.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


def attend(q_bthk, k_btgk, v_btgk, documents_bt=None):
    """Causal attention with shared key-value heads, within documents if their numbers are given."""
    groups = q_bthk.shape[2] // k_btgk.shape[2]
    k_bthk, v_bthk = (x.repeat_interleave(groups, 2) for x in (k_btgk, v_btgk))
    tokens = q_bthk.shape[1]
    visible = torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None]
    if documents_bt is not None:
        visible = visible & (documents_bt[:, None, :, None] == documents_bt[:, None, None, :])
    scores = torch.einsum("bqhk,bthk->bhqt", q_bthk, k_bthk) / math.sqrt(q_bthk.shape[-1])
    weights = torch.softmax(scores.masked_fill(~visible, -math.inf), -1)
    return torch.einsum("bhqt,bthk->bqhk", weights, v_bthk)


def operations():
    ids = torch.tensor([[3, 0, 3], [10, 7, 3]])
    record("embedding", lambda table: table[ids], [normal(11, 5)], ids=ids)
    x, w1, w2 = normal(2, 3, 7), normal(5, 7), normal(9, 7)
    record("linear", lambda x, a, b: (x @ a.T, x @ b.T), [x, w1, w2])
    record("rms_norm", lambda x, w: rms_norm(x, w, 1e-5), [normal(3, 2, 13), normal(13)])
    record("head_norm", lambda x, w: rms_norm(x, w, 1e-6), [normal(2, 3, 4, 6), normal(6)])

    def add_norm(residual, delta, weight):
        total = residual + delta
        return total, rms_norm(total, weight, 1e-6)

    record("add_rms_norm", add_norm, [normal(5, 17), normal(5, 17), normal(17)])
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 8, 0, 1, 2]])
    record("rope", lambda x: rotate(x, positions, 1e4), [normal(2, 5, 3, 6)], positions=positions)
    q, k, v = normal(2, 7, 6, 10), normal(2, 7, 2, 10), normal(2, 7, 2, 10)
    record("attention", attend, [q, k, v])
    documents = torch.tensor([[0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 1, 1, 2]])
    masked = lambda q, k, v: attend(q, k, v, documents)
    record("document_attention", masked, [q, k, v], documents=documents)
    record("swiglu", lambda g, u: F.silu(g) * u, [normal(4, 9, scale=3.0), normal(4, 9)])
    record("add", lambda a, b: a + b, [normal(4, 9), normal(4, 9)])
    targets = torch.tensor([4, 18, -1, 0, 7, 7])
    x, w = normal(6, 8), normal(19, 8)
    mean_loss = lambda x, w: F.cross_entropy(x @ w.T, targets, ignore_index=-1).reshape(1)
    record("cross_entropy", mean_loss, [x, w], targets=targets)
    weights = torch.tensor([0.5, 2.0, 1.0, 0.0, -1.0, 0.25])

    def weighted_loss(x, w):
        losses = F.cross_entropy(x @ w.T, targets, ignore_index=-1, reduction="none")
        return ((losses * weights).sum() / 3.0).reshape(1)

    record("weighted_cross_entropy", weighted_loss, [x, w], targets=targets)
    put(stored, "weighted_cross_entropy.weights", weights)

    def log_probabilities(x, w):
        all_rows = torch.log_softmax(x @ w.T, -1)
        chosen = all_rows.gather(1, targets.clamp(min=0)[:, None])[:, 0]
        return torch.where(targets < 0, 0.0, chosen)

    record("log_probabilities", log_probabilities, [x, w], targets=targets)


def decoder(qk_norm):
    """A decoder of two layers with every kind of shape that differs: grouped heads, odd widths, packed documents."""
    d, layers, heads, kv_heads, k, ffn, vocab, tokens = 24, 2, 4, 2, 10, 40, 37, 9
    epsilon, theta = 1e-5, 1e4
    parameters = {"model.embed_tokens.weight": normal(vocab, d, scale=0.5)}
    for i in range(layers):
        name = f"model.layers.{i}."
        parameters[name + "input_layernorm.weight"] = normal(d)
        parameters[name + "self_attn.q_proj.weight"] = normal(heads * k, d, scale=0.2)
        parameters[name + "self_attn.k_proj.weight"] = normal(kv_heads * k, d, scale=0.2)
        parameters[name + "self_attn.v_proj.weight"] = normal(kv_heads * k, d, scale=0.2)
        if qk_norm:
            parameters[name + "self_attn.q_norm.weight"] = normal(k)
            parameters[name + "self_attn.k_norm.weight"] = normal(k)
        parameters[name + "self_attn.o_proj.weight"] = normal(d, heads * k, scale=0.2)
        parameters[name + "post_attention_layernorm.weight"] = normal(d)
        parameters[name + "mlp.gate_proj.weight"] = normal(ffn, d, scale=0.2)
        parameters[name + "mlp.up_proj.weight"] = normal(ffn, d, scale=0.2)
        parameters[name + "mlp.down_proj.weight"] = normal(d, ffn, scale=0.2)
    parameters["model.norm.weight"] = normal(d)
    if not qk_norm:  # one of the two has an output layer of its own
        parameters["lm_head.weight"] = normal(vocab, d, scale=0.5)
    ids = torch.randint(0, vocab, (2, tokens), generator=generator)
    targets = torch.randint(0, vocab, (2, tokens), generator=generator)
    targets[0, 3] = -1
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 1, 1, 1, 1, 1, 1, 1]])
    positions = torch.arange(tokens).expand(2, tokens)

    x = parameters["model.embed_tokens.weight"][ids]
    for i in range(layers):
        part = lambda name: parameters[f"model.layers.{i}.{name}.weight"]
        h = rms_norm(x, part("input_layernorm"), epsilon)
        q = (h @ part("self_attn.q_proj").T).view(2, tokens, heads, k)
        key = (h @ part("self_attn.k_proj").T).view(2, tokens, kv_heads, k)
        value = (h @ part("self_attn.v_proj").T).view(2, tokens, kv_heads, k)
        if qk_norm:
            q = rms_norm(q, part("self_attn.q_norm"), epsilon)
            key = rms_norm(key, part("self_attn.k_norm"), epsilon)
        q, key = rotate(q, positions, theta), rotate(key, positions, theta)
        out = attend(q, key, value, documents).reshape(2, tokens, heads * k)
        x = x + out @ part("self_attn.o_proj").T
        h = rms_norm(x, part("post_attention_layernorm"), epsilon)
        inner = F.silu(h @ part("mlp.gate_proj").T) * (h @ part("mlp.up_proj").T)
        x = x + inner @ part("mlp.down_proj").T
    hidden = rms_norm(x, parameters["model.norm.weight"], epsilon)
    head = parameters.get("lm_head.weight", parameters["model.embed_tokens.weight"])
    logits = hidden @ head.T
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    gradients = torch.autograd.grad(loss, list(parameters.values()))

    golden = {}
    for (name, value), gradient in zip(parameters.items(), gradients):
        put(golden, name, value)
        put(golden, "grad." + name, gradient)
    for name, value in (("tokens", ids), ("targets", targets), ("documents", documents)):
        put(golden, name, value)
    put(golden, "logits", logits)
    put(golden, "loss", loss.reshape(1))
    kind = "qwen3" if qk_norm else "llama"
    save_file(golden, ROOT / f"crates/milpa-model/tests/golden/decoder_{kind}.safetensors")


if __name__ == "__main__":
    operations()
    save_file(stored, ROOT / "crates/milpa-tensor/tests/golden/operations.safetensors")
    for qk_norm in (True, False):
        decoder(qk_norm)
    print(f"{len({name.split('.')[0] for name in stored})} operations, {len(stored)} tensors; 2 decoders; torch {torch.__version__}")
