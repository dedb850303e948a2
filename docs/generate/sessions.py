"""The Python of a page, run as a reader would type it.

A block that starts with an import begins a new session; any other goes on with the last. A block of
``text`` right after one of ``python`` is what the latter prints, where ``...`` stands for anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import doctest
import io
import re
from collections.abc import Callable
from typing import Any

MARK = re.compile(r"^<!-- picture: (?P<name>[\w-]+) \| (?P<shows>.*?) -->$", re.S | re.M)
_PIECES = re.compile(
    rf"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<prints>.*?)^```)?|{MARK.pattern}",
    re.S | re.M,
)
_CHECKER = doctest.OutputChecker()
_LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclasses.dataclass
class Block:
    """Python, and what it prints if the page says so."""

    code: str
    prints: str | None = None


@dataclasses.dataclass
class Mark:
    """Where a page asks for a picture of what has run so far."""

    name: str
    shows: str


Session = list[Block | Mark]


def sessions(text: str) -> list[Session]:
    """Of a page, in order."""
    found: list[Session] = []
    for piece in _PIECES.finditer(text):
        if piece["code"] is None:
            found[-1].append(Mark(piece["name"], piece["shows"]))
            continue
        if not found or re.match(r"(from|import) ", piece["code"]):
            found.append([])
        found[-1].append(Block(piece["code"], piece["prints"]))
    return found


def code(session: Session) -> str:
    """All that is typed."""
    return "".join(piece.code for piece in session if isinstance(piece, Block))


def run(
    session: Session, name: str, draw: Callable[[Mark], None] = lambda mark: None
) -> dict[str, Any]:
    """Run a session, and call `draw` where it asks for a picture.

    Returns:
        The names that it leaves.

    Raises:
        AssertionError: something is printed that the page does not say.
    """
    names: dict[str, Any] = {"__name__": "page"}
    for piece in session:
        if isinstance(piece, Mark):
            draw(piece)
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(piece.code, name, "exec", dont_inherit=True), names)
        if piece.prints is not None and not _CHECKER.check_output(
            piece.prints, printed.getvalue(), _LOOSELY
        ):
            raise AssertionError(
                f"{name} says that this is printed:\n{piece.prints}\nand it is:\n"
                f"{printed.getvalue()}"
            )
    return names
