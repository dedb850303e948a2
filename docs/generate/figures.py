"""Pictures drawn by the code of a page itself, where the page asks for them.

``<!-- picture: NAME | WHAT IT SHOWS -->`` after a block of Python stands for the figure that is
current once everything up to there has run.
"""

from __future__ import annotations

import contextlib
import pathlib
import tempfile

import matplotlib

from generate import pictures
from generate.sessions import MARK, Mark, run, sessions

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(text: str, page: str, folder: pathlib.Path) -> str:
    """Run the Python of a page, and put pictures where it asks for them.

    Args:
        text: of the page.
        page: its name, for messages.
        folder: where pictures go.

    Returns:
        The page, with pictures instead of marks; unchanged, and nothing is run, if it has none.
    """
    if not MARK.search(text):
        return text
    folder.mkdir(exist_ok=True)

    def save(mark: Mark) -> None:
        pictures.save(plt.gcf(), folder, mark.name)
        plt.close("all")

    folder = folder.absolute()
    # In an empty folder, where pages may save files.
    with (
        tempfile.TemporaryDirectory() as work,
        contextlib.chdir(work),
        matplotlib.rc_context(pictures.STYLE),
    ):
        for session in sessions(text):
            if any(isinstance(piece, Mark) for piece in session):
                run(session, page, save)
    return MARK.sub(lambda m: pictures.image(m["name"], m["shows"], f"/{folder.name}/"), text)
