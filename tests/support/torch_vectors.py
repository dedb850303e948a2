"""Stored state dicts and outputs of traceTorch's releases, and which of our layers is which."""

import dataclasses
import functools
import json

import numpy as np
import pages

from tracetorch_jax import interop, snn, spikes

FOLDER = pages.DATA / "torch"
RELEASES = tuple(sorted(path.stem for path in FOLDER.glob("0.*.npz")))

# What fires like a layer of each release, as the vectors were made: without chance.
SPIKES = {
    "0.12.0": spikes.atan(2.0),
    "0.13.1": spikes.sigmoid(1.0),
    "0.15.0": spikes.sigmoid(4.0),
    "0.17.0": spikes.sigmoid(4.0),
    "0.18.2": spikes.sigmoid(4.0),
    "0.19.1": spikes.smooth(4.0),
    "0.19.2": spikes.smooth(4.0),
    "head": spikes.sigmoid(4.0),
}
BIASED = ("0.18.2", "0.19.1", "0.19.2")
# Another layer on traceTorch's head: dual traces that are never summed, spikes recorded unscaled.
ONLY_ON_HEAD = (
    "DSLI", "DSLIEMA", "DSLIB", "DSRLIB", "DSLIT", "DRLIT", "DSRLIT",
    "RLITS", "DSLITS", "DRLITS", "SRLITS", "DSRLITS",
)  # fmt: skip
# Without a synapse, whatever their names, up to 0.19.1.
NO_SYNAPSE = {"SLIB": "LIB", "SRLIB": "RLIB", "SRLIT": "RLIT", "SRLITS": "RLITS"}


@dataclasses.dataclass(frozen=True)
class Case:
    release: str
    info: dict
    arrays: dict

    @property
    def state_dict(self):
        return {k.removeprefix("state/"): v for k, v in self.arrays.items() if "state/" in k}

    def __getitem__(self, name):
        return self.arrays[name]


@functools.cache
def torch_cases(release):
    """Every case of a release by its name."""
    with np.load(FOLDER / f"{release}.npz") as z:
        infos, values = json.loads(str(z["cases"])), z["values"]
    cases, start = {}, 0
    for info in infos:
        arrays = {}
        for name, shape, dtype in info["arrays"]:
            end = start + int(np.prod(shape))
            arrays[name] = values[start:end].reshape(shape).astype(dtype)
            start = end
        cases[info["name"]] = Case(release, info, arrays)
    assert start == values.size
    return cases


def counterpart(release, name, num_neurons, state_dict, *, learnable=None, dim=-1):
    """Our layer for one of a release, and the keys of its state dict that mean nothing.

    Args:
        release: of traceTorch.
        name: of the layer there.
        num_neurons: of the layer.
        state_dict: the layer's own.
        learnable: which parameters are, by default all.
        dim: the layer's.
    """
    options = {"dim": dim}
    emits = not name.endswith(("LI", "LIEMA"))
    if not emits:
        options["ema"] = name.endswith("EMA")
        name = name.removesuffix("EMA")
    ignore = ()
    if name in NO_SYNAPSE and release not in ("0.19.2", "head"):
        name, ignore = NO_SYNAPSE[name], ("*raw_alpha",)
    if name.startswith("D"):
        options["zero_split"] = "both"
    if emits:
        options["spike"] = SPIKES[release]
    values = interop.layer_arguments(state_dict)
    for parameter in snn.ALL_LAYERS[name](num_neurons).spec.parameters:
        options[f"{parameter}_rank"] = values[parameter].ndim
        if learnable and not learnable[parameter]:
            options |= {parameter: values[parameter], f"{parameter}_learnable": False}
    if not (emits and release in BIASED):
        return snn.ALL_LAYERS[name](num_neurons, **options), ignore
    ranks = [values[key].ndim for key in values if key.endswith(("beta", "bias"))]
    bias = snn.flex.Weight(0.0, rank=max(ranks))
    return getattr(snn.flex, name)(num_neurons, **options).clone(bias=bias), ignore


def sub(state_dict, prefix):
    """The part of a state dict below a prefix."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in state_dict.items() if k.startswith(start)}
