"""The page that runs a trained network, in a browser: what a hand can do to it."""

import shutil

import chromium
import pytest
from generate import javascript, network
from interactive import mount
from pages import DOCS

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    for name in ("interactive", "live"):
        shutil.copytree(DOCS / "_static" / name, folder / "_static" / name)
    javascript.write(folder / "_static")
    network.write(folder / "_static")
    return chromium.write_page(folder, mount("live"))


@pytest.fixture
def page(browser, address):
    """The page, without its animation; whatever goes wrong fails the test."""
    context, wrong = browser.new_context(reduced_motion="reduce", has_touch=True), []
    page = context.new_page()
    chromium.watch(page, wrong)
    page.goto(address)
    yield page
    context.close()
    assert [said for said in wrong if said != address and not said.startswith("file:")] == []


def part(name):
    return f"[data-part={name}]"


def picture(page, name):
    return page.evaluate(f"document.querySelector('{part(name)}').toDataURL()")


@pytest.mark.parametrize(("typed", "shown"), [("500", "127"), ("-1", "0"), ("1.5", "1"), ("", "0")])
def test_a_number_that_no_neuron_has(typed, shown, page):
    page.fill(part("which"), shown)
    expected = picture(page, "neuron")
    page.fill(part("which"), "64")
    assert picture(page, "neuron") != expected
    page.fill(part("which"), typed)
    assert picture(page, "neuron") == expected
    page.click(part("next"))
    assert "test image of a" in page.inner_text(part("answer"))


@pytest.mark.parametrize("button", ["clear", "next"])
def test_a_button_ends_strokes_that_are_being_drawn(button, page):
    def press():
        page.evaluate(f"document.querySelector('{part(button)}').click()")
        return page.inner_text(part("answer"))

    page.focus(part("pad"))
    page.keyboard.press(" ")
    press()
    page.keyboard.press("ArrowUp")  # the pen is lifted
    assert page.inner_text(part("answer")) == "Draw a digit."

    box = page.locator(part("pad")).bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    said = press()
    page.mouse.move(box["x"] + 90, box["y"] + 90)
    assert page.inner_text(part("answer")) == said
    page.mouse.up()


def test_two_fingers_draw_two_strokes(page):
    box = page.locator(part("pad")).bounding_box()
    touch = page.context.new_cdp_session(page)

    def send(kind, *points):
        places = [
            {"x": box["x"] + x, "y": box["y"] + y, "id": i} for i, (x, y) in enumerate(points)
        ]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    def middle():
        """Whether there is ink between the two strokes."""
        return page.evaluate(
            "(() => { const pad = document.querySelector('[data-part=pad]');"
            "const { width, height } = pad;"
            "const data = pad.getContext('2d')"
            ".getImageData(width / 2 - 20, 0, 40, height).data;"
            "return data.some((value) => value); })()"
        )

    page.click(part("clear"))
    send("touchStart", (30, 30))
    send("touchStart", (30, 30), (190, 30))
    for y in range(40, 200, 20):
        send("touchMove", (30, y), (190, y))
    send("touchEnd")
    page.wait_for_timeout(100)
    assert page.inner_text(part("answer")).startswith("Answer: ")
    assert not middle()


def test_only_the_main_button_draws(page):
    page.click(part("clear"))
    page.click(part("pad"), button="right")
    assert page.inner_text(part("answer")) == "Draw a digit."


def test_colours_follow_the_system(page):
    light = picture(page, "readout")
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(100)
    dark = picture(page, "readout")
    page.evaluate("window.dispatchEvent(new Event('resize'))")
    assert light != dark == picture(page, "readout")
