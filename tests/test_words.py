"""Pages, docstrings and messages use the field's terms and plain words."""

import ast
import pathlib
import re

import pytest
from generate import pages

ROOT = pathlib.Path(__file__).parent.parent
# Words that readers did not understand, or that the field has another term for.
REFUSED = re.compile(
    r"\b(rooms?|hand(s|ed|ing)? (in|on|over|back)|handed|besides?|mend(s|ed|ing)?"
    r"|remark(s|ed)? upon|by trying|passed by|who is who|giv(e|es|ing) up|hears?)\b",
    re.IGNORECASE,
)
PAGES = [
    *ROOT.glob("*.md"),
    *(
        path
        for path in (ROOT / "docs").rglob("*.md")
        if path.parent.name not in ("family", "reference")  # written from the code
        and path.stem not in pages.SOURCES
    ),
    *(ROOT / "examples").rglob("*.md"),
]
CODE = [*(ROOT / "tracetorch_jax").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]


def words_of(path):
    """What people read of a file: a page, or the docstrings and other texts of a module."""
    if path.suffix == ".md":
        return [path.read_text()]
    nodes = ast.walk(ast.parse(path.read_text()))
    return [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]


@pytest.mark.parametrize("kind", [PAGES, CODE], ids=["pages", "code"])
def test_words_are_plain(kind):
    found = [
        f"{path.relative_to(ROOT)}: {text[max(match.start() - 40, 0) : match.end()]!r}"
        for path in kind
        for text in (" ".join(text.split()) for text in words_of(path))
        for match in REFUSED.finditer(text)
    ]
    assert len(kind) > 20 and not found, "\n".join(found)


def test_words_of_a_module_are_found(tmp_path):
    (tmp_path / "a.py").write_text('"""Hand in."""\nx = f"{1} beside"\ny = "plain"  # mend\n')
    assert [bool(REFUSED.search(text)) for text in words_of(tmp_path / "a.py")].count(True) == 2
