"""How fast layers are on this machine."""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import tracetorch_jax
from tracetorch_jax import functional, snn
from tracetorch_jax._commands.layers import layer
from tracetorch_jax._shared.text import table
from tracetorch_jax.functional.engines import policy

HELP = "time layers on this machine"
DESCRIPTION = """\
Times layers over [B, T, N] in float32, forward alone and with the gradient of inputs and
parameters, next to a plain jax.lax.scan of the same step and its automatic derivative. The time to
the first result, which includes compilation, stands apart. Then all take turns within one run;
medians are shown, and how many times longer the plain scan takes."""

Run = Callable[[], Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="NAME", type=layer, default=["LIB", "SRLIT", "DSRLITS"],
        help="layers (default: LIB SRLIT DSRLITS)",
    )  # fmt: skip
    for name, default, help in (
        ("steps", 1000, "T"),
        ("batch", 32, "B"),
        ("neurons", 128, "N"),
        ("repeats", 11, "times each is run"),
    ):
        parser.add_argument(f"--{name}", type=_count, default=default, help=f"{help} ({default})")
    parser.add_argument("--json", action="store_true", help="write JSON, with every time measured")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}")
    return number


def run(arguments: argparse.Namespace) -> None:
    shape = arguments.batch, arguments.steps, arguments.neurons
    device, lacking = jax.devices()[0], policy.why_no_kernel()
    machine = {
        "tracetorch_jax": tracetorch_jax.__version__,
        "jax": jax.__version__,
        "device": f"{device.platform} {device.device_kind}".strip(),
        "machine": f"{platform.system()} {platform.machine()}",
        "engine": f"scan; a kernel needs {lacking}" if lacking else "a kernel",
        "shape [B, T, N]": list(shape),
    }
    first, every = {}, {}
    for name in arguments.names:
        first[name], every[name] = _time(_runs(name, shape), arguments.repeats)
    if arguments.json:
        times = {"first_milliseconds": first, "milliseconds": every}
        print(json.dumps({**machine, **times}, indent=2))
        return
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), "\n")
    print("to the first result\n", _table(first), "\nper run, median\n", _table(every), sep="\n")


def _table(results: dict[str, dict[str, list[float]]]) -> str:
    """A row for each layer of the medians of what was measured, forward and with the gradient."""
    head = ("layer", "forward", "plain scan", "", "and gradient", "plain scan", "")
    rows: list[tuple[str, ...]] = [head]
    for name, times in results.items():
        row = [name]
        for what in ("forward", "gradient"):
            ours, plain = (statistics.median(times[f"{what}{of}"]) for of in ("", ", plain scan"))
            row += [f"{ours:.3g} ms", f"{plain:.3g} ms", f"x {plain / ours:.2f}"]
        rows.append(tuple(row))
    return table(rows, right=range(1, 7))


def _runs(name: str, shape: tuple[int, int, int]) -> dict[str, Run]:
    """What is timed of a layer, by name, each compiled."""
    cell = snn.ALL_LAYERS[name](shape[-1])
    model = snn.Unroll(cell, time_major=True)
    batch, steps, _ = shape
    xs = 2 * jax.random.normal(jax.random.key(0), (steps, batch, shape[-1]))
    weights = jax.random.normal(jax.random.key(1), xs.shape)
    variables = model.init(jax.random.key(2), xs[:1])
    step = functional.LayerStep(cell.spec, cell.spike_function)

    def plain(variables: Any, xs: jax.Array) -> jax.Array:
        own = {"params": variables["params"]["cell"]}
        params: Any = cell.apply(own, method="parameters")
        state = cell.initialize_carry(None, xs.shape[1:])
        return jax.lax.scan(lambda state, x: step(params, state, x), state, xs)[1]

    def loss(forward: Callable[..., Any], variables: Any, xs: jax.Array) -> jax.Array:
        return jnp.vdot(weights, forward(variables, xs))

    found: dict[str, Run] = {}
    for label, forward in (("", model.apply), (", plain scan", plain)):
        gradient = jax.grad(functools.partial(loss, forward), (0, 1))
        for what, function in (("forward", forward), ("gradient", gradient)):
            found[what + label] = functools.partial(jax.jit(function), variables, xs)
    return found


def _time(runs: dict[str, Run], repeats: int) -> tuple[dict[str, list[float]], ...]:
    """Milliseconds of the first run of each, which compiles, and of every other, taking turns."""

    def once(go: Run) -> float:
        start = time.perf_counter()
        jax.block_until_ready(go())
        return 1000 * (time.perf_counter() - start)

    first = {name: [once(go)] for name, go in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, go in runs.items():
            times[name].append(once(go))
    return first, times
