"""Holds golden files that were made again against the committed ones.

    python reference/golden_difference.py PATH ...

PATH is a file or pattern as git takes them. A file may differ from the committed one by rounding
alone (compiled PyTorch adds in another order from run to run): numbers by at most 1e-5 of the largest
beside them, those named bf16 by 2e-4, which is how far PyTorch's bf16 curve is from its f32 curve.
Such a file is put back. Anything else is an error, and the new file stays.
"""

import json
import subprocess
import sys

import numpy as np
from safetensors.numpy import load

TOLERANCE, BF16_TOLERANCE = 1e-5, 2e-4


def git(*arguments):
    return subprocess.run(["git", *arguments], check=True, capture_output=True).stdout


def arrays(path, content):
    """What a file holds, by name: arrays of numbers, and everything else as it is."""
    if path.endswith(".safetensors"):
        return load(content)
    if not path.endswith(".json"):
        return {"": content}
    found = {}

    def walk(name, value):
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{name}.{key}", inner)
        elif isinstance(value, list) and value and all(isinstance(inner, float) for inner in value):
            found[name] = np.array(value)
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                walk(f"{name}.{index}", inner)
            found[f"{name} length"] = len(value)
        else:
            found[name] = np.array([value]) if isinstance(value, float) else value

    walk("", json.loads(content))
    return found


def difference(path, committed, made):
    """The largest difference as a share of the largest number beside it; infinite beyond rounding."""
    old, new = arrays(path, committed), arrays(path, made)
    if old.keys() != new.keys():
        return float("inf")
    worst = 0.0
    for name, a in old.items():
        b = new[name]
        floats = isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape and a.dtype.kind == b.dtype.kind == "f"
        if not floats:
            if not np.array_equal(a, b):
                return float("inf")
        elif not np.array_equal(a, b):
            largest = float(np.abs(a.astype(np.float64)).max())
            found = float(np.abs(a.astype(np.float64) - b).max()) / max(largest, 1e-300)
            # A number that is none is no rounding either.
            if not found <= (BF16_TOLERANCE if "bf16" in name else TOLERANCE):
                print(f"{path}, {name}: {found:.1e}")
                return float("inf")
            worst = max(worst, found)
    return worst


def main():
    paths = sys.argv[1:]
    files = git("ls-files", "--", *paths).decode().split()
    changed = git("diff", "--name-only", "HEAD", "--", *paths).decode().split()
    new = git("ls-files", "--others", "--exclude-standard", "--", *paths).decode().split()
    worst, wrong = 0.0, [f"{path} is new" for path in new]
    for path in changed:
        committed = git("show", f"HEAD:{path}")
        with open(path, "rb") as file:
            found = difference(path, committed, file.read())
        if found < float("inf"):
            worst = max(worst, found)
            with open(path, "wb") as file:
                file.write(committed)
        else:
            wrong.append(f"{path} changed")
    if wrong:
        print("; ".join(wrong))
        sys.exit(1)
    assert files, f"{paths} name no committed file"
    rounding = f", {len(changed)} but for rounding ({worst:.0e})" if changed else ""
    print(f"{len(files)} file{'s' if len(files) > 1 else ''} as committed{rounding}")


if __name__ == "__main__":
    main()
