"""The pages of the documentation, and the Python in them."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"


def read(name: str) -> str:
    """Text of `docs/<name>.md`."""
    return (DOCS / f"{name}.md").read_text()


def blocks(text: str) -> list[str]:
    """What stands between ```python and ```."""
    return re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)


def sessions(text: str) -> list[str]:
    """Blocks as a reader types them.

    One that starts with an import begins a new session, any other goes on with the last.
    """
    found: list[str] = []
    for block in blocks(text):
        if found and not re.match(r"(from|import) ", block):
            found[-1] += block
        else:
            found.append(block)
    return found
