"""Agreement, tests and corrections of scipy, statsmodels and krippendorff, for milpa-eval's statistics.

    python reference/statistics_golden.py     # writes crates/milpa-eval/tests/golden/statistics.json

Drawn ratings (two raters; five raters with gaps), discordant pairs for McNemar's exact test, p-values
for Holm and Benjamini-Hochberg, Wilson intervals, and quantiles of Student's t.
"""

import json
from pathlib import Path

import krippendorff
import numpy as np
from scipy import stats
from statsmodels.stats import inter_rater
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

OUT = Path(__file__).parent.parent / "crates/milpa-eval/tests/golden/statistics.json"


def ratings(rng, units, raters, categories, missing):
    truth = rng.integers(0, categories, units)
    table = np.where(
        rng.random((units, raters)) < 0.65, truth[:, None], rng.integers(0, categories, (units, raters))
    ).astype(float)
    table[rng.random((units, raters)) < missing] = np.nan
    return table


def alphas(table):
    return {
        level: float(krippendorff.alpha(reliability_data=table.T, level_of_measurement=level))
        for level in ("nominal", "interval")
    }


def rows(table):
    return [[None if np.isnan(value) else int(value) for value in unit] for unit in table]


def main():
    rng = np.random.default_rng(7)
    two = ratings(rng, 60, 2, 4, 0.0)
    five = ratings(rng, 40, 5, 4, 0.0)
    gaps = ratings(rng, 50, 5, 4, 0.3)
    table = np.zeros((4, 4))
    for a, b in two.astype(int):
        table[a, b] += 1
    p_values = np.round(rng.random(12) ** 3, 6)
    golden = {
        "two": {
            "ratings": rows(two),
            "cohen": float(inter_rater.cohens_kappa(table).kappa),
            "alpha": alphas(two),
        },
        "five": {
            "ratings": rows(five),
            "fleiss": float(inter_rater.fleiss_kappa(inter_rater.aggregate_raters(five.astype(int), 4)[0])),
            "alpha": alphas(five),
        },
        "gaps": {"ratings": rows(gaps), "alpha": alphas(gaps)},
        "mcnemar": [
            [a, b, float(mcnemar([[9, a], [b, 9]], exact=True).pvalue)]
            for a, b in [(0, 3), (12, 5), (40, 61), (500, 430)]
        ],
        "p_values": p_values.tolist(),
        "holm": multipletests(p_values, method="holm")[1].tolist(),
        "benjamini_hochberg": multipletests(p_values, method="fdr_bh")[1].tolist(),
        "wilson": [
            [k, n, *map(float, proportion_confint(k, n, method="wilson"))]
            for k, n in [(0, 12), (3, 40), (150, 179), (999, 1000)]
        ],
        "student_t": [[p, nu, float(stats.t.ppf(p, nu))] for p in (0.6, 0.975, 0.999) for nu in (1.5, 4, 30, 1e4)],
        "normal_cdf": [[z, float(stats.norm.cdf(z))] for z in (-8.0, -3.0, -0.4, 0.0, 1.7, 5.0)],
    }
    OUT.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(f"{len(golden)} tables, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
