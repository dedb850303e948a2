"""The built site: as a reader gets it, from the folder, without a network."""

import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import zlib

import chromium
import py_mini_racer
import pytest
from generate import names
from pages import DOCS, ROOT

from tracetorch_jax import snn


class Page(html.parser.HTMLParser):
    """What a page refers to.

    Attributes:
        ids: places in it that can be linked to.
        links: where its links lead.
        loads: what is fetched to show it.
        images: descriptions of its pictures.
    """

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.images = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and found.get("rel") in ("stylesheet", "preload"):
            self.loads.append(found["href"])
        if "src" in found:
            self.loads.append(found["src"])
        if tag == "img":
            self.images.append((found["src"], found.get("alt")))


def build(folder, docs=DOCS, options=("--fail-on-warning", "--keep-going")):
    """Build the site as `make docs` does; a warning fails it."""
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "--quiet", *options,
         "-d", str(folder / "doctrees"), str(docs), str(folder / "html")],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "html"


@pytest.mark.nightly
def test_the_site(tmp_path):
    """One test, since it is built once: no two processes write its pages at a time."""
    site = build(tmp_path)
    found = {path: Page(path.read_text()) for path in site.rglob("*.html")}
    check_links(found)
    check_that_nothing_is_fetched(site, found)
    check_pictures(found)
    check_layers(site, found)
    check_inventory(site)
    check_what_a_link_shows(site)
    check_that_search_finds(site)
    check_the_source()
    if chromium.is_available():
        with chromium.launch() as browser:
            for width in (1280, 390):
                check_every_page(browser, site, width)
            check_search(browser, site)
            check_the_live_page(browser, site)


@pytest.mark.slow
def test_search_finds_what_people_look_for(tmp_path):
    """In a copy of the repository, without pictures, and no tutorial runs."""
    for name in ("docs", "examples", "tracetorch_jax", "CHANGELOG.md", "pyproject.toml"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("_build"))
        else:
            shutil.copy(ROOT / name, tmp_path)
    options = ("-D", "pictures=0", "-D", "nb_execution_mode=off")
    check_that_search_finds(build(tmp_path / "built", tmp_path / "docs", options))


def inside(link):
    return not re.match(r"[a-z]+:", link)


def check_links(found):
    for path, page in found.items():
        for link in filter(inside, page.links + page.loads):
            target, _, fragment = urllib.parse.unquote(link).partition("#")
            target = target.partition("?")[0]
            place = (path.parent / target).resolve() if target else path
            assert place.exists(), f"{path.name} links to {link}"
            if fragment and place.suffix == ".html" and "=" not in fragment:
                assert fragment in found[place].ids, f"{path.name} links to {link}"


def check_that_nothing_is_fetched(site, found):
    for path, page in found.items():
        assert all(map(inside, page.loads)), path.name
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", path.read_text()), path.name


def check_pictures(found):
    for path, page in found.items():
        for source, description in page.images:
            if "_static" not in source:  # the theme's own
                assert description, f"{path.name}: {source}"
                assert (path.parent / source).stat().st_size > 5_000, f"{path.name}: {source}"


def check_layers(site, found):
    for name in snn.ALL_LAYERS:
        page = found[site / "family" / f"{name}.html"]
        assert sorted(source for source, _ in page.images) == [
            f"../_images/{name}-dark.svg",
            f"../_images/{name}-light.svg",
        ]


def check_inventory(site):
    """Which other projects' documentation can link to as well."""
    data = (site / "objects.inv").read_bytes()
    lines = zlib.decompress(data.split(b"\n", 4)[4]).decode().splitlines()
    assert set(names.everything()) <= {line.split(" ")[0] for line in lines}


def check_what_a_link_shows(site):
    """A title, a description and a picture that exists; an icon that needs no file."""
    text = (site / "start.html").read_text()
    shown = dict(re.findall(r'<meta property="og:(\w+)" content="([^"]*)"', text))
    assert shown["title"] == "Start" and "spiking network" in shown["description"]
    assert (site / shown["image"].removeprefix(shown["url"].removesuffix("start.html"))).exists()
    assert 'rel="shortcut icon" href="data:image/svg+xml,' in text


# What people look for, and a page that must be among the first three found.
SEARCHES = {
    "LSTM": "glossary",
    "Poisson": "glossary",
    "membrane potential": "glossary",
    "cite": "cite",
    "colab": "faq",
    "LIF": "glossary",
    "recurrent": "how-to/adaptive-networks",
    "dataset": "reference/datasets",
    "install": "install",
    "time constant": "how-to/time-scales",
    "reset": "ideas",
    "notebook": "tutorials/index",
    "firing rate": "glossary",
    "BPTT": "glossary",
    "ALIF": "family/ALIB",
    "LIFNode": "coming-from/spikingjelly",
    "tutorial": "tutorials/index",
}
BROWSER = """
var window = globalThis, localStorage = {setItem() {}}, SPHINX_HIGHLIGHT_ENABLED = false;
var _ready = () => {};
var DOCUMENTATION_OPTIONS = {FILE_SUFFIX: ".html", LINK_SUFFIX: ".html"}, _ = (text) => text;
var document = {documentElement: {dataset: {content_root: ""}}, getElementById: () => null,
                addEventListener() {}, readyState: "loading"};
"""
FIND = """
(query) => JSON.stringify(
  Search._performSearch(...Search._parseQuery(query)).reverse().map((found) => found[0]))
"""


def check_that_search_finds(site):
    """The site's own search, in an engine without a browser."""
    engine = py_mini_racer.MiniRacer()
    engine.eval(BROWSER)
    for name in ("base-stemmer", "english-stemmer", "language_data", "searchtools"):
        if (path := site / "_static" / f"{name}.js").exists():  # which depends on Sphinx's version
            engine.eval(path.read_text())
    engine.eval((site / "searchindex.js").read_text())
    for query, page in SEARCHES.items():
        found = json.loads(engine.eval(f"({FIND})({json.dumps(query)})"))
        assert page in list(dict.fromkeys(found))[:3], (query, found[:5])


def check_every_page(browser, site, width):
    """On a desktop or on a phone: nothing is logged, nothing is missing, nothing sticks out."""
    page, wrong = browser.new_page(viewport={"width": width, "height": 844}), []
    chromium.watch(page, wrong)
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri())
        assert not wrong, path.name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
        assert page.evaluate("[...document.images].every((i) => i.naturalWidth)"), path.name


def check_search(browser, site):
    page, wrong = browser.new_page(), []
    chromium.watch(page, wrong)
    page.goto((site / "index.html").as_uri())
    page.fill("input[name=q]", "halflife_to_decay")
    page.press("input[name=q]", "Enter")
    page.get_by_role("link", name="halflife_to_decay").first.wait_for()
    assert not wrong


def check_the_live_page(browser, site):
    """No number of a neuron and no order of pen and buttons is an error."""
    page, wrong = browser.new_page(), []
    chromium.watch(page, wrong)
    page.goto((site / "live.html").as_uri())
    for number in ("500", "-3", "1.5", ""):
        page.fill("[data-part=which]", number)
    page.focus("[data-part=pad]")
    page.keyboard.press("Space")
    page.click("[data-part=next]")
    page.focus("[data-part=pad]")
    page.keyboard.press("ArrowDown")
    assert not wrong


def check_the_source():
    """A build writes nothing that git would take."""
    status = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all", "docs"],
        capture_output=True,
        text=True,
        cwd=DOCS,
    )
    assert not [line for line in status.stdout.splitlines() if line.startswith("??")]
