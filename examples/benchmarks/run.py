"""Measure this library, the memory and matrix products it cannot do without, and its peers.

    python examples/benchmarks/run.py                                      our sides alone
    python examples/benchmarks/run.py --peer torch=PYTHON --peer jax=PYTHON
    python examples/benchmarks/run.py --peer sparx,ours=PYTHON             ours on another jax too
    python examples/benchmarks/run.py --growth                             time and memory with T
    python examples/benchmarks/run.py --smoke --check                      do all compute the same?

PYTHON is the interpreter of an environment that holds the peer; README.md says how to make one.
Every side runs in a process of its own. The coordinator goes round and round over them, one at a
time while all others wait, so that whatever else the machine does hits all alike.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import sys
import time

import options
import sides
import table
import team
from cases import default_cases, growth_cases
from machine import Bystanders, describe, describe_copying
from report import Report
from rounds import Plan, measure

IDLE_CORES = 0.1
GROUPS = {"torch": sides.TORCH, "jax": sides.JAX, "all": sides.PEERS}


def flags(args: argparse.Namespace) -> list[str]:
    """The options of this command that were given."""
    words = [f"--case '{pattern}'" for pattern in args.case]
    return words + [f"--{name}" for name in ("growth", "check") if getattr(args, name)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_common(parser, sides.PEERS, GROUPS, seconds=0.4)
    parser.add_argument(
        "--case",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only cases whose name matches, as in 'LIB/gradient/*'; can be repeated",
    )
    parser.add_argument("--growth", action="store_true", help="time and memory against T instead")
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare results too, and fail if any is wrong; quickest with --smoke",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    args = parser.parse_args()
    options.check_common(parser, args)
    return args


def main() -> None:
    args = parse()
    cases = (growth_cases if args.growth else default_cases)(args.smoke)
    if args.case:
        cases = [c for c in cases if any(fnmatch.fnmatch(c.name, pattern) for pattern in args.case)]
    if args.list:
        print("\n".join(case.name for case in cases))
        return
    if not cases:
        raise SystemExit("--case matches nothing; --list prints the names")
    own = sides.GROWTH if args.growth else sides.OWN
    peers = options.chosen_peers(args.peer, sides.PEERS, GROUPS, own)

    plan = Plan(
        rounds=args.rounds,
        seconds=args.seconds,
        reference="ours" if args.check else None,
        together=args.smoke,
    )
    facts = {
        "date": datetime.date.today().isoformat(),
        "command": options.command("run.py", args, flags(args)),
    }
    facts |= describe() | ({} if args.smoke else describe_copying())
    start = time.perf_counter()
    bystanders = Bystanders()
    rows: list[table.Row] = []
    wrong: list[str] = []
    members = [(side, sys.executable) for side in own] + peers
    with team.Team(members, team.CPU | ({} if args.smoke else team.UNCACHED)) as workers:
        references = table.references(workers.about)
        for side, reason in workers.absent.items():
            print(f"{side}: not available: {reason}", file=sys.stderr)
        for number, case in enumerate(cases, 1):
            print(f"[{number}/{len(cases)}] {case.name}", file=sys.stderr, flush=True)
            measured, mistakes = measure(case, workers, plan)
            table.compare(measured, references)
            rows += measured
            wrong += mistakes
    facts["minutes taken"] = f"{(time.perf_counter() - start) / 60:.1f}"
    others = bystanders.cores()
    if others is not None:
        caution = ": CAUTION, too many for comparisons" if others > IDLE_CORES else ""
        facts["cores kept busy by others meanwhile"] = f"{others:.2f}{caution}"
    report = Report.of(workers, sides.PEERS, facts=facts, rows=rows, columns=table.COLUMNS)
    report.publish(args, wrong=wrong if args.check else None)
    if args.check:
        wrong += [f"{side}: not available: {reason}" for side, reason in workers.absent.items()]
        print("\n" + ("\n".join(wrong) or "checked: everything is as it should be"))
        raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
