#!/usr/bin/env python3
"""Golden values for scaling laws: fits by scipy of the same runs, forms and objectives.

Rewrites crates/milpa-plan/tests/golden/scaling.json. Runs are made by a known law with noise, two of
them far off. Squares are fitted by least_squares from many starts, Huber's sums by BFGS with exact
gradients on a scaled sum, sums of absolute values by linear programs over the linearised curve.
Needs: scipy.
"""
import itertools
import json
from pathlib import Path

import numpy as np
import scipy
from scipy.optimize import least_squares, linprog, minimize

OUT = Path(__file__).resolve().parent.parent / "crates/milpa-plan/tests/golden/scaling.json"
DELTA = 1e-3


def chinchilla(theta, n, d):
    a, b, e, alpha, beta = theta
    return np.log(np.exp(a - alpha * n) + np.exp(b - beta * d) + np.exp(e))


def over_training(theta, n, d):
    a, b, e, exponent = theta
    return chinchilla([a, b, e, exponent, exponent], n, d)


def kaplan(theta, n, d):
    a, b, alpha, beta = theta
    return beta * np.log(np.exp((a - alpha * n) / beta) + np.exp((b - beta * d) / beta))


def jacobian(residual, theta):
    """Derivatives by complex steps: exact to rounding."""
    columns = []
    for j in range(len(theta)):
        shifted = np.array(theta, dtype=complex)
        shifted[j] += 1e-30j
        columns.append(residual(shifted).imag / 1e-30)
    return np.stack(columns, 1)


def squares(residual, starts):
    fits = []
    for start in starts:
        try:
            fit = least_squares(lambda t: residual(t).real, start, jac=lambda t: jacobian(residual, t),
                                method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=3000)
        except ValueError:
            continue
        if np.isfinite(fit.cost):
            fits.append((fit.cost, fit.x))
    return min(fits, key=lambda fit: fit[0])


def huber(residual, starts):
    def value(theta):
        r = residual(theta).real
        inside = np.abs(r) <= DELTA
        total = np.where(inside, 0.5 * r * r, DELTA * (np.abs(r) - 0.5 * DELTA)).sum()
        return 1e6 * total, 1e6 * jacobian(residual, theta).T @ np.clip(r, -DELTA, DELTA)

    fits = []
    for start in starts:
        for _ in range(20):
            fit = minimize(value, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000})
            moved = np.abs(fit.x - start).max()
            start = fit.x
            if moved < 1e-10:
                break
        fits.append((fit.fun / 1e6, fit.x))
    return min(fits, key=lambda fit: fit[0])


def absolute(residual, start):
    theta, radius = np.array(start), 0.1
    best = np.abs(residual(theta).real).sum()
    while radius > 1e-13:
        r, j = residual(theta).real, jacobian(residual, theta)
        rows, columns = j.shape
        cost = np.concatenate([np.zeros(columns), np.ones(rows)])
        above = np.hstack([j, -np.eye(rows)])
        below = np.hstack([-j, -np.eye(rows)])
        bounds = [(-radius, radius)] * columns + [(0, None)] * rows
        step = linprog(cost, np.vstack([above, below]), np.concatenate([-r, r]), bounds=bounds).x[:columns]
        reached = np.abs(residual(theta + step).real).sum()
        if reached < best:
            theta, best = theta + step, reached
            radius *= 1.5
        else:
            radius *= 0.4
    return best, theta


def main():
    random = np.random.default_rng(7)
    n = np.log(5e7) + np.arange(48) % 12 * np.log(1.6)
    d = n + np.log(np.repeat([3.0, 12.0, 40.0, 150.0], 12))
    noise = 0.01 * random.standard_normal(48)
    noise[[5, 30]] += [0.2, -0.1]
    loss = np.round(np.exp(chinchilla([np.log(482), np.log(2085), np.log(1.817), 0.348, 0.366], n, d) + noise), 6)
    sizes = [[float(f"{x:.9e}") for x in row] for row in np.exp(np.stack([n, d], 1))]
    n, d = np.log(np.array(sizes)).T
    # Terms at the middle of the data: better conditioned; constants are turned back at the end.
    middle = np.array([n.mean(), d.mean()])
    x, y = n - middle[0], d - middle[1]
    mean = np.log(loss).mean()
    grid = [0.1, 0.3, 0.6]
    starts = {
        "chinchilla": [[mean - 1, mean - 1, mean + np.log(f), a, b] for a, b, f in itertools.product(grid, grid, [0.3, 0.7])],
        "over-training": [[mean - 1, mean - 1, mean + np.log(f), a] for a, f in itertools.product(grid, [0.3, 0.7])],
        "kaplan": [[mean - 0.1, mean - 0.1, a, b] for a, b in itertools.product([0.05, 0.1, 0.3], [0.05, 0.1, 0.3])],
    }
    curves = {"chinchilla": chinchilla, "over-training": over_training, "kaplan": kaplan}
    fits = []
    for form, objective in [("chinchilla", "huber"), ("chinchilla", "absolute"), ("chinchilla", "squares"),
                            ("over-training", "huber"), ("over-training", "squares"),
                            ("kaplan", "huber"), ("kaplan", "absolute"), ("kaplan", "squares")]:
        curve = curves[form]

        def residual(theta):
            log_loss = curve(theta, x, y)
            return np.exp(log_loss) - loss if objective == "squares" else log_loss - np.log(loss)

        by_squares = squares(residual, starts[form])
        if objective == "squares":
            total, theta = by_squares
        else:
            by_lines = absolute(residual, by_squares[1])
            total, theta = by_lines if objective == "absolute" else huber(residual, [by_squares[1], by_lines[1]])
        predicted = [float(np.exp(curve(theta, np.log(size[0]) - middle[0], np.log(size[1]) - middle[1])))
                     for size in [(1e9, 2e10), (7e10, 1.4e12)]]
        fits.append({"form": form, "objective": objective, "sum": float(f"{total:.9e}"),
                     "losses": [float(f"{value:.6f}") for value in predicted]})
    OUT.parent.mkdir(parents=True, exist_ok=True)
    record = {"peer": f"scipy {scipy.__version__}", "delta": DELTA, "sizes": sizes, "losses": loss.tolist(),
              "predicted_sizes": [[1e9, 2e10], [7e10, 1.4e12]], "fits": fits}
    OUT.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{len(fits)} fits of 48 runs; scipy {scipy.__version__}")


main()
