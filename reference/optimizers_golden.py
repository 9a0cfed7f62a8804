#!/usr/bin/env python3
"""Golden values for optimiser steps: what torch.optim.AdamW, torch.optim.Muon and lion_pytorch.Lion make of
given gradients.

Rewrites crates/milpa-train/tests/it/golden/optimizers.json: weights, gradients of each step, shares of the
learning rate, and the weights after the last step. Muon's matrix goes to Muon, the vector to AdamW without
decay; AdamW's and Lion's vector has no decay either. PyTorch has no Lion: lion-pytorch follows its authors'. PyTorch's Muon rounds to bf16 before it orthogonalises; that one rounding is switched off here, so that
the formula is compared and not the rounding.
Needs: torch 2.9 or later, lion-pytorch.
"""
import json
from pathlib import Path

import torch
from lion_pytorch import Lion

ROOT = Path(__file__).resolve().parent.parent
SHARES = [0.25, 0.5, 1.0, 1.0, 0.7, 0.1]
ADAMW = dict(lr=0.01, betas=(0.9, 0.95), eps=1e-8)
LION = dict(lr=0.003, betas=(0.9, 0.99))
MUON = dict(lr=0.02, momentum=0.95, weight_decay=0.1, nesterov=True, ns_steps=5, adjust_lr_fn="original")


def run(start, gradients, make):
    tensors = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
    optimizers = make(tensors["matrix"], tensors["vector"])
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    for share, gradient in zip(SHARES, gradients):
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, rates):
            group["lr"] = rate * share
        for name, tensor in tensors.items():
            tensor.grad = gradient[name].clone()
        for optimizer in optimizers:
            optimizer.step()
    return {name: tensor.detach() for name, tensor in tensors.items()}


def adamw(matrix, vector):
    groups = [dict(params=[matrix], weight_decay=0.1), dict(params=[vector], weight_decay=0.0)]
    return [torch.optim.AdamW(groups, **ADAMW)]


def lion(matrix, vector):
    groups = [dict(params=[matrix], weight_decay=0.3), dict(params=[vector], weight_decay=0.0)]
    return [Lion(groups, **LION)]


def muon(matrix, vector):
    return [torch.optim.Muon([matrix], **MUON), torch.optim.AdamW([vector], weight_decay=0.0, **ADAMW)]


def main():
    torch.bfloat16 = torch.float32
    torch.manual_seed(11)
    make = lambda: dict(matrix=torch.randn(6, 4), vector=torch.randn(5))
    start, gradients = make(), [make() for _ in SHARES]
    flat = lambda tensors: {name: tensor.flatten().tolist() for name, tensor in tensors.items()}
    cases = {case.__name__: flat(run(start, gradients, case)) for case in (adamw, lion, muon)}
    out = dict(shares=SHARES, start=flat(start), gradients=[flat(g) for g in gradients], after=cases)
    path = ROOT / "crates/milpa-train/tests/it/golden/optimizers.json"
    path.write_text(json.dumps(out) + "\n")
    print(f"{len(cases)} optimisers, {len(SHARES)} steps, torch {torch.__version__}")


main()
