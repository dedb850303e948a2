"""Pages that stand elsewhere in the repository, with links that hold from here."""

from __future__ import annotations

import pathlib
import re

from generate.files import update

ROOT = pathlib.Path(__file__).parent.parent.parent
# By the page that a copy of each becomes.
SOURCES = {
    "results": "examples/README.md",
    "running-benchmarks": "examples/benchmarks/README.md",
    "changelog": "CHANGELOG.md",
}


def write(folder: pathlib.Path) -> None:
    """Write the copies into `folder`."""
    for page, source in SOURCES.items():
        text = relink((ROOT / source).read_text(), source)
        update(folder / f"{page}.md", text)


def relink(text: str, source: str) -> str:
    """Links of a file of the repository as links that hold in the site.

    Args:
        text: Markdown with links relative to itself.
        source: where in the repository it stands.
    """
    folder = (ROOT / source).parent

    def link(match: re.Match[str]) -> str:
        target = (folder / match[1]).resolve()
        if not target.is_relative_to(ROOT):
            raise ValueError(f"{source} links to {match[1]}, which is not in the repository.")
        name = str(target.relative_to(ROOT))
        for page, other in SOURCES.items():
            if name == other:
                return f"](/{page}.md"
        if source.startswith("docs/") and name.startswith("docs/"):
            return match[0]  # holds as it is, in a notebook that is downloaded, too
        if name.startswith("docs/"):
            return f"](/{name.removeprefix('docs/')}"
        return f"](/../{name}"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.S | re.M)  # every other one is code
    parts[::2] = (re.sub(r"\]\((?![a-z]+:|#)([^)#\s]+)", link, part) for part in parts[::2])
    return "".join(parts)
