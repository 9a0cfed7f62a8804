"""Ratings and intervals of arena-rank 0.1.1 on small sets of votes, for milpa-eval's arena.

    python reference/arena_golden.py          # writes crates/milpa-eval/tests/golden/arena.json

Cases: 22 games of four players, run until the peer has converged and as it comes; 400 drawn games of six players with ties, plain and with a weight
for each pair; 600 with two style features, whose coefficients have the peer's L2 penalty of 1 and
almost none. Intervals are left out where the peer's ridge on the Hessian is another one: it does not
grow with weighted votes, and leaves the L2 penalty out.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from arena_rank.models.bradley_terry import BradleyTerry
from arena_rank.models.contextual_bradley_terry import ContextualBradleyTerry
from arena_rank.utils.data_utils import ContextualPairDataset, PairDataset

OUT = Path(__file__).parent.parent / "crates/milpa-eval/tests/golden/arena.json"


def four_players():
    games = []
    wins = [("A", "B", 2), ("B", "A", 3), ("A", "D", 1), ("D", "A", 4)]
    wins += [("B", "C", 5), ("C", "B", 3), ("C", "D", 1), ("D", "C", 3)]
    for winner, loser, times in wins:
        for game in range(times):
            first = game % 2 == 0
            games.append(
                {
                    "model_a": winner if first else loser,
                    "model_b": loser if first else winner,
                    "winner": "model_a" if first else "model_b",
                }
            )
    return games


def drawn(count, players, features, seed):
    rng = np.random.default_rng(seed)
    strength = rng.normal(0, 0.7, players)
    effect = np.array([0.6, -0.2])[:features]
    games = []
    for _ in range(count):
        a, b = rng.choice(players, 2, replace=False, p=(np.arange(players) + 1) / sum(range(players + 1)))
        style = np.round(rng.normal(0, 1.5, features), 3)
        p = 1 / (1 + np.exp(-(strength[a] - strength[b] + style @ effect)))
        tie = rng.random() < 0.15
        winner = "tie" if tie else "model_a" if rng.random() < p else "model_b"
        game = {"model_a": f"m{a}", "model_b": f"m{b}", "winner": winner}
        games.append(game | {f"f{i}": float(value) for i, value in enumerate(style)})
    return games


def ratings(result, intervals=True):
    names = result["competitors"]
    found = {"ratings": dict(zip(names, map(float, result["ratings"])))}
    if intervals:
        ends = zip(map(float, result["rating_lower"]), map(float, result["rating_upper"]))
        found["intervals"] = dict(zip(names, ends))
    if "coeffs" in result:
        found["coefficients"] = [float(value) for value in result["coeffs"]]
    return found


def tight(model):
    """The peer's own stopping rule leaves the ratings of the 22 games 1.3e-4 from the maximum."""
    model.ftol, model.gtol = 0.0, 1e-13
    return model


def plain(games, intervals=True, **options):
    data = PairDataset.from_pandas(pd.DataFrame(games), **options)
    result = tight(BradleyTerry(len(data.competitors))).compute_ratings_and_cis(data)
    return ratings(result, intervals)


def style(games, reg, intervals):
    data = ContextualPairDataset.from_pandas(
        pd.DataFrame(games), feature_cols=["f0", "f1"], reweighted=False
    )
    model = tight(ContextualBradleyTerry(len(data.competitors), 2, reg=reg))
    return ratings(model.compute_ratings_and_cis(data), intervals)


def main():
    games, many, styled = four_players(), drawn(400, 6, 0, 1), drawn(600, 5, 2, 2)
    data = PairDataset.from_pandas(pd.DataFrame(games))
    as_it_comes = ratings(BradleyTerry(len(data.competitors)).compute_ratings_and_cis(data))
    cases = [
        {"name": "four players", "votes": games, "expect": plain(games)},
        {"name": "four players, as it comes", "votes": games, "expect": as_it_comes},
        {"name": "six players", "votes": many, "expect": plain(many)},
        {
            "name": "six players, pairs weighted",
            "votes": many,
            "reweight_pairs": 20,
            "expect": plain(many, intervals=False, reweighted=True, min_pair_count=20),
        },
        {"name": "style, penalty 1", "votes": styled, "style_ridge": 1.0, "expect": style(styled, 1.0, False)},
        {"name": "style", "votes": styled, "style_ridge": 1e-9, "expect": style(styled, 1e-9, True)},
    ]
    # Votes as rows keep the file small.
    for case in cases:
        keys = list(case["votes"][0])
        case["votes"] = {"fields": keys, "rows": [[game[key] for key in keys] for game in case["votes"]]}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    print(f"{len(cases)} cases, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
