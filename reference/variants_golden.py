#!/usr/bin/env python3
"""Golden values for the operations that only some families of decoders have: windows, soft caps, GeGLU,
biases, partial rotary embedding and mixtures of experts; and for the z-loss.

Computed by PyTorch in double precision as in `engine_golden.py`, whose helpers it uses; stored in the same
layout. Needs: torch, safetensors. Rewrites crates/milpa-tensor/tests/golden/variants.safetensors.
"""
import math

import torch
import torch.nn.functional as F
from engine_golden import ROOT, normal, put, record, rotate, stored
from safetensors.torch import save_file


def attend(q_bthk, k_btgk, v_btgk, window=None, cap=None, documents_bt=None):
    groups = q_bthk.shape[2] // k_btgk.shape[2]
    k_bthk, v_bthk = (x.repeat_interleave(groups, 2) for x in (k_btgk, v_btgk))
    tokens = q_bthk.shape[1]
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)[None]
    visible = ((distance >= 0) & (distance < (window or tokens)))[None, None]
    if documents_bt is not None:
        visible = visible & (documents_bt[:, None, :, None] == documents_bt[:, None, None, :])
    scores = torch.einsum("bqhk,bthk->bhqt", q_bthk, k_bthk) / math.sqrt(q_bthk.shape[-1])
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    weights = torch.softmax(scores.masked_fill(~visible, -math.inf), -1)
    return torch.einsum("bhqt,bthk->bqhk", weights, v_bthk)


def experts(normalise):
    def run(x, logits, gate, up, down):
        weights, ids = torch.softmax(logits, -1).topk(2, -1)
        if normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        for expert in range(logits.shape[-1]):
            token, slot = (ids == expert).nonzero(as_tuple=True)
            inner = F.silu(x[token] @ gate[expert].T) * (x[token] @ up[expert].T)
            out = out.index_add(0, token, weights[token, slot, None] * (inner @ down[expert].T))
        return out

    return run


def main():
    q, k, v = normal(2, 9, 4, 6, scale=2.0), normal(2, 9, 2, 6), normal(2, 9, 2, 6)
    documents = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2], [0, 1, 1, 1, 1, 1, 1, 1, 2]])
    record("window", lambda q, k, v: attend(q, k, v, window=3), [q, k, v])
    record("capped", lambda q, k, v: attend(q, k, v, cap=1.5), [q, k, v])
    both = lambda q, k, v: attend(q, k, v, 4, 2.5, documents)
    record("window_capped_documents", both, [q, k, v], documents=documents)
    record("geglu", lambda g, u: F.gelu(g, approximate="tanh") * u, [normal(4, 9, scale=3.0), normal(4, 9)])
    record("add_bias", lambda x, b: x + b, [normal(3, 2, 7), normal(7)])
    record("soft_cap", lambda x: 2.0 * torch.tanh(x / 2.0), [normal(4, 9, scale=3.0)])
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 8, 0, 1, 2]])
    turn = lambda x: torch.cat((rotate(x[..., :4], positions, 1e4), x[..., 4:]), -1)
    record("partial_rope", turn, [normal(2, 5, 3, 10)], positions=positions)
    for name, normalise in (("experts", False), ("normalised_experts", True)):
        inputs = [normal(11, 6), normal(11, 5, scale=2.0), normal(5, 7, 6), normal(5, 7, 6), normal(5, 6, 7)]
        record(name, experts(normalise), inputs)
    targets = torch.tensor([4, 18, -1, 0, 7, 7])
    capped_loss = lambda x, w: F.cross_entropy(
        3.0 * torch.tanh(x @ w.T / 3.0), targets, ignore_index=-1).reshape(1)
    record("capped_cross_entropy", capped_loss, [normal(6, 8), normal(19, 8)], targets=targets)
    # The coefficient as single precision has it; large, so that its part of the gradient is seen.
    coefficient, row_weights = float(torch.tensor(0.01).float()), torch.tensor([0.5, 2.0, 1.0, 0.0, -1.0, 0.25])

    def z_loss(x, w):
        logits = x @ w.T
        losses = F.cross_entropy(logits, targets, ignore_index=-1, reduction="none")
        squares = torch.where(targets < 0, 0.0, torch.logsumexp(logits, -1) ** 2)
        return (((losses + coefficient * squares) * row_weights).sum() / 3.0).reshape(1)

    record("z_loss_cross_entropy", z_loss, [normal(6, 8, scale=3.0), normal(19, 8)], targets=targets)
    put(stored, "z_loss_cross_entropy.weights", row_weights)
    save_file(stored, ROOT / "crates/milpa-tensor/tests/golden/variants.safetensors")
    print(f"{len({name.split('.')[0] for name in stored})} operations, {len(stored)} tensors; torch {torch.__version__}")


if __name__ == "__main__":
    main()
