#!/usr/bin/env python3
"""Golden values for learning-rate schedules: what PyTorch's and transformers' schedulers do.

Rewrites crates/milpa-train/tests/it/golden/schedules.json: for each case the schedule as a recipe says
it, the steps of the run, and the peer's factor of the learning rate before each step and after the last.
A peer's warm-up of W steps is at s/W in step s, where Milpa is at (s+1)/W; the test knows that.
Needs: torch, transformers.
"""
import json
from pathlib import Path

import torch
from torch.optim.lr_scheduler import (CosineAnnealingLR, ExponentialLR, LambdaLR, LinearLR,
                                      PolynomialLR, SequentialLR)
from transformers import (get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup,
                          get_inverse_sqrt_schedule, get_linear_schedule_with_warmup, get_wsd_schedule)

ROOT = Path(__file__).resolve().parent.parent
STEPS, WARMUP = 60, 8


def factors(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))], lr=1.0)
    scheduler = make(optimizer)
    out = []
    for _ in range(STEPS + 1):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return out


def chain(optimizer, parts):
    """Schedulers one after the other, each of some steps."""
    ends = [sum(steps for steps, _ in parts[:n + 1]) for n in range(len(parts) - 1)]
    return SequentialLR(optimizer, [part for _, part in parts], ends)


def wsd_s(ends, decay, minimum):
    """Factor at step t of the cycles that end at `ends`, each decaying over `decay` steps as in
    arXiv:2410.05192: 1 / ((1 - p) / peak + p / minimum), p the share of the decay that is done."""
    def factor(t):
        done = next((t - end + decay for end in ends if end - decay <= t < end), 0 if t < ends[-1] else decay)
        p = done / decay
        return 1 / ((1 - p) / 1.0 + p / minimum)
    return factor


def cases():
    warm = dict(warmup=f"{WARMUP} steps")
    yield dict(kind="constant", **warm), WARMUP, lambda o: get_constant_schedule_with_warmup(o, WARMUP)
    yield dict(kind="linear", **warm), WARMUP, lambda o: get_linear_schedule_with_warmup(o, WARMUP, STEPS)
    yield dict(kind="cosine", **warm), WARMUP, lambda o: get_cosine_schedule_with_warmup(o, WARMUP, STEPS)
    yield dict(kind="cosine"), 0, lambda o: CosineAnnealingLR(o, STEPS)
    yield dict(kind="cosine", minimum=0.1), 0, lambda o: CosineAnnealingLR(o, STEPS, eta_min=0.1)
    yield dict(kind="inverse_sqrt", **warm), WARMUP, lambda o: get_inverse_sqrt_schedule(o, WARMUP)
    for shape, peer in (("linear", "linear"), ("cosine", "cosine"), ("one_minus_sqrt", "1-sqrt")):
        for minimum in (0.0, 0.2):
            # The peer warms up from the minimum, Milpa from zero: with a minimum, no warm-up.
            up = 0 if minimum else WARMUP
            yield (dict(kind="warmup_stable_decay", warmup=f"{up} steps", decay="20 steps", shape=shape,
                        minimum=minimum), up,
                   lambda o: get_wsd_schedule(o, up, 20, num_training_steps=STEPS, decay_type=peer,
                                              min_lr_ratio=minimum))
    # No library has the decay of WSD-S: PyTorch steps through its authors' formula.
    for minimum in (0.1, 0.02):
        yield (dict(kind="warmup_stable_decay_cycles", cycles=["25 steps", "35 steps"], decay="10 steps",
                    shape="inverse_linear", minimum=minimum), 0,
               lambda o: LambdaLR(o, wsd_s((25, 60), 10, minimum)))
    pieces = [dict(shape="sqrt", to=0.0)]
    yield dict(kind="pieces", pieces=pieces), 0, lambda o: PolynomialLR(o, total_iters=STEPS, power=0.5)
    pieces = [dict(shape="exponential", to=0.01)]
    yield dict(kind="pieces", pieces=pieces), 0, lambda o: ExponentialLR(o, 0.01 ** (1 / STEPS))
    pieces = [dict(shape="constant", steps="15 steps"), dict(shape="linear", steps="25 steps", to=0.4),
              {"shape": "cosine", "from": 1.0, "to": 0.1}]
    yield (dict(kind="pieces", pieces=pieces), 0,
           lambda o: chain(o, [(15, LinearLR(o, 1.0, 1.0, 15)), (25, LinearLR(o, 1.0, 0.4, 25)),
                               (20, CosineAnnealingLR(o, 20, eta_min=0.1))]))


def main():
    out = [dict(schedule=schedule, warmup=warmup, factors=factors(make)) for schedule, warmup, make in cases()]
    path = ROOT / "crates/milpa-train/tests/it/golden/schedules.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case) for case in out)
    path.write_text(f'{{"steps": {STEPS}, "cases": [\n{lines}\n]}}\n')
    print(f"{len(out)} schedules")


main()
