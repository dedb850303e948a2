"""Tables of plain text."""

from __future__ import annotations

from collections.abc import Sequence


def table(
    rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: int = 0, ruled: bool = False
) -> str:
    """Rows as aligned columns.

    Args:
        rows: cells, as many in every row.
        right: numbers of the columns that are aligned to the right.
        indent: spaces before each row.
        ruled: whether dashes follow the first row.

    Example:
        >>> print(table([("LI", "1"), ("DSLI", "12")], right=[1]))
        LI     1
        DSLI  12
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in [rows[0], ["-" * width for width in widths], *rows[1:]] if ruled else rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)
