"""The built site: as a reader gets it, from the folder, without a network."""

import html.parser
import os
import re
import subprocess
import sys
import urllib.parse
import zlib

import chromium
import pytest
from generate import names
from pages import DOCS

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
        if tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(found["href"])
        if "src" in found:
            self.loads.append(found["src"])
        if tag == "img":
            self.images.append((found["src"], found.get("alt")))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; a warning fails the build."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet",
         "-d", str(folder / "doctrees"), str(DOCS), str(folder / "html")],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def found(site):
    """Every page by its path."""
    return {path: Page(path.read_text()) for path in site.rglob("*.html")}


def inside(link):
    return not re.match(r"[a-z]+:", link)


def test_no_link_is_broken(found):
    for path, page in found.items():
        for link in filter(inside, page.links + page.loads):
            target, _, fragment = urllib.parse.unquote(link).partition("#")
            target = target.partition("?")[0]
            place = (path.parent / target).resolve() if target else path
            assert place.exists(), f"{path.name} links to {link}"
            if fragment and place.suffix == ".html" and "=" not in fragment:
                assert fragment in found[place].ids, f"{path.name} links to {link}"


def test_nothing_is_fetched_from_elsewhere(site, found):
    for path, page in found.items():
        assert all(map(inside, page.loads)), path.name
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", path.read_text()), path.name


def test_every_picture_is_there_and_described(site, found):
    for path, page in found.items():
        for source, description in page.images:
            if "_static" not in source:  # the theme's own
                assert description, f"{path.name}: {source}"
                assert (path.parent / source).stat().st_size > 5_000, f"{path.name}: {source}"


def test_every_layer_has_a_page_with_its_picture(site, found):
    for name in snn.ALL_LAYERS:
        page = found[site / "family" / f"{name}.html"]
        assert sorted(source for source, _ in page.images) == [
            f"../_images/{name}-dark.svg",
            f"../_images/{name}-light.svg",
        ]


def test_every_public_name_is_in_the_inventory(site):
    """Which other projects' documentation can link to as well."""
    data = (site / "objects.inv").read_bytes()
    lines = zlib.decompress(data.split(b"\n", 4)[4]).decode().splitlines()
    assert set(names.everything()) <= {line.split(" ")[0] for line in lines}


@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_in_a_browser(site, width):
    """On a desktop and on a phone: nothing is logged, nothing is missing, nothing sticks out."""
    with chromium.launch() as browser:
        page = browser.new_page(viewport={"width": width, "height": 844})
        for path in sorted(site.rglob("*.html")):
            wrong = []
            chromium.watch(page, wrong)
            page.goto(path.as_uri())
            assert not wrong, path.name
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
            assert page.evaluate("[...document.images].every((i) => i.naturalWidth)"), path.name


def test_search_works_from_the_folder(site):
    with chromium.launch() as browser:
        page, wrong = browser.new_page(), []
        chromium.watch(page, wrong)
        page.goto((site / "index.html").as_uri())
        page.fill("input[name=q]", "halflife_to_decay")
        page.press("input[name=q]", "Enter")
        page.get_by_role("link", name="halflife_to_decay").first.wait_for()
        assert not wrong


def test_the_source_is_left_as_it_was(site):
    """A build writes nothing that git would take."""
    status = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all", "docs"],
        capture_output=True,
        text=True,
        cwd=DOCS,
    )
    if status.returncode:
        pytest.skip("not a clone of the repository")
    assert not [line for line in status.stdout.splitlines() if line.startswith("??")]
