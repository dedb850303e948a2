"""The documentation: its code runs as a reader would type it."""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib

import jax
import matplotlib.pyplot as plt
import published
import pytest
import reference
from generate import family
from generate import pages as copies
from generate.sessions import Block, Mark, code, run, sessions
from pages import DOCS, ROOT, blocks, read

from tracetorch_jax.functional.engines.native import build

# Pages, or what follows a heading of them, whose code needs more than a session: their own test.
ELSEWHERE = {
    "compatibility": "",  # test_compatibility.py
    "how-to/deployment": "",  # test_export.py, test_commands.py, test_onnx.py
    "how-to/devices": "",  # test_devices.py
    "how-to/pretrained": "",  # test_pretrained.py
    "speed": "## On a CPU",  # below
}
PEERS = {
    *("equinox", "jaxpike", "norse", "snntorch", "sparx", "spikingjelly", "spyx", "torch"),
    *("aeon", "tracetorch"),
}
TEXTS = {
    "README": (ROOT / "README.md").read_text(),
    **{
        str(path.relative_to(DOCS).with_suffix("")): path.read_text()
        for path in sorted(DOCS.rglob("*.md"))
        if path.parent.name not in ("family", "reference", "generate")  # written from the code
        and path.stem not in copies.SOURCES
    },
    **{str(source): (ROOT / source).read_text() for source in copies.SOURCES.values()},
    **{f"family/{name}": f"```python\n{family.snippet(name)}```\n" for name in family.LAYERS},
}
SESSIONS = {
    f"{name}-{i}": session
    for name, text in TEXTS.items()
    for i, session in enumerate(
        sessions(text.partition(ELSEWHERE[name])[0] if ELSEWHERE.get(name) else text)
    )
    if ELSEWHERE.get(name) != ""
    and not any(isinstance(piece, Mark) for piece in session)  # runs when the site is built
}


def imported(text: str) -> set[str]:
    """Packages that code imports."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    reference.some(SESSIONS, [n for n in SESSIONS if not n.startswith(("how-to", "coming"))]),
)
def test_documented_code_runs(name, tmp_path, monkeypatch):
    """Each session by itself; those with a peer where it is installed."""
    missing = {
        peer
        for peer in imported(code(SESSIONS[name])) & PEERS
        if not importlib.util.find_spec(peer)
    }
    if missing:
        pytest.skip(f"needs {', '.join(sorted(missing))}")
    monkeypatch.chdir(tmp_path)
    if "datasets." in code(SESSIONS[name]):  # which a reader has to have
        published.everything(tmp_path)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run(SESSIONS[name], name)
    plt.close("all")


@pytest.mark.nightly
def test_the_speed_page_splits_a_batch_over_devices():
    (block,) = blocks(read("speed").partition("## On a CPU")[2])
    use = """
from tracetorch_jax import snn
model = snn.Unroll(snn.SRLIB(20))
params = model.init(jax.random.key(0), xs)
ys = jax.jit(model.apply)(params, xs)
print(len(ys.sharding.device_set), tuple(ys.sharding.spec)[0])
"""
    out = subprocess.run(
        [sys.executable, "-c", block + use], check=True, capture_output=True, text=True
    )
    assert out.stdout.split() == ["2", "data"]


@pytest.mark.optimised
@pytest.mark.slow
def test_the_memory_of_a_gradient_is_what_the_page_says():
    page = read("how-to/long-sequences")
    block = blocks(page)[0]
    ways = {"jax {}.{}".format(*jax.__version_info__[:2]): 'SRLIT(16), engine="scan"'}
    if build.why_not() is None:
        ways["[kernels]"] = "SRLIT(16)"
    for way, layer in ways.items():
        if way not in page:
            pytest.skip(f"the page says nothing of {way}")
        exec(block.replace("SRLIT(16)", layer), found := {})
        figures = "{every_step}, {default} and {root} with {way}"
        assert figures.format(way=way, **found) in " ".join(page.split())


def test_links_are_those_of_the_site_and_code_stays():
    code = "```python\nx[0](y)\n```\n"
    page = f"[a](../start.md) [b](#c) [d](https://e.f)\n{code}[g](../../examples/README.md#h)\n"
    linked = page.replace("../../examples/README.md", "/results.md")
    assert copies.relink(page, "docs/how-to/page.md") == linked
    assert copies.relink("[a](../docs/start.md)", "examples/README.md") == "[a](/start.md)"


def test_code_needs_no_scrolling_on_a_screen():
    for name, text in TEXTS.items():
        for block in re.findall(
            r"^```(?:python|\{code-cell\} python)\n(.*?)^```", text, re.S | re.M
        ):
            lines = [line for line in block.splitlines() if not line.startswith(":")]
            assert max(map(len, lines)) <= 88, (name, max(lines, key=len))


def test_the_page_of_the_layer_with_most_parameters_is_short():
    """Without code, pictures and the list that is folded."""
    page = family.page("DSRLITS", "").partition("<details>")[0]
    words = re.findall(r"[^\W_]+", re.sub(r"^```.*?^```", "", page, flags=re.S | re.M))
    assert "pos_rec_weight" in page and 300 < len(words) <= 700, len(words)


def test_pages_with_code_are_known():
    assert set(ELSEWHERE) <= set(TEXTS)
    assert {"README", "speed", "how-to/nir", "how-to/nnx", "coming-from/weights"} <= {
        name.rpartition("-")[0] for name in SESSIONS
    }


@pytest.mark.parametrize(
    ("prints", "right"), [("1\n2", True), ("1 ...", True), ("1\n3", False), ("", False)]
)
def test_what_a_page_says_is_printed(prints, right):
    session = [Block("x = 1\nprint(x)\n"), Block("print(x)\nprint(2)\n", prints)]
    if right:
        assert run(session, "page")["x"] == 1
    else:
        with pytest.raises(AssertionError, match="page says that this is printed"):
            run(session, "page")


def test_sessions_of_a_page():
    text = """
```python
import a
```

```python
b
```

```text
1
```
<!-- picture: it | what it shows -->
```python
from c import d
```
```text
not what it prints, since no empty line is between them
```
"""
    assert sessions(text) == [
        [Block("import a\n"), Block("b\n", "1\n"), Mark("it", "what it shows")],
        [Block("from c import d\n")],
    ]


COMMANDS = sorted(
    {
        line
        for text in TEXTS.values()
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.S | re.M)
        for line in block.splitlines()
        if line
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_name_what_there_is(line):
    """Targets of the Makefile, scripts with their options, and extras."""
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
    for word in words:
        if word.startswith(("examples/", "tests/")):
            assert (ROOT / word).exists()
        for extra in re.findall(r"^(?:\.|tracetorch_jax)\[(.*)\]$", word):
            declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            assert set(extra.split(",")) <= declared["optional-dependencies"].keys()
    if words[0] == "python" and words[1].startswith("examples/"):
        folder = (ROOT / words[1]).parent
        sources = "".join(path.read_text() for path in folder.glob("*.py"))
        for option in (word for word in words if word.startswith("--") and word != "--help"):
            assert f'"{option}"' in sources, option
