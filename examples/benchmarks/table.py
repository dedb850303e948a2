"""Measurements as rows, and rows as tables."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Column = tuple[str, Callable[[Any], str]]
"""A heading, and what stands below it for a row."""


@dataclasses.dataclass(kw_only=True)
class Row:
    """One side at one case. Times are in milliseconds, over all runs of all rounds.

    Attributes:
        failure: what went wrong instead.
        floor_ratio: the median as a multiple of the floor's.
        ours_faster: how many times faster the median of `reference` is.
        reference: which of ours that is.
        first_s: from the call with a new shape to the result: tracing, compiling, and one run.
        compile_s: tracing and compiling alone.
        round_medians: to see whether the machine got slower or faster meanwhile.
        faults: pages that the system had to hand out per run in the last round; many of them mean
            that memory management was measured rather than the side.
    """

    case: str
    side: str
    failure: str | None = None
    median: float | None = None
    low: float | None = None
    high: float | None = None
    floor_ratio: float | None = None
    ours_faster: float | None = None
    reference: str | None = None
    first_s: float | None = None
    compile_s: float | None = None
    temp_mib: float | None = None
    runs: int = 0
    round_medians: list[float] = dataclasses.field(default_factory=list)
    faults: float | None = None


def make_row(case: str, side: str, built: dict[str, Any], rounds: Sequence[dict[str, Any]]) -> Row:
    """Summarise what a worker answered to ``build`` and, once per round, to ``time``."""
    times = [1e3 * seconds for answer in rounds for seconds in answer["times"]]
    low, median, high = quartiles(times)
    temp = built["temp_bytes"]
    return Row(
        case=case,
        side=side,
        median=median,
        low=low,
        high=high,
        first_s=built["first_s"],
        compile_s=built["compile_s"],
        temp_mib=None if temp is None else temp / 2**20,
        runs=len(times),
        round_medians=[1e3 * statistics.median(answer["times"]) for answer in rounds],
        faults=rounds[-1]["faults"],
    )


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """A quarter, half and three quarters of the values are below."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, method="inclusive")
    return low, median, high


def references(about: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The side of ours that each is compared with: on the same jax if that is measured.

    Args:
        about: what each side says about itself.
    """
    versions = {side: each["versions"].get("jax") for side, each in about.items()}
    ours = {versions[side]: side for side in versions if side.startswith("ours-jax-")}
    if "ours" in versions:
        ours[versions["ours"]] = "ours"
    return {
        side: "ours" if side in ours.values() else ours.get(version, "ours")
        for side, version in versions.items()
    }


def compare(rows: Iterable[Row], references: Mapping[str, str]) -> None:
    """Fill in the ratios between the rows of one case."""
    rows = list(rows)
    medians = {row.side: row.median for row in rows if row.median is not None}
    for row in rows:
        if row.median is None:
            continue
        if "floor" in medians:
            row.floor_ratio = row.median / medians["floor"]
        row.reference = references[row.side]
        if row.reference in medians:
            row.ours_faster = row.median / medians[row.reference]


def number(value: float | None, digits: int = 2) -> str:
    """Fixed point, or a dash if there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


MEASURED: tuple[Column, ...] = (
    ("case", lambda row: row.case),
    ("side", lambda row: row.side),
    ("median ms", lambda row: row.failure or number(row.median)),
    ("quartiles", lambda row: f"{number(row.low)} .. {number(row.high)}" if row.median else "-"),
)
COMPILED: tuple[Column, ...] = (
    ("first call s", lambda row: number(row.first_s)),
    ("temp MiB", lambda row: number(row.temp_mib, 1)),
)
COLUMNS: tuple[Column, ...] = (
    *MEASURED,
    ("x floor", lambda row: number(row.floor_ratio)),
    ("ours is x faster", lambda row: number(row.ours_faster)),
    *COMPILED,
)


def _cells(rows: Iterable[Row], columns: Sequence[Column]) -> list[list[str]]:
    return [[cell(row) for _, cell in columns] for row in rows]


def as_text(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Aligned columns for a terminal, a blank line between cases; case and side come first."""
    head = [name for name, _ in columns]
    body = _cells(rows, columns)
    measured = [cells for cells, row in zip(body, rows, strict=True) if not row.failure]
    widths = [max(map(len, column)) for column in zip(head, *measured, strict=True)]
    widths[:2] = [max(map(len, column)) for column in list(zip(head, *body, strict=True))[:2]]

    def line(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=False))
        ]
        return "  ".join(aligned).rstrip()

    lines = [line(head)]
    previous = None
    for row, cells in zip(rows, body, strict=True):
        if row.case != previous:
            lines.append("")
        previous = row.case
        lines.append(f"{line(cells[:2])}  {row.failure}" if row.failure else line(cells))
    return "\n".join(lines)


def as_markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """The same table for a page."""
    head = [name for name, _ in columns]
    rule = ["---"] * 2 + ["---:"] * (len(head) - 2)
    lines = [head, rule, *_cells(rows, columns)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
