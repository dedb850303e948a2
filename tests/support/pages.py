"""Where things are in the repository; the pages of the documentation, and the Python in them."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
DATA = ROOT / "tests" / "data"


def read(name: str) -> str:
    """Text of `docs/<name>.md`."""
    return (DOCS / f"{name}.md").read_text()


def blocks(text: str) -> list[str]:
    """What stands between ```python and ```."""
    return re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
