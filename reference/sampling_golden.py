#!/usr/bin/env python3
"""Golden values for sampling: what the logits processors of `transformers` leave of a distribution.

Rewrites crates/milpa-model/tests/golden/sampling.json: logits, tokens seen before, settings, and the
probabilities after repetition penalty, temperature, top-k, top-p and min-p, in the order of `generate`.
Needs: torch, transformers.
"""
import json
from pathlib import Path

import torch
from transformers import (LogitsProcessorList, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor,
                          TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)

ROOT = Path(__file__).resolve().parent.parent
OFF = dict(repetition_penalty=1.0, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
SETTINGS = [
    {}, dict(temperature=0.5), dict(temperature=1.7), dict(top_k=1), dict(top_k=7), dict(top_k=500),
    dict(top_p=0.9), dict(top_p=0.3), dict(top_p=0.01), dict(min_p=0.1), dict(min_p=0.9), dict(min_p=1e-4),
    dict(repetition_penalty=1.3), dict(repetition_penalty=0.8), dict(temperature=0.7, top_k=12, top_p=0.8),
    dict(temperature=1.5, top_p=0.95, min_p=0.05), dict(temperature=0.3, top_k=20, min_p=0.02, repetition_penalty=1.2),
    dict(temperature=1.2, top_k=9, top_p=0.5, min_p=0.3, repetition_penalty=2.0),
]


def processors(s):
    chain = LogitsProcessorList()
    if s["repetition_penalty"] != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(s["repetition_penalty"]))
    if s["temperature"] != 1.0:
        chain.append(TemperatureLogitsWarper(s["temperature"]))
    if s["top_k"]:
        chain.append(TopKLogitsWarper(s["top_k"]))
    if s["top_p"] < 1.0:
        chain.append(TopPLogitsWarper(s["top_p"]))
    if s["min_p"] > 0.0:
        chain.append(MinPLogitsWarper(s["min_p"]))
    return chain


def main():
    torch.manual_seed(3)
    logits = (torch.randn(40) * 2.5).double().mul(1024).round().div(1024)
    seen = [3, 17, 3, 8, 39]
    cases = []
    for changed in SETTINGS:
        settings = {**OFF, **changed}
        left = processors(settings)(torch.tensor([seen]), logits.clone()[None])[0]
        cases.append(dict(settings=settings, probabilities=torch.softmax(left, -1).tolist()))
    path = ROOT / "crates/milpa-model/tests/golden/sampling.json"
    path.write_text(json.dumps(dict(logits=logits.tolist(), seen=seen, cases=cases)) + "\n")
    print(f"{len(cases)} settings")


main()
