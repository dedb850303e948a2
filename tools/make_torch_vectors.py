"""Makes ``tests/data/torch/<release>.npz``: state dicts and outputs of a traceTorch release.

Run by hand, once per release, in an environment with torch and that release:

    python -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.9.1 matplotlib tqdm
    /tmp/torch/bin/pip install --no-deps tracetorch==0.12.0
    /tmp/torch/bin/python tools/make_torch_vectors.py

(matplotlib and tqdm because traceTorch imports them; without ``--no-deps`` it wants more.) What is
stored is read by `torch_cases` in ``tests/support/torch_vectors.py``.
"""

import importlib.metadata
import inspect
import json
import pathlib

import numpy as np
import torch
from torch import nn
from tracetorch import functional, snn

VERSION = importlib.metadata.version("tracetorch")
FOLDER = pathlib.Path(__file__).parents[1] / "tests" / "data" / "torch"
STEPS, BATCH, NEURONS = 8, 2, 3
PREFIXES = ("", "D", "S", "R", "DS", "DR", "SR", "DSR")
NAMES = [f"{p}LI{s}" for s in ("", "EMA", "B", "T", "TS") for p in PREFIXES]
# Ranges of constrained values in which every part of a layer is at work.
RANGES = {
    "alpha": (0.2, 0.8), "beta": (0.5, 0.95), "gamma": (0.3, 0.9), "threshold": (0.3, 0.9),
    "scale": (0.5, 1.5), "rec_weight": (-0.8, 0.8), "bias": (-0.3, 0.3),
}  # fmt: skip


def deterministic(layer):
    """Arguments under which a layer of this release is a function of its input."""
    options = inspect.signature(layer).parameters
    if "deterministic" in options:
        return {"deterministic": True}
    quant = options.get("quant_fn")
    if quant is None or isinstance(quant.default, nn.Identity):
        return {}  # spikes without chance, or none at all
    return {"quant_fn": "round" if isinstance(quant.default, str) else functional.round_ste()}


def make(name, num_neurons, rng, variant=None, **kwargs):
    """A layer with random parameters.

    By variant, even or odd parameters are scalars, and those are buffers.
    """
    layer = getattr(snn, name)
    options = inspect.signature(layer).parameters
    learnable = {}
    for i, option in enumerate(o for o in options if f"learn_{o}" in options):
        kind = option.removeprefix("pos_").removeprefix("neg_")
        scalar = variant is not None and i % 2 == variant
        values = rng.uniform(*RANGES[kind], () if scalar else num_neurons)
        kwargs[option] = torch.tensor(values, dtype=torch.float32)
        learnable[option] = kwargs[f"learn_{option}"] = not scalar
    return layer(num_neurons, **deterministic(layer), **kwargs), learnable


def run(model, xs):
    """Outputs of every step, from fresh states."""
    for module in model.modules():
        if hasattr(module, "zero_states"):
            module.zero_states()
    return torch.stack([model(x) for x in xs])


class Named(nn.Module):
    """Modules by name, a grouped convolution over a line, and the norm of what is flattened."""

    def __init__(self, rng):
        super().__init__()
        self.encoder = nn.Conv1d(4, 6, 3, padding=1, groups=2, bias=False)
        self.spikes = make("SLIT", 6, rng, dim=-2)[0]
        self.norm = nn.LayerNorm(6 * 5)
        self.head = nn.Linear(6 * 5, 4)
        self.readout = make("LI", 4, rng)[0]

    def forward(self, x):
        x = self.spikes(self.encoder(x)).flatten(1)
        return self.readout(self.head(self.norm(x)))


def networks(rng):
    """Whole networks, each with the shape of one step's input."""
    yield "dense", (5,), nn.Sequential(
        nn.Linear(5, 8), make("LIB", 8, rng, 0)[0],
        nn.Linear(8, 6), make("RLITS", 6, rng)[0],
        nn.Linear(6, 3), make("LI", 3, rng, 1)[0],
    )  # fmt: skip
    yield "conv", (2, 6, 4), nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), make("LIB", 4, rng, dim=-3)[0],
        nn.AvgPool2d(2), nn.Flatten(), make("LIT", 24, rng)[0],
        nn.Linear(24, 5), make("LI", 5, rng)[0],
    )  # fmt: skip
    yield (
        "transposed",
        (2, 3, 4),
        nn.Sequential(
            nn.ConvTranspose2d(2, 3, (3, 4), stride=2, padding=1), make("DLIT", 3, rng, dim=-3)[0]
        ),
    )
    yield "named", (4, 5), Named(rng)


def scramble(network, rng):
    """Give torch's own layers weights that make the network fire, and norms that do something."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.data *= 2.5
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            shape = module.weight.shape
            module.weight.data = torch.tensor(rng.uniform(0.5, 1.5, shape), dtype=torch.float32)
            module.bias.data = torch.tensor(rng.uniform(-0.5, 0.5, shape), dtype=torch.float32)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.tensor(rng.uniform(-0.5, 0.5, shape), dtype=torch.float32)
            module.running_var = torch.tensor(rng.uniform(0.5, 1.5, shape), dtype=torch.float32)


def same_in_double(network, xs, out):
    """Whether no spike hangs on rounding."""
    hooks = [  # the spikes of some releases are float32 whatever comes in
        module.register_forward_hook(lambda _, x, y: y.to(x[0].dtype))
        for module in network.modules()
    ]
    double = run(network.double(), xs.double()).float()
    network.float()
    for hook in hooks:
        hook.remove()
    return torch.allclose(double, out, atol=1e-4)


def layer_cases(seed):
    for name in (n for n in NAMES if hasattr(snn, n)):
        for variant in (0, 1):
            for trial in range(100):
                rng = np.random.default_rng([seed, NAMES.index(name), variant, trial])
                layer, learnable = make(name, NEURONS, rng, variant)
                xs = rng.normal(scale=1.5, size=(STEPS, BATCH, NEURONS))
                xs = torch.tensor(xs, dtype=torch.float32)
                weights = torch.tensor(rng.normal(size=xs.shape), dtype=torch.float32)
                xs.requires_grad_()
                out = run(layer, xs)
                (weights * out).sum().backward()
                if same_in_double(layer, xs.detach(), out) and (out != 0).float().mean() > 0.2:
                    break
            else:
                raise RuntimeError(f"{name}: every trial is silent or hangs on rounding")
            case = {"name": f"{name}/{variant}", "layer": name, "learnable": learnable}
            arrays = {"xs": xs, "weights": weights, "out": out, "grad": xs.grad}
            yield case, layer.state_dict(), arrays


def network_cases(seed):
    for i in range(4):
        for trial in range(100):
            rng = np.random.default_rng([seed, i, trial])
            torch.manual_seed(trial)
            name, shape, network = list(networks(rng))[i]
            scramble(network, rng)
            network.eval()
            xs = torch.tensor(rng.normal(size=(STEPS, BATCH, *shape)), dtype=torch.float32)
            with torch.no_grad():
                out = run(network, xs)
                if same_in_double(network, xs, out) and (out != 0).float().mean() > 0.2:
                    break
        else:
            raise RuntimeError(f"{name}: every trial is silent or hangs on rounding")
        yield {"name": name}, network.state_dict(), {"xs": xs, "out": out}


def random_cases():
    """How often a layer fires by default, in releases in which that is left to chance."""
    options = inspect.signature(snn.LIB).parameters
    if not deterministic(snn.LIB) or options.get("deterministic", options["beta"]).default is True:
        return
    torch.manual_seed(0)
    ranks = {option: 0 for option in options if option.endswith("_rank")}
    layer = snn.LIB(20_000, **ranks)
    xs = torch.linspace(0.1, 0.9, STEPS)
    with torch.no_grad():
        rates = run(layer, xs[:, None].expand(-1, 20_000)).mean(1)
    yield {"name": "random"}, layer.state_dict(), {"xs": xs, "rates": rates}


def save_files():
    """State dicts as torch writes them, with every kind of tensor that one may hold."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 2), snn.LIB(2), nn.BatchNorm1d(2))
    torch.save(network.state_dict(), FOLDER / "network.pt")
    numbers = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    kinds = {
        "transposed": numbers.T,
        "view": numbers[1:, ::2],
        "double": numbers.double(),
        "half": numbers.half(),
        "bfloat16": numbers.bfloat16(),
        "long": torch.tensor(7),
        "bool": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(numbers),
    }
    torch.save({"epoch": 3, "model": kinds, "history": [0.5, None]}, FOLDER / "checkpoint.pt")
    torch.save({"a": numbers}, FOLDER / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(network, FOLDER / "module.pt")


def main():
    cases, values = [], []
    for case, state, arrays in [*layer_cases(0), *network_cases(1), *random_cases()]:
        case["arrays"] = []
        both = {f"state/{key}": value for key, value in state.items()} | arrays
        for name, value in both.items():
            value = value.detach().numpy()
            case["arrays"].append([name, list(value.shape), value.dtype.name])
            values.append(value.astype(np.float32).ravel())
        cases.append(case)
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{VERSION}.npz"
    np.savez_compressed(path, cases=json.dumps(cases), values=np.concatenate(values))
    if VERSION == "0.19.2":
        save_files()
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
