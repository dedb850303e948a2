"""Files that are written only if they change, so that Sphinx reads only what has."""

import pathlib


def update(path: pathlib.Path, text: str) -> None:
    """Give a file this text."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
