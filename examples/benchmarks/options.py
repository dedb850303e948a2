"""Arguments that both commands take."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence


def add_common(
    parser: argparse.ArgumentParser,
    peers: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    seconds: float,
) -> None:
    """Peers, time to spend, and where to write.

    Args:
        parser: gets the arguments.
        peers: sides that can be asked for.
        groups: several of them by one name.
        seconds: to spend, unless told otherwise.
    """
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME[=PYTHON]",
        help=f"also measure {', '.join(peers)}, several at once with commas, or a group: "
        f"{', '.join(groups)}; can be repeated",
    )
    parser.add_argument("--rounds", type=int, default=5, help="over all sides (default 5)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=seconds,
        help=f"for each side in each round (default {seconds:g})",
    )
    parser.add_argument("--smoke", action="store_true", help="tiny, to see that it runs")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all that is known")
    parser.add_argument("--markdown", type=pathlib.Path, metavar="FILE", help="write the table")


def check_common(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what makes no sense."""
    if args.rounds < 1 or args.seconds < 0:
        parser.error("--rounds must be at least 1, and --seconds not negative")


def chosen_peers(
    options: Sequence[str],
    peers: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    own: Sequence[str] = (),
) -> list[tuple[str, str]]:
    """Sides and their interpreters, from ``NAME=PYTHON`` or ``NAME`` for the one that runs this.

    A side of our `own` may be there several times, once for each interpreter.
    """
    chosen = {}
    for option in options:
        names, _, python = option.partition("=")
        for name in names.split(","):
            for side in groups.get(name, (name,)):
                if side not in (*peers, *own):
                    known = ", ".join((*groups, *peers, *own))
                    raise SystemExit(f"--peer must name one of {known}; got {name}")
                python = python or sys.executable
                chosen[(side, python) if side in own else side] = side, python
    return [*chosen.values()]


def command(script: str, args: argparse.Namespace, flags: Sequence[str]) -> str:
    """What was typed to get this table, without the paths of this machine.

    Args:
        script: name of the command.
        args: its arguments.
        flags: those that `add_common` did not add, as they are typed.
    """
    words = [f"python examples/benchmarks/{script}"]
    for peer in args.peer:
        name, given, _ = peer.partition("=")
        words.append(f"--peer {name}=PYTHON" if given else f"--peer {name}")
    words += [*flags, *(["--smoke"] if args.smoke else [])]
    return " ".join([*words, f"--rounds {args.rounds}", f"--seconds {args.seconds:g}"])
