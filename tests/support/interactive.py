"""The interactive page's own code, as the tests run it."""

import json
import re

from generate import javascript
from pages import DOCS, read

SCRIPTS = DOCS / "_static" / "interactive"
LINKS = [
    link.replace("&amp;", "&") for link in re.findall(r'href="#(layer=[^"]*)"', read("interactive"))
]


def sources() -> list[str]:
    """Scripts that need no browser, in the order in which the page loads them."""
    names = ("neuron", "presets", "python")
    return [javascript.script(), *((SCRIPTS / f"{name}.js").read_text() for name in names)]


def mount(page: str) -> str:
    """What a page gives to the browser as it stands."""
    (block,) = re.findall(r"^```\{raw\} html\n(.*?)^```", read(page), re.S | re.M)
    return block


def call(engine, function, *args):
    """Call a function of JavaScript; arguments and result pass as JSON, which keeps float64."""
    listed = ", ".join(json.dumps(arg) for arg in args)
    return json.loads(engine.eval(f"JSON.stringify(({function})({listed})) ?? 'null'"))
