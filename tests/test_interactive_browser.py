"""The interactive page in a browser, from a file: pointer, keyboard, address, phone, colours."""

import re
import shutil
import xml.etree.ElementTree as ElementTree

import chromium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generate import javascript
from generate.colors import COLORS
from interactive import SCRIPTS, mount

from tracetorch_jax import snn
from tracetorch_jax.functional.equations import equations

DESKTOP, PHONE = (1280, 900), (390, 844)


pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page with nothing but the widget, as the site has it."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(SCRIPTS, folder / "_static" / "interactive")
    javascript.write(folder / "_static")
    return chromium.write_page(folder, mount("interactive"))


@pytest.fixture
def visit(browser, address):
    """Open a fragment; whatever is logged, raised or fetched from elsewhere fails the test."""
    contexts, wrong = [], []

    def open_page(fragment="", size=DESKTOP, **options):
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, offline=True, **options
        )
        contexts.append(context)
        page = context.new_page()
        chromium.watch(page, wrong)
        page.goto(address + (fragment and f"#{fragment}"))
        settle(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def settle(page):
    """Wait until the picture has followed."""
    page.evaluate("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)
    settle(page)


def shown(page, name):
    return float(page.locator(f".tt-readout [data-name={name}]").inner_text())


def values_of(page):
    """The table of all values as arrays, by the heads of its columns."""
    if not page.locator(".tt-table table").count():
        page.get_by_text("All values as a table").click()
        page.locator(".tt-table table").wait_for()
    rows = page.locator(".tt-table tr").evaluate_all(
        "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    head, *body = rows
    return dict(zip(head, np.array(body, float).T, strict=True))


def librarys(name, xs, **params):
    """Outputs and states of a layer of one neuron at every step."""
    layer = getattr(snn, name)(1, param_dtype=jnp.float64, **params)
    model = snn.Unroll(layer, time_major=True)
    xs = jnp.asarray(xs)[:, None, None]
    variables = model.init(jax.random.key(0), xs)
    out, kept = model.apply(variables, xs, mutable="trace_states")
    states = kept["trace_states"]["cell"]
    return {"out": out[:, 0, 0]} | {key: value[0][:, 0, 0] for key, value in states.items()}


def assert_librarys(page, name, mark="", **params):
    """Every number of the page is the library's, to the four decimals shown."""
    got = values_of(page)
    for key, want in librarys(name, got["x"], **params).items():
        if key != "prev_output":
            column = f"{mark} {key}".strip()
            np.testing.assert_allclose(got[column], want, atol=1e-4, err_msg=column)


def test_every_layer_is_chosen_by_keyboard(visit):
    page = visit()
    page.locator("#tt-layer").focus()
    press(page, "Home")
    seen = []
    for _ in snn.ALL_LAYERS:
        name = page.locator("#tt-layer").input_value()
        seen.append(name)
        assert page.locator(".tt-summary").inner_text().startswith(f"{name}: ")
        assert page.locator(".tt-summary a").get_attribute("href") == f"family/{name}.html"
        assert page.locator("svg").get_attribute("aria-label").startswith(f"{name} over 100 steps")
        labels = page.locator("[data-neuron=A] .tt-rows label").all_inner_texts()
        assert labels == list(snn.ALL_LAYERS[name](1).spec.parameters)
        press(page, "ArrowDown")
    assert seen == list(snn.ALL_LAYERS)


def test_a_layer_is_spelt_from_its_parts_by_keyboard(visit):
    page = visit("layer=LIB")
    page.get_by_label("synaptic").focus()
    press(page, "Space", "Tab", "Space")
    assert page.locator("#tt-layer").input_value() == "SRLIB"
    page.get_by_label("binary: spikes of 0 and 1").focus()
    press(page, "ArrowRight", "ArrowRight")
    assert page.locator("#tt-layer").input_value() == "SRLITS"
    press(page, "ArrowRight")
    assert page.locator("#tt-layer").input_value() == "SLI"
    assert page.get_by_label("recurrent").is_disabled()


def test_a_decay_is_moved_by_keyboard(visit, x64):
    page = visit("layer=LIB&input=step")
    before = shown(page, "mem")
    page.get_by_label("beta slider").focus()
    press(page, *["ArrowRight"] * 4)
    beta = float(page.locator("#tt-beta").input_value())
    assert 0.91 < beta < 0.93
    assert shown(page, "mem") != before
    assert "half-life" in page.get_by_label("beta slider").get_attribute("aria-valuetext")
    assert_librarys(page, "LIB", beta=beta)
    assert f"snn.LIB(1, beta={beta})" in page.locator(".tt-below").inner_text()
    page.get_by_text("Reset parameters").press("Enter")
    settle(page)
    assert page.locator("#tt-beta").input_value() == "0.9"
    assert shown(page, "mem") == before


def test_a_reset_is_chosen_by_keyboard(visit, x64):
    page = visit("layer=RLIT&rec_weight=0.5&input=alternating&amplitude=0.6")
    resets = page.get_by_role("radiogroup", name="what a spike does to the membrane")
    for reset in ("zero", "none"):
        resets.locator(":checked").press("ArrowRight")
        settle(page)
        assert resets.get_by_label(reset).is_checked()
        assert_librarys(page, "RLIT", rec_weight=0.5, reset=reset)
        lines = equations(snn.RLIT(1, reset=reset).spec)
        assert page.get_by_label("equations").inner_text() == "\n".join(lines)
        made = f'snn.RLIT(1, rec_weight=0.5, reset="{reset}")'
        assert page.get_by_label("Python").inner_text().endswith(made)
        page.wait_for_function("(reset) => location.hash.includes(`&reset=${reset}&`)", arg=reset)
    page.locator("#tt-layer").select_option("LIB")
    assert resets.get_by_label("none").is_checked()
    page.locator("#tt-layer").select_option("LI")
    for radio in resets.get_by_role("radio").all():
        assert radio.is_disabled() and not radio.is_checked()


def test_an_input_is_drawn_by_keyboard(visit, x64):
    page = visit("layer=SLIT&input=drawn&x=0*100")
    page.get_by_role("slider", name="input, drawn step by step").focus()
    press(page, "Home", *["ArrowRight"] * 3, *["Shift+ArrowUp"] * 4, "Enter", "ArrowRight")
    press(page, *["ArrowDown"] * 3, "End", "ArrowUp", "Delete", "ArrowLeft", "ArrowUp")
    x = values_of(page)["x"]
    assert np.flatnonzero(x).tolist() == [3, 4, 5, 98]
    assert x[3] == x[4] == 2 and x[5] == -0.15 and x[98] == 0.05
    assert_librarys(page, "SLIT")
    pen = page.get_by_role("slider", name="input, drawn step by step")
    assert pen.get_attribute("aria-valuetext").startswith("step 98: x 0.05, syn ")
    assert shown(page, "step") == 98


def test_arrows_in_the_widget_do_not_turn_the_page(visit):
    """As Sphinx's own keys would."""
    page = visit()
    page.evaluate("document.addEventListener('keydown', (event) => (window.heard = event.key))")
    page.locator(".tt-pen").focus()
    press(page, "ArrowRight", "ArrowLeft")
    assert page.evaluate("window.heard") is None
    press(page, "s")
    assert page.evaluate("window.heard") == "s"


@pytest.mark.parametrize("touch", [False, True], ids=["mouse", "touch"])
def test_an_input_is_drawn_by_pointer(visit, x64, touch):
    page = visit("layer=DSRLITS&input=noise&pos_rec_weight=0.5", has_touch=touch)
    box = page.locator(".tt-pen").bounding_box()
    left, right = box["x"] + 0.205 * box["width"], box["x"] + 0.605 * box["width"]
    top, bottom = box["y"] + 1, box["y"] + box["height"] - 1
    if touch:
        page.touchscreen.tap(left, top)
    else:
        page.mouse.move(left, top)
        page.mouse.down()
        page.mouse.move(right, bottom)
        page.mouse.up()
    settle(page)
    assert page.locator("#tt-input").input_value() == "drawn"
    x = values_of(page)["x"]
    limit = float(page.locator("[data-panel=x] .tt-tick").last.text_content().replace("−", "-"))
    assert x[20] == pytest.approx(abs(limit), rel=0.05)
    if not touch:
        assert x[60] == pytest.approx(-x[20]) and x[40] == pytest.approx(0, abs=0.1)
        assert np.all(np.diff(x[20:61]) < 0)
    assert_librarys(page, "DSRLITS", pos_rec_weight=0.5)


def test_values_at_the_step_under_the_pointer(visit, x64):
    page = visit("layer=RLIB&rec_weight=-0.5&input=sine")
    values = values_of(page)
    page.evaluate("window.scrollTo(0, 0)")
    box = page.locator(".tt-picture svg").bounding_box()
    pen = page.locator(".tt-pen").bounding_box()
    page.mouse.move(pen["x"] + 0.065 * pen["width"], box["y"] + 200)
    settle(page)
    assert shown(page, "step") == 6 and shown(page, "out") == 1
    for name in ("x", "rec", "mem", "out"):
        assert shown(page, name) == values[name][6]
    assert shown(page, "membrane") == values["mem before reset"][6] > 1


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("beta", "1", "`beta` must lie strictly between 0 and 1; got 1."),
        ("threshold", "-0.5", "`threshold` must be greater than 0; got -0.5."),
        ("steps", "7", "`steps` must be a whole number from 20 to 400; got 7."),
    ],
)
def test_values_outside_their_range_are_refused_by_rule(visit, name, value, message):
    page = visit("layer=LIB")
    field = page.locator(f"#tt-{name}")
    before, label = field.input_value(), page.locator("svg").get_attribute("aria-label")
    field.fill(value)
    settle(page)
    assert page.get_by_role("alert").all_inner_texts().count(message) == 1
    assert field.get_attribute("aria-invalid") == "true"
    assert page.locator("svg").get_attribute("aria-label") == label
    field.fill(before)
    settle(page)
    assert field.get_attribute("aria-invalid") is None
    assert not "".join(page.get_by_role("alert").all_inner_texts())


@pytest.mark.parametrize(
    "fragment",
    ["dt=1e307", "amplitude=1e-323", "amplitude=1.7e308", "b.layer=RLITS&b.pos_scale=1e308"],
)
def test_values_of_any_size_are_drawn(visit, fragment):
    page = visit(f"layer=RLITS&rec_weight=1e300&pos_scale=1e9&input=step&amplitude=5&{fragment}")
    page.locator(".tt-picture [data-panel=mem]").wait_for(state="attached", timeout=5000)


def test_addresses_go_round(visit):
    page = visit("layer=DLITS&reset=zero&pos_beta=0.97&input=noise&seed=3&steps=60")
    assert values_of(page)["x"].shape == (60,)
    page.locator("#tt-neg_scale").fill("-0.25")
    page.locator("#tt-input").select_option("drawn")
    page.locator(".tt-pen").focus()
    press(page, "End", "ArrowUp")
    first = values_of(page)
    page.wait_for_function("(last) => location.hash.endsWith(`,${last}`)", arg=first["x"][-1])
    fragment = page.url.partition("#")[2]
    expected = "layer=DLITS&reset=zero&pos_beta=0.97&neg_scale=-0.25&input=drawn&steps=60&x="
    assert fragment.startswith(expected)
    second = values_of(visit(fragment))
    assert first.keys() == second.keys()
    for name, want in first.items():
        assert np.array_equal(second[name], want), name


def test_links_set_the_neuron(visit):
    page = visit()
    assert "#" not in page.url
    page.evaluate("location.hash = 'layer=SLI&alpha=0.25&input=sine&beta=2'")
    settle(page)
    assert page.locator("#tt-layer").input_value() == "SLI"
    assert page.locator("#tt-alpha").input_value() == "0.25"
    error = "`beta` must lie strictly between 0 and 1; got 2."
    assert page.get_by_role("alert").first.inner_text() == error
    page.evaluate("location.hash = 'a-heading'")
    settle(page)
    assert page.locator("#tt-layer").input_value() == "SLI"


def test_going_back_to_an_address_without_settings(visit):
    page = visit()
    page.evaluate("location.hash = 'layer=SLI&input=sine'")
    settle(page)
    assert page.locator("#tt-layer").input_value() == "SLI"
    page.go_back()
    settle(page)
    assert "#" not in page.url
    assert page.locator("#tt-layer").input_value() == "LIB"


def test_clearing_the_input(visit):
    page = visit("layer=LI&input=sine")
    page.get_by_text("Clear input").press("Enter")
    settle(page)
    assert page.evaluate("document.activeElement.textContent") == "Clear input"
    assert not values_of(page)["x"].any()


def test_a_phone_shows_every_layer_without_scrolling_sideways(visit):
    page = visit("layer=LIB", PHONE, has_touch=True)
    for name in snn.ALL_LAYERS:
        page.locator("#tt-layer").select_option(name)
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0], name
        texts = page.locator(".tt-picture text")
        right = texts.evaluate_all(
            "all => Math.max(...all.map(t => t.getBoundingClientRect().right))"
        )
        assert right <= PHONE[0], name
    page.locator("#tt-pos_scale").scroll_into_view_if_needed()
    settle(page)
    assert page.locator(".tt-picture").bounding_box()["y"] == pytest.approx(0, abs=1)


def test_two_neurons_are_compared_by_keyboard(visit, x64):
    page = visit("layer=LIB&beta=0.8&input=step&amplitude=0.5")
    page.get_by_label("compare two neurons").press("Space")
    settle(page)
    assert page.locator("#tt-b-layer").input_value() == "LIB"
    assert page.locator("#tt-b-beta").input_value() == "0.8"
    page.locator("#tt-b-layer").focus()
    page.keyboard.type("SLIB")
    page.locator("#tt-b-alpha").fill("0.7")
    group = page.get_by_role("group", name="Neuron B")
    group.get_by_label("zero").press("Space")
    settle(page)
    assert_librarys(page, "LIB", mark="A", beta=0.8)
    assert_librarys(page, "SLIB", mark="B", beta=0.8, alpha=0.7, reset="zero")
    drawn = page.locator(".tt-picture svg")
    label = drawn.get_attribute("aria-label")
    assert label.startswith("A LIB and B SLIB over 100 steps: input x from")
    assert "synaptic trace of B from" in label and "membrane of A from" in label
    assert "output of A: 24 spikes" in label and "output of B: " in label
    for panel, kinds in {"syn": ["second"], "mem": ["second", "sum"]}.items():
        lines = drawn.locator(f"[data-panel={panel}] .tt-line").evaluate_all(
            "all => all.map((line) => line.getAttribute('class').split(' tt-')[1])"
        )
        assert lines == kinds, panel
    assert (
        page.get_by_label("Python")
        .inner_text()
        .endswith('a = snn.LIB(1, beta=0.8)\nb = snn.SLIB(1, alpha=0.7, beta=0.8, reset="zero")')
    )
    page.wait_for_function("location.hash.includes('&b.reset=zero&b.alpha=0.7&b.beta=0.8')")
    again = visit(page.url.partition("#")[2])
    assert values_of(again).keys() == values_of(page).keys()
    assert again.locator(".tt-picture svg").inner_html() == drawn.inner_html()
    page.get_by_label("compare two neurons").press("Space")
    settle(page)
    assert not page.locator("#tt-b-layer").count()
    assert drawn.get_attribute("aria-label").startswith("LIB over")
    page.wait_for_function("!location.hash.includes('b.')")


def test_a_step_of_some_milliseconds(visit):
    page = visit("layer=LIB&input=step")
    time = page.locator(".tt-picture .tt-time")
    note = page.locator("#tt-beta-note")
    assert note.inner_text() == "half-life 6.58, \u03c4 9.49 steps"
    assert time.last.text_content() == "time in steps"
    field = page.get_by_label("dt", exact=True)
    field.fill("0.5")
    settle(page)
    assert page.evaluate("document.activeElement.id") == "tt-dt"
    assert note.inner_text() == "half-life 3.29, \u03c4 4.75 ms"
    spoken = page.get_by_label("beta slider").get_attribute("aria-valuetext")
    assert spoken == "0.9, half-life 3.29, \u03c4 4.75 ms"
    assert time.all_text_contents() == ["0", "10", "20", "30", "40", "time in ms"]
    title = page.locator("[data-panel=out] .tt-title").text_content()
    assert title == "output: 15 spikes, firing rate 300 Hz"
    assert shown(page, "time") == 49.5
    assert page.locator("#tt-steps-note").inner_text() == "50 ms"
    assert values_of(page)["time in ms"][:3].tolist() == [0, 0.5, 1]
    assert "over 100 steps (50 ms)" in page.locator("svg").get_attribute("aria-label")
    page.wait_for_function("location.hash.endsWith('&dt=0.5')")
    field.fill("-1")
    assert "`dt` must be greater than 0; got -1." in page.get_by_role("alert").all_inner_texts()
    assert (
        visit("layer=LIB&input=step&dt=0.5").get_by_label("dt", exact=True).input_value() == "0.5"
    )
    field.fill("")
    settle(page)
    assert field.get_attribute("aria-invalid") is None
    assert time.last.text_content() == "time in steps"
    assert page.locator("[data-panel=out] .tt-title").text_content().endswith("rate 0.15")
    field.fill("0")
    page.locator("#tt-layer").select_option("LI")
    settle(page)
    assert field.get_attribute("aria-invalid") is None and field.input_value() == ""


def test_presets_are_chosen_by_keyboard(visit):
    page = visit("layer=LI&input=sine&dt=2&b.layer=LIT")
    picked = page.get_by_label("preset")
    picked.focus()
    seen = page.evaluate("tracetorch.presets")
    for preset in seen:
        press(page, "ArrowDown")
        assert picked.input_value() == preset["fragment"]
        assert page.locator(".tt-see").inner_text() == preset["see"]
        page.wait_for_function(
            "(text) => location.hash === `#${text}&dt=2&b.layer=LIT`", arg=preset["fragment"]
        )
    page.locator("#tt-beta").fill("0.8")
    settle(page)
    assert picked.input_value() == "" and not page.locator(".tt-see").inner_text()


def test_the_script_is_copied(visit):
    page = visit(
        "layer=LIT&input=sine&b.layer=LI", permissions=["clipboard-read", "clipboard-write"]
    )
    page.get_by_text("Copy as a script").press("Enter")
    page.get_by_text("Copied.").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.evaluate(
        "tracetorch.python.script(tracetorch.neuron.fromFragment("
        "'layer=LIT&input=sine&b.layer=LI').model)"
    )
    assert copied == page.get_by_label("script", exact=True).text_content()


def test_a_script_that_may_not_be_copied_is_selected(visit):
    page = visit("layer=LIT&input=sine")
    page.evaluate("void (navigator.clipboard.writeText = () => Promise.reject(Error('no')))")
    page.get_by_text("Copy as a script").click()
    page.get_by_text("did not allow it").wait_for()
    script = page.get_by_label("script", exact=True)
    assert script.is_visible()
    assert page.evaluate("getSelection().toString()").strip() == script.inner_text().strip()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("fragment", ["layer=DSRLITS&input=noise", "layer=LIB&b.layer=ASLIT&dt=2"])
def test_the_picture_is_saved_in_light_colours(visit, tmp_path, scheme, fragment):
    page = visit(fragment, color_scheme=scheme)
    with page.expect_download() as download:
        page.get_by_text("Save picture").press("Enter")
    path = tmp_path / "picture.svg"
    download.value.save_as(path)
    layers = re.findall(r"layer=(\w+)", fragment)
    assert download.value.suggested_filename == f"{'-'.join(layers)}.svg"
    root = ElementTree.parse(path).getroot()
    title, about, paper = root[:3]
    assert title.text.split(":")[0] in page.locator(".tt-picture svg").get_attribute("aria-label")
    assert about.text.startswith(f"#{fragment.split('&')[0]}&input=")
    assert (paper.get("width"), paper.get("height"), paper.get("fill")) == ("100%", "100%", "#fff")
    assert "input x" in [part.text for part in root.iter()]
    found = set()
    for part in root.iter():
        assert not part.get("class") and "var(" not in str(part.attrib)
        found |= {part.get(name) for name in ("fill", "stroke")}
        if part.tag.endswith("text"):
            assert float(part.get("font-size").removesuffix("px")) >= 10
            assert luminance(part.get("fill")) < 0.18  # a contrast of 4.5 to white
    light = {f"rgb{tuple(int(c[i : i + 2], 16) for i in (1, 3, 5))}" for c, _ in COLORS.values()}
    paper_and_rules = {"rgb(255, 255, 255)", "rgb(224, 224, 228)", "rgb(133, 135, 143)"}
    assert found - {None, "none", "#fff"} <= light | paper_and_rules
    assert len(found & light) >= 5
    assert not page.locator(".tt-light").count()
    width, height = (int(root.get(side)) for side in ("width", "height"))
    page.goto(path.as_uri())
    box = page.locator("svg").bounding_box()
    assert (box["width"], box["height"]) == (width, height)
    right = page.locator("text").evaluate_all(
        "all => Math.max(...all.map((t) => t.getBoundingClientRect().right))"
    )
    assert right <= width


FOCUSED = """() => {
  const focused = document.activeElement;
  const box = (focused.closest(".tt-chip") ?? focused).getBoundingClientRect();
  const picture = document.querySelector(".tt-picture").getBoundingClientRect();
  return {
    inside: Boolean(focused.closest(".tt-controls")), name: focused.id || focused.value,
    top: box.top, bottom: box.bottom, from: picture.top, to: picture.bottom,
  };
}"""


@pytest.mark.parametrize("second", ["", "&b.layer=DSRLITS"], ids=["one", "two"])
@pytest.mark.parametrize("size", [(1280, 800), (390, 800)], ids=["desktop", "phone"])
def test_the_picture_and_what_has_the_focus_are_in_sight(visit, size, second):
    page = visit(f"layer=DSRLITS&input=noise{second}", size)
    ends = {"Tab": page.get_by_label("preset"), "Shift+Tab": page.get_by_label("Python")}
    for key, start in ends.items():
        start.focus()
        places = []
        for _ in range(100 if second else 60):
            press(page, key)
            place = page.evaluate(FOCUSED)
            if place["inside"]:
                places.append(place)
        assert len(places) >= (80 if second else 40)
        for place in places:
            assert 0 <= place["from"] and place["to"] <= size[1], place
            assert 0 <= place["top"] and place["bottom"] <= size[1], place
            if size[0] < 500:
                assert place["top"] >= place["to"], place


def test_every_control_has_a_name(visit):
    page = visit("layer=DSRLITS&input=noise&b.layer=ASRLIT")
    controls = page.locator(".tt-neuron :is(input, select, button, [tabindex])")
    nameless = controls.evaluate_all("""all => all.filter((one) =>
        !(one.ariaLabel || one.labels?.[0]?.textContent
          || (one.matches("button") && one.textContent))
    ).map((one) => one.outerHTML)""")
    assert nameless == [] and controls.count() > 60
    ids = page.locator("[id]").evaluate_all("all => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))


def test_the_page_in_a_frame_of_another(browser, address, tmp_path):
    """It keeps its own address, and leaves the other page where it is."""
    source = f"{address.rpartition('/')[0]}/_static/interactive/embed.html"
    fragment = "layer=SLIB&input=pulses&dt=2&b.layer=LIB"
    (tmp_path / "other.html").write_text(
        "<!doctype html><meta charset=utf-8><title>other</title><p style='height: 1500px'>Text.</p>"
        f"<iframe src='{source}#{fragment}' width=1000 height=760></iframe>"
    )
    page, wrong = browser.new_page(viewport={"width": 1280, "height": 800}), []
    chromium.watch(page, wrong)
    page.goto((tmp_path / "other.html").as_uri())
    frame = page.frame(url=re.compile("embed.html"))
    frame.locator("#tt-b-beta").wait_for()
    assert page.evaluate("window.scrollY") == 0
    page.locator("iframe").scroll_into_view_if_needed()  # out of sight, nothing is drawn
    frame.locator("[data-panel=mem]").wait_for()
    label = frame.locator(".tt-picture svg").get_attribute("aria-label")
    assert label.startswith("A SLIB and B LIB over 100 steps (200 ms)")
    frame.locator("#tt-b-beta").fill("0.8")
    frame.wait_for_function("location.hash.endsWith('&b.layer=LIB&b.beta=0.8')")
    picture = frame.locator(".tt-picture").evaluate("e => e.getBoundingClientRect().bottom")
    assert picture <= 760
    assert frame.locator(".tt-summary a").first.evaluate("e => [e.target || 0, e.baseURI]")[0] == 0
    assert frame.evaluate("document.querySelector('base').target") == "_blank"
    page.close()
    assert wrong == []


def luminance(colour):
    red, green, blue = (int(v) / 255 for v in re.findall(r"\d+", colour)[:3])
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (red, green, blue)
    ]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("second", ["", "&b.layer=LIT&b.pos_threshold=2"], ids=["one", "two"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_both_colour_schemes(visit, scheme, second):
    """A contrast of 4.5 to 1, that of the Web Content Accessibility Guidelines."""
    page = visit(f"layer=DSRLITS&input=noise&beta=3{second}", color_scheme=scheme)
    page.locator("#tt-pos_beta").fill("2")
    behind = luminance(
        page.locator(".tt-picture").evaluate("e => getComputedStyle(e).backgroundColor")
    )
    assert (behind < 0.1) == (scheme == "dark")
    texts = {
        ".tt-title": "fill", ".tt-tick": "fill", ".tt-name.tt-sum": "fill",
        ".tt-level-name": "fill", ".tt-note": "color", ".tt-unit": "color", ".tt-message": "color",
        ".tt-readout dt": "color", ".tt-control label": "color", ".tt-caption": "color",
        ".tt-neuron button": "color", ".tt-summary a": "color", ".tt-see": "color",
    }  # fmt: skip
    kinds = (".tt-second",) if second else (".tt-pos", ".tt-neg")
    texts |= {f".tt-name{kind}": "fill" for kind in kinds}
    if second:
        texts[".tt-level-name.tt-second"] = "fill"
    for selector, attribute in texts.items():
        colour = page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{attribute}")
        low, high = sorted((behind, luminance(colour)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (selector, colour)


def test_without_javascript_the_page_says_so(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert "needs JavaScript" in page.locator("noscript").inner_text()
    context.close()
