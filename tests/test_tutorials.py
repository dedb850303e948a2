"""The tutorials as pages: what a build of the site, which runs them, does not look at."""

import ast
import re

import pytest
from pages import DOCS

INDEX = (DOCS / "tutorials" / "index.md").read_text()
TUTORIALS = {
    path.stem: path.read_text()
    for path in sorted((DOCS / "tutorials").glob("*.md"))
    if path.stem != "index"
}


def cells(text):
    """Options and code of each code cell."""
    for cell in re.findall(r"^```\{code-cell\} python\n(.*?)^```", text, re.S | re.M):
        lines = cell.splitlines()
        options = [line for line in lines if line.startswith(":")]
        yield "\n".join(options), "\n".join(lines[len(options) :])


def test_all_are_listed_in_one_order():
    (menu,) = re.findall(r"```\{toctree\}\n:hidden:\n\n(.*?)```", INDEX, re.S)
    linked = [name for name in re.findall(r"\(([\w-]+)\.md\)", INDEX) if name in TUTORIALS]
    assert menu.split() == list(dict.fromkeys(linked))
    assert sorted(menu.split()) == list(TUTORIALS)


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_can_be_downloaded_and_its_pictures_read(name):
    text = TUTORIALS[name]
    assert f"{{nb-download}}`{name}.ipynb`" in text
    found = list(cells(text))
    assert len(found) > 4
    for options, code in found:
        ast.parse(code)
        assert all(float(width) <= 6 for width in re.findall(r"figsize=\((\d[\d.]*)", code))
        shown = re.search(r"alt: \"(.{20,})\"", options)
        drawn = "subplots(" in code and not code.lstrip().startswith("def ")
        assert bool(shown) >= drawn, code


@pytest.mark.parametrize("name", TUTORIALS)
def test_what_a_tutorial_says_is_checked(name):
    """Its numbers come from a run on another machine."""
    checks = [code for options, code in cells(TUTORIALS[name]) if "remove-cell" in options]
    assert any("# What the text says." in code and "assert" in code for code in checks)
