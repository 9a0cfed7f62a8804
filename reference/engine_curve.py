#!/usr/bin/env python3
"""Losses of a hundred AdamW steps of a small Llama in PyTorch: the curve that the engine must follow.

Four times: in f32 and under bf16 autocast, each as it stands and compiled: the distances between them are PyTorch's own spread.

Weights and tokens come from a counter, so that no file has to be shared:
    u(seed, i) = (splitmix64(seed * 2^32 + i) >> 40) / 2^24, exact in single precision
    matrix number t of the model: (2u - 1) * sqrt(3) * 0.02 with seed 1000 + t, rounded to single precision
    token number i of the stream: floor(V * u(1999, i)^3); step s reads B * T of them from s * B * T on
The target of a token is the next one of the stream. Needs: torch. Run from the repository root; it rewrites
crates/milpa-model/tests/golden/curve.json.
"""
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

HIDDEN, LAYERS, HEADS, KV_HEADS, FFN, VOCAB = 64, 2, 4, 2, 128, 256
TOKENS, SEQUENCES, STEPS = 32, 2, 100
LEARNING_RATE, BETAS, EPSILON, DECAY, CLIP = 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0
ROPE_THETA, NORM_EPSILON, STD = 10_000.0, 1e-5, 0.02


def uniform(seed, start, count):
    with np.errstate(over="ignore"):
        x = np.uint64(seed << 32) + np.arange(start, start + count, dtype=np.uint64)
        x += np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(40)).astype(np.float64) * 2.0**-24


def parameters():
    width = HIDDEN // HEADS
    shapes = [("embed", (VOCAB, HIDDEN))]
    for i in range(LAYERS):
        shapes += [(f"{i}.norm1", (HIDDEN,)), (f"{i}.q", (HEADS * width, HIDDEN)), (f"{i}.k", (KV_HEADS * width, HIDDEN)),
                   (f"{i}.v", (KV_HEADS * width, HIDDEN)), (f"{i}.o", (HIDDEN, HEADS * width)), (f"{i}.norm2", (HIDDEN,)),
                   (f"{i}.gate", (FFN, HIDDEN)), (f"{i}.up", (FFN, HIDDEN)), (f"{i}.down", (HIDDEN, FFN))]
    shapes.append(("norm", (HIDDEN,)))
    made = {}
    for number, (name, shape) in enumerate(shapes):
        if len(shape) == 1:
            values = np.ones(shape)
        else:
            values = (2 * uniform(1000 + number, 0, math.prod(shape)) - 1) * math.sqrt(3) * STD
        made[name] = torch.from_numpy(values.astype(np.float32).reshape(shape)).requires_grad_(True)
    return made


def loss_of(weights, ids, targets):
    width = HIDDEN // HEADS
    angles = torch.arange(TOKENS).double()[:, None] * ROPE_THETA ** (-torch.arange(0, width, 2).double() / width)
    cosine, sine = angles.cos().float(), angles.sin().float()

    def rotate(x):
        first, second = x.chunk(2, -1)
        return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)

    def split(x, heads):
        return x.view(SEQUENCES, TOKENS, heads, width).transpose(1, 2)

    x = weights["embed"][ids]
    for i in range(LAYERS):
        h = F.rms_norm(x, (HIDDEN,), weights[f"{i}.norm1"], NORM_EPSILON)
        q = rotate(split(h @ weights[f"{i}.q"].T, HEADS))
        k, v = rotate(split(h @ weights[f"{i}.k"].T, KV_HEADS)), split(h @ weights[f"{i}.v"].T, KV_HEADS)
        k, v = (y.repeat_interleave(HEADS // KV_HEADS, 1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + y.transpose(1, 2).reshape(SEQUENCES, TOKENS, HIDDEN) @ weights[f"{i}.o"].T
        h = F.rms_norm(x, (HIDDEN,), weights[f"{i}.norm2"], NORM_EPSILON)
        x = x + (F.silu(h @ weights[f"{i}.gate"].T) * (h @ weights[f"{i}.up"].T)) @ weights[f"{i}.down"].T
    hidden = F.rms_norm(x, (HIDDEN,), weights["norm"], NORM_EPSILON)
    return F.cross_entropy((hidden @ weights["embed"].T).flatten(0, 1), targets.flatten())


def curve(compiled=False, dtype=torch.float32):
    weights = parameters()
    groups = [{"params": [p for p in weights.values() if p.dim() == 2], "weight_decay": DECAY},
              {"params": [p for p in weights.values() if p.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON)
    step_loss = torch.compile(loss_of) if compiled else loss_of
    losses, norms = [], []
    for step in range(STEPS):
        count = SEQUENCES * TOKENS
        stream = torch.from_numpy((VOCAB * uniform(1999, step * count, count + 1) ** 3).astype(np.int64))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = step_loss(weights, stream[:-1].view(SEQUENCES, TOKENS), stream[1:].view(SEQUENCES, TOKENS))
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(weights.values(), CLIP)))
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


def main():
    losses, norms = curve()
    golden = {"torch": torch.__version__, "losses": losses, "gradient_norms": norms, "compiled_losses": curve(compiled=True)[0],
              "bf16_losses": curve(dtype=torch.bfloat16)[0], "compiled_bf16_losses": curve(compiled=True, dtype=torch.bfloat16)[0]}
    path = Path(__file__).resolve().parent.parent / "crates/milpa-model/tests/golden/curve.json"
    path.write_text(json.dumps(golden, indent=1) + "\n")
    for key in ("compiled_losses", "bf16_losses", "compiled_bf16_losses"):
        distances = np.abs(np.array(losses) - np.array(golden[key]))
        print(f"{key}: largest distance {distances.max():.1e}, root mean square {np.sqrt((distances**2).mean()):.1e}")
    print(f"4 curves of {STEPS} steps, loss {losses[0]:.4f} to {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
