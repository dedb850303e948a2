"""Measure the engines on a GPU: one fused kernel, scans, and other libraries.

    python examples/benchmarks/gpu.py                                      our sides alone
    python examples/benchmarks/gpu.py --peer spikingjelly=PYTHON --markdown table.md
    python examples/benchmarks/gpu.py --layer DSRLITS --shape 1000x128x1024
    python examples/benchmarks/gpu.py --smoke                              tiny, on any device

PYTHON is the interpreter of an environment that holds the peer. As in `run.py`, every side runs
in a process of its own, and the coordinator goes round over them. Before a case is timed, its
results are compared with those of engine "scan". Ends with 1 if any are wrong, with 2 if there is
no GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import math
import sys
from collections.abc import Iterable

import options
import sides
import table
import team
from cases import GPU_SHAPES, LAYERS, SMOKE_SHAPES, STATES, Case, copy_bytes, gpu_cases
from machine import describe, describe_gpu
from report import Report
from rounds import Plan, measure

BATCH_SECONDS = 0.05
ITEM_BYTES = {"float32": 4, "bfloat16": 2}
STATE_BYTES = 4  # always float32
GROUPS = {"spikingjelly": sides.SPIKINGJELLY}

TARGET_CASE = ("LIB", GPU_SHAPES[0], "float32")
TARGET_OF_COPY = 0.6
TARGET_SCAN_FASTER = 20


@dataclasses.dataclass(kw_only=True)
class Row(table.Row):
    """One side at one case.

    Attributes:
        rate: bytes per second, of those that cannot be avoided.
        of_copy: the same as a share of what a copy reaches.
        scan_faster: how many times faster than plain `jax.lax.scan` it is.
        target: what it should reach, and if it does.
    """

    rate: float | None = None
    of_copy: float | None = None
    scan_faster: float | None = None
    target: str = ""


COLUMNS: tuple[table.Column, ...] = (
    *table.MEASURED,
    ("GB/s", lambda row: table.number(row.rate and row.rate / 1e9, 1)),
    ("% of copy", lambda row: table.number(row.of_copy and 100 * row.of_copy, 1)),
    ("x faster than lax.scan", lambda row: table.number(row.scan_faster)),
    *table.COMPILED,
    ("target", lambda row: row.target),
)


def traffic(case: Case) -> int:
    """Bytes that have to be read and written, if a gradient keeps all states.

    Forward: x is read and y written. With gradients the states before every step are written too
    and read again, the gradient of y is read and that of x written.
    """
    size = math.prod(case.shape)
    arrays = (4 if case.gradient else 2) * ITEM_BYTES[case.dtype]
    states = 2 * STATES[case.layer] * STATE_BYTES if case.gradient else 0
    return size * (arrays + states)


def compare(case: Case, measured: Iterable[table.Row], platform: str) -> list[Row]:
    """Fill in rates, and the ratios between the rows of one case."""
    rows = [Row(**dataclasses.asdict(row)) for row in measured]
    medians = {row.side: row.median for row in rows if row.median is not None}
    rates = {
        side: 1e3 * (2 * copy_bytes(platform) if side == "copy" else traffic(case)) / median
        for side, median in medians.items()
    }
    peers = [median for side, median in medians.items() if side in sides.SPIKINGJELLY]
    for row in rows:
        if row.median is None:
            continue
        row.rate = rates[row.side]
        if "copy" in rates:
            row.of_copy = row.rate / rates["copy"]
        if "autodiff" in medians and row.side != "copy":
            row.scan_faster = medians["autodiff"] / row.median
        if row.side == "ours-fused" and (case.layer, case.shape, case.dtype) == TARGET_CASE:
            verdicts = [
                judge(f"{TARGET_OF_COPY:.0%} of copy", row.of_copy, TARGET_OF_COPY),
                judge(f"{TARGET_SCAN_FASTER} x lax.scan", row.scan_faster, TARGET_SCAN_FASTER),
                judge("SpikingJelly's best", min(peers) / row.median if peers else None, 1.0),
            ]
            row.target = "; ".join(verdicts)
    return rows


def judge(target: str, reached: float | None, wanted: float) -> str:
    """A target, and what came of it."""
    if reached is None:
        return f"{target}: not measured"
    verdict = "met" if reached >= wanted else "missed"
    return f"{target}: {verdict} ({reached / wanted:.2f} of it)"


def shape(text: str) -> tuple[int, int, int]:
    """``TxBxN``."""
    sizes = text.split("x")
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
        raise argparse.ArgumentTypeError(f"must be like 1000x128x1024; got {text}")
    steps, batch, neurons = map(int, sizes)
    return steps, batch, neurons


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_common(parser, sides.GPU_PEERS, GROUPS, seconds=0.3)
    sizes = ", ".join("x".join(map(str, size)) for size in GPU_SHAPES)
    parser.add_argument(
        "--layer",
        action="append",
        choices=[*LAYERS],
        help="can be repeated (default LIB)",
    )
    parser.add_argument(
        "--shape",
        action="append",
        type=shape,
        metavar="TxBxN",
        help=f"can be repeated (default {sizes})",
    )
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare results before timing (default)",
    )
    args = parser.parse_args()
    options.check_common(parser, args)
    return args


def flags(args: argparse.Namespace) -> list[str]:
    """The options of this command that were given."""
    words = [f"--layer {layer}" for layer in args.layer or ()]
    words += [f"--shape {'x'.join(map(str, size))}" for size in args.shape or ()]
    return words + ([] if args.check else ["--no-check"])


def device(workers: team.Team, smoke: bool) -> tuple[str, str]:
    """Platform and name of what JAX runs on; ends the program if that will not do."""
    if workers.absent:
        raise SystemExit(f"cannot use JAX: {workers.absent['copy']}")
    details = workers.about["copy"]["details"]
    if details["platform"] != "gpu" and not smoke:
        print(
            f"This needs a GPU that JAX can use; JAX found {details['device']}. "
            "With --smoke it runs tiny sizes on any device.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return details["platform"], details["device"]


def main() -> None:
    args = parse()
    shapes = args.shape or (SMOKE_SHAPES if args.smoke else GPU_SHAPES)
    cases = gpu_cases(args.layer or ["LIB"], shapes, args.smoke)
    plan = Plan(
        rounds=args.rounds,
        seconds=args.seconds,
        batch=min(args.seconds, BATCH_SECONDS),
        reference="ours-scan" if args.check else None,
        together=args.smoke,
    )
    peers = options.chosen_peers(args.peer, sides.GPU_PEERS, GROUPS)
    rows: list[Row] = []
    wrong: list[str] = []
    environment = team.GPU | ({} if args.smoke else team.UNCACHED)
    with team.Team([("copy", sys.executable)], environment) as workers:
        platform, name = device(workers, args.smoke)
        workers.add([(side, sys.executable) for side in sides.GPU[1:]] + peers)
        for side, reason in workers.absent.items():
            print(f"{side}: not available: {reason}", file=sys.stderr)
        for number, case in enumerate(cases, 1):
            print(f"[{number}/{len(cases)}] {case.name}", file=sys.stderr, flush=True)
            measured, mistakes = measure(case, workers, plan)
            rows += compare(case, measured, platform)
            wrong += mistakes
    facts = {
        "date": datetime.date.today().isoformat(),
        "command": options.command("gpu.py", args, flags(args)),
        "device": name,
        **describe_gpu(),
        **describe(),
    }
    report = Report.of(workers, sides.GPU_PEERS, facts=facts, rows=rows, columns=COLUMNS)
    report.publish(args, wrong=wrong if args.check else None)
    if args.check:
        print("\n" + ("\n".join(wrong) or "checked: everything is as it should be"))
        raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
