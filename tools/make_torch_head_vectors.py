"""Makes ``tests/data/torch/head.npz``: what the git head of traceTorch outputs (commit 5f5277c).

The outputs are those of the scalar neuron in that repository's own ``tests/_references.py``, with
which its tests compare all 32 layers, state by state, in float64. Run by hand with a clone of it:

    python tools/make_torch_head_vectors.py /path/to/tracetorch

The file is read by ``tests/support/torch_vectors.py``, like those of `make_torch_vectors.py`.
"""

import json
import pathlib
import re
import sys

import numpy as np

FOLDER = pathlib.Path(__file__).parents[1] / "tests" / "data" / "torch"
STEPS, BATCH, NEURONS = 8, 2, 3
PREFIXES = ("", "D", "S", "R", "DS", "DR", "SR", "DSR")
NAMES = [
    f"{prefix}LI{suffix}"
    for suffix in ("", "EMA", "B", "T", "TS")
    for prefix in PREFIXES
    if suffix not in ("", "EMA") or "R" not in prefix
]
RANGES = {
    "alpha": (0.2, 0.8), "beta": (0.5, 0.95), "gamma": (0.3, 0.9), "threshold": (0.3, 0.9),
    "scale": (0.5, 1.5), "rec_weight": (-0.8, 0.8),
}  # fmt: skip


def parameters(name):
    """Names of a layer's parameters, by its letters."""
    dual, synaptic, recurrent, suffix = re.fullmatch(r"(D?)(S?)(R?)LI(\w*)", name).groups()
    signs = ("pos_", "neg_")
    kinds = ["alpha"] * bool(synaptic) + ["beta"] + ["gamma", "rec_weight"] * bool(recurrent)
    names = [sign + kind for kind in kinds for sign in (signs if dual else ("",))]
    names += {"B": ["threshold"], "": [], "EMA": []}.get(suffix, [s + "threshold" for s in signs])
    return names + [s + "scale" for s in signs if suffix == "TS"]


def neuron(name, values, smooth):
    from tests._references import ScalarNeuron

    prefix, suffix = re.fullmatch(r"(D?S?R?)LI(\w*)", name).groups()
    return ScalarNeuron(
        "LI" + suffix.removesuffix("EMA"),
        values,
        dual="D" in prefix,
        synaptic="S" in prefix,
        recurrent="R" in prefix,
        ema=suffix == "EMA",
        smooth=smooth,
    )


def raw(kind, value):
    """What traceTorch stores for a value."""
    if kind in ("alpha", "beta", "gamma"):
        return np.log(value) - np.log1p(-value)
    return np.log(np.expm1(value)) if kind == "threshold" else value


def run(name, values, xs, smooth):
    out = np.zeros_like(xs)
    for place in np.ndindex(xs.shape[1:]):
        one = neuron(name, {key: float(v[place[-1]]) for key, v in values.items()}, smooth)
        out[:, *place] = [one.step(float(x)) for x in xs[:, *place]]
    return out


def main():
    sys.path.insert(0, sys.argv[1])
    cases, stored = [], []
    for i, name in enumerate(NAMES):
        for smooth in (False, True) if "B" in name or "T" in name else (False,):
            rng = np.random.default_rng([i, smooth])
            values = {}
            for key in parameters(name):
                kind = key.removeprefix("pos_").removeprefix("neg_")
                values[key] = rng.uniform(*RANGES[kind], NEURONS)
            xs = rng.normal(scale=1.5, size=(STEPS, BATCH, NEURONS))
            xs = xs.astype(np.float32).astype(np.float64)
            arrays = {
                f"state/raw_{key}": raw(key.removeprefix("pos_").removeprefix("neg_"), value)
                for key, value in values.items()
            }
            arrays |= {"xs": xs, "out": run(name, values, xs, smooth)}
            case = {"name": f"{name}/{'smooth' if smooth else 'hard'}", "layer": name}
            case["arrays"] = [[key, list(a.shape), "float32"] for key, a in arrays.items()]
            stored += [array.ravel() for array in arrays.values()]
            cases.append(case)
    path = FOLDER / "head.npz"
    stored = np.concatenate(stored).astype(np.float32)
    np.savez_compressed(path, cases=json.dumps(cases), values=stored)
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
