"""The interactive page: what it computes, and says of the layers, is the library's."""

import dataclasses
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from generate import javascript
from generate.signatures import argument
from interactive import LINKS, SCRIPTS, call, mount, sources
from pages import ROOT, read
from py_mini_racer import MiniRacer

from tracetorch_jax import functional, snn
from tracetorch_jax.functional.equations import equations
from tracetorch_jax.functional.spec import OPTIONS


@pytest.fixture(scope="module")
def engine():
    """JavaScript without a browser."""
    engine = MiniRacer()
    for source in sources():
        engine.eval(source)
    return engine


# The layers.

STEPS = """(name, params, state, xs, reset) => xs.map((row) => {
  const found = row.map((x, i) => tracetorch.layers[name].step(params[i], state[i], x, reset));
  state = found.map((one) => one.state);
  return found.map((one) => ({ ...one.signals, ...one.state, out: one.out }));
})"""


def neuron_by_neuron(values, shape):
    """A dict for each neuron from a dict of arrays."""
    flat = {name: np.broadcast_to(value, shape).ravel().tolist() for name, value in values.items()}
    return [dict(zip(flat, row, strict=True)) for row in zip(*flat.values(), strict=True)]


def run(engine, case, reset="subtract"):
    """Every value after every step, ``[T, ...]``, by name."""
    shape, trailing = case["x"].shape[1:], (1,) * (-case.info["dim"] - 1)
    params = {
        name: v.reshape(v.shape + trailing if v.ndim else ())
        for name, v in case.group("param/").items()
    }
    zeros = {name: np.zeros(shape) for name in snn.ALL_LAYERS[case.layer](1).spec.states}
    found = call(
        engine,
        STEPS,
        case.layer,
        neuron_by_neuron(params, shape),
        neuron_by_neuron(zeros | case.group("init/"), shape),
        case["x"].reshape(len(case["x"]), -1).tolist(),
        reset,
    )
    return {
        name: np.array([[one[name] for one in row] for row in found]).reshape(case["x"].shape)
        for name in found[0][0]
    }


@pytest.mark.parametrize("layer", reference.TRACETORCH)
def test_layers_in_javascript_match_the_reference(engine, layer):
    for case in reference.cases(layer):
        got = run(engine, case)
        reference.assert_close(got["out"], case["out"], 1e-10, f"{layer}/{case.name}: out")
        for name, want in case.group("state/").items():
            reference.assert_close(got[name], want, 1e-10, f"{layer}/{case.name}: {name}")


@pytest.mark.parametrize("reset", OPTIONS["reset"])
@pytest.mark.parametrize("layer", reference.some(reference.FIRING, ("LIB", "DSRLITS", "ALIT")))
def test_every_reset_in_javascript_is_the_librarys(engine, x64, layer, reset):
    case = reference.cases(layer.removeprefix("A"))[0]
    if layer not in reference.TRACETORCH:
        added = {"param/rho": np.array(0.8), "param/adapt_weight": np.array(1.5)}
        case = dataclasses.replace(case, layer=layer, arrays=case.arrays | added)
    module = case.build(reset=reset, param_dtype=jnp.float64)
    carry = {name: jnp.zeros(case["x"].shape[1:]) for name in module.spec.states} | case.group(
        "init/"
    )
    variables = module.init(jax.random.key(0), carry, case["x"][0])
    carries, out = reference.carries_of(module, variables["params"], carry, case["x"])
    got = run(engine, case, reset)
    assert out.any() and (got["membrane"] != got["mem"]).any() == (reset != "none")
    reference.assert_close(got["out"], out, 1e-10, "out")
    for name in module.spec.states:
        want = np.stack([carry[name] for carry in carries[1:]])
        reference.assert_close(got[name], want, 1e-10, name)


@pytest.mark.parametrize("layer", reference.TRACETORCH)
def test_signals_are_sums_of_channels_and_the_membrane_before_its_reset(engine, layer):
    spec = snn.ALL_LAYERS[layer](1).spec
    case = reference.cases(layer)[0]
    got = run(engine, case)
    for name in {"mem", "syn", "rec"} & set(got):
        channels = [c for c in (f"pos_{name}", f"neg_{name}", name) if c in spec.states]
        assert np.array_equal(got[name], sum(got[c] for c in channels)), name
    assert ("syn" in got, "rec" in got) == (bool(spec.synapse), bool(spec.recurrence))
    if not spec.fires:
        assert np.array_equal(got["membrane"], got["out"])
        return
    trailing = (1,) * (-case.info["dim"] - 1)
    reset = np.zeros(case["x"].shape)
    for sign, name in zip((1, -1), spec.thresholds, strict=True):
        if name:
            threshold = case[f"param/{name}"]
            threshold = threshold.reshape(threshold.shape + trailing if threshold.ndim else ())
            reset += sign * threshold * (sign * got["membrane"] > threshold)
    assert reset.any()
    np.testing.assert_allclose(got["membrane"] - got["mem"], reset, atol=1e-12)


@pytest.mark.parametrize("name", reference.LAYERS)
def test_what_the_page_says_of_a_layer_is_the_librarys(engine, name):
    layer = snn.ALL_LAYERS[name](1)
    said = call(engine, "(name) => tracetorch.layers[name]", name)
    assert said["summary"] == layer.__doc__.splitlines()[0]
    resets = OPTIONS["reset"] if layer.spec.fires else ()
    assert list(said["resets"]) == list(resets)
    assert said["reset"] == (layer.spec.reset if resets else None)
    for reset in resets:
        spec = dataclasses.replace(layer.spec, reset=reset)
        assert said["equations"] + said["resets"][reset] == equations(spec)
    if not resets:
        assert said["equations"] == equations(layer.spec)
    assert said["states"] == list(layer.spec.states)
    assert [p["name"] for p in said["parameters"]] == list(layer.spec.parameters)
    for parameter in said["parameters"]:
        assert parameter["value"] == getattr(layer, parameter["name"])
        assert parameter["constraint"] == layer.spec.parameters[parameter["name"]].name
        assert f"{parameter['name']}: {parameter['about'][:20]}" in layer.__doc__


def test_every_layer_is_there_in_the_librarys_order(engine):
    assert call(engine, "() => Object.keys(tracetorch.layers)") == list(snn.ALL_LAYERS)


CONSTRAINTS = (functional.DECAY, functional.THRESHOLD, functional.UNBOUNDED)


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda c: c.name)
def test_constraints_in_javascript_are_the_librarys(engine, constraint):
    assert call(engine, "(n) => tracetorch.constraints[n].rule", constraint.name) == constraint.rule
    allows = "(n, v) => tracetorch.constraints[n].low < v && v < tracetorch.constraints[n].high"
    for value in (-1.0, 0.0, 0.5, 1.0, 2.0):
        try:
            constraint.check("value", np.array(value), np.float64)
            legal = True
        except ValueError:
            legal = False
        assert call(engine, allows, constraint.name, value) is legal, value
    raw = np.linspace(-6, 6, 25)
    mapped = "(n, vs, f) => vs.map((v) => tracetorch.constraints[n][f](v))"
    values = call(engine, mapped, constraint.name, raw.tolist(), "constrain")
    np.testing.assert_allclose(values, constraint.value(raw), rtol=1e-14)
    back = call(engine, mapped, constraint.name, values, "invert")
    np.testing.assert_allclose(back, raw, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "function, librarys",
    [
        ("halfLife", functional.decay_to_halflife),
        ("timeConstant", functional.decay_to_time_constant),
    ],
)
def test_time_scales_in_javascript_are_the_librarys(engine, x64, function, librarys):
    decays = [0.01, 0.5, 0.9, 0.999]
    got = call(engine, "(vs, f) => vs.map((v) => tracetorch[f](v))", decays, function)
    np.testing.assert_allclose(got, librarys(np.array(decays)), rtol=1e-14)


def test_constraints_without_a_map_raise(monkeypatch):
    monkeypatch.delitem(javascript.MAPS, "softplus")
    with pytest.raises(ValueError, match="`MAPS` must have the constraint 'softplus'"):
        javascript.script()


def test_undocumented_arguments_raise():
    with pytest.raises(ValueError, match="`docstring` must document 'gamma'; it does not."):
        argument(snn.LIB.__doc__, "gamma")


def test_the_script_is_written_where_the_page_looks(tmp_path):
    javascript.write(tmp_path)
    text = (tmp_path / "interactive" / "layers.js").read_text()
    assert text == sources()[0]
    assert "import " not in text and "export " not in text and "fetch" not in text


# The model behind the page.


def from_fragment(engine, fragment):
    return call(engine, "(text) => tracetorch.neuron.fromFragment(text)", fragment)


def run_fragment(engine, fragment):
    """Values at every step, by name."""
    found = from_fragment(engine, fragment)
    assert found["errors"] == []
    series = call(engine, "(model) => tracetorch.neuron.run(model)", found["model"])
    return {name: np.array(values) for name, values in series.items()}


def spikes(series):
    """Steps of the positive and of the negative spikes."""
    return np.flatnonzero(series["out"] > 0), np.flatnonzero(series["out"] < 0)


@pytest.mark.parametrize("name", reference.LAYERS)
def test_addresses_say_all_that_is_set(engine, name):
    """A model with nothing at its default, as a fragment and back."""
    model = call(engine, "(name) => tracetorch.neuron.initial(name, 'noise')", name)
    model["params"] = {p: round(v * 0.7 + 0.11, 3) for p, v in model["params"].items()}
    model["options"] = {"amplitude": -1.25, "seed": 7, "steps": 40}
    model["reset"] = model["reset"] and "none"
    model["dt"] = 0.25
    other = call(engine, "(name) => tracetorch.neuron.initial(name)", name)
    model["other"] = {key: other[key] for key in ("layer", "reset")} | {"params": model["params"]}
    fragment = call(engine, "(model) => tracetorch.neuron.toFragment(model)", model)
    assert fragment.startswith(f"layer={name}&")
    assert from_fragment(engine, fragment) == {"model": model, "errors": []}


def test_addresses_hold_drawn_inputs(engine):
    fragment = "layer=LI&input=drawn&steps=20&x=0*3,0.5*2,-1.25,0*14"
    series = run_fragment(engine, fragment)
    assert series["x"].tolist() == [0] * 3 + [0.5] * 2 + [-1.25] + [0] * 14
    back = "(text) => tracetorch.neuron.toFragment(tracetorch.neuron.fromFragment(text).model)"
    assert call(engine, back, fragment) == fragment


@pytest.mark.parametrize(
    "fragment, message",
    [
        ("layer=LIBB", "`layer` must be one of LI, DLI, .*; got LIBB."),
        ("layer=LIB&reset=hard", "`reset` must be one of subtract, zero, none; got hard."),
        ("layer=LI&reset=zero", "LI with this input has nothing called `reset`."),
        ("layer=LIB&input=steps", "`input` must be one of step, pulses, .*; got steps."),
        ("layer=LIB&beta=1", "`beta` must lie strictly between 0 and 1; got 1."),
        ("layer=LIB&beta=-0", "`beta` must lie strictly between 0 and 1; got -0."),
        ("layer=LIB&threshold=0", "`threshold` must be greater than 0; got 0."),
        ("layer=RLIB&rec_weight=Infinity", "`rec_weight` must be finite; got Infinity."),
        ("layer=LIB&beta=", "`beta` must be a number; got nothing."),
        ("layer=LIB&beta=0,9", "`beta` must be a number; got 0,9."),
        ("layer=LIB&beta=%", "`beta` must be a number; got %."),
        ("layer=LIB&steps=1000", "`steps` must be a whole number from 20 to 400; got 1000."),
        ("layer=LIB&input=noise&seed=1.5", "`seed` must be a whole number from 0 to 9999; got 1.5"),
        ("layer=LIB&input=drawn&x=1*1e9", "`x` must be a whole number from 1 to 400; got 1e9."),
        ("layer=LIB&input=drawn&x=a*2", "`x` must be a number; got a."),
        ("layer=LIB&gamma=0.5", "LIB with this input has nothing called `gamma`."),
        ("layer=LIB&dt=0", "`dt` must be greater than 0; got 0."),
        ("layer=LIB&b.beta=0.5", "LIB with this input has nothing called `b.beta`."),
    ],
)
def test_addresses_with_mistakes_say_so_and_keep_the_default(engine, fragment, message):
    found = from_fragment(engine, fragment)
    (error,) = found["errors"]
    initial = call(engine, "(m) => tracetorch.neuron.initial(m.layer, m.input)", found["model"])
    assert found["model"] == initial
    assert re.match(message, error), error


@pytest.mark.parametrize(
    "part, message",
    [
        ("b.layer=LIBB", "`b.layer` must be one of LI, DLI, .*; got LIBB."),
        ("b.layer=SLIB&b.alpha=1", "`b.alpha` must lie strictly between 0 and 1; got 1."),
        ("b.layer=SLIB&b.gamma=0.5", "SLIB with this input has nothing called `b.gamma`."),
        ("b.layer=SLI&b.reset=zero", "SLI with this input has nothing called `b.reset`."),
    ],
)
def test_mistakes_about_the_second_neuron_say_so(engine, part, message):
    found = from_fragment(engine, f"layer=RLIB&gamma=0.8&{part}")
    (error,) = found["errors"]
    assert re.match(message, error), error
    assert found["model"]["params"]["gamma"] == 0.8 and found["model"]["other"]


def test_addresses_of_headings_are_left_alone(engine):
    assert from_fragment(engine, "experiments") is None
    assert from_fragment(engine, "") is None


def test_another_layer_keeps_what_it_can(engine):
    change = "(model, name) => tracetorch.neuron.withLayer(model, name).params"
    model = from_fragment(engine, "layer=SLIB&beta=0.8&threshold=2")["model"]
    dual = call(engine, change, model, "DRLIT")
    assert (dual["pos_beta"], dual["neg_beta"], dual["pos_threshold"]) == (0.8, 0.8, 2)
    assert (dual["pos_gamma"], dual["neg_rec_weight"]) == (0.9, 0)
    model = {**model, "layer": "DRLIT", "params": {**dual, "pos_beta": 0.7}}
    assert call(engine, change, model, "LIB") == {"beta": 0.7, "threshold": 2}


def test_another_layer_keeps_the_reset_if_it_fires(engine):
    change = "(model, name) => tracetorch.neuron.withLayer(model, name)"
    model = from_fragment(engine, "layer=SLIB&reset=zero")["model"]
    assert call(engine, change, model, "DRLIT")["reset"] == "zero"
    silent = call(engine, change, model, "LI")
    assert silent["reset"] is None
    assert call(engine, change, silent, "LIB")["reset"] == "subtract"


def test_a_second_neuron_begins_as_the_first(engine):
    model = from_fragment(engine, "layer=SLIB&alpha=0.8&reset=zero")["model"]
    change = "(model, on) => tracetorch.neuron.compared(model, on)"
    both = call(engine, change, model, True)
    assert both["other"] == {key: model[key] for key in ("layer", "reset", "params")}
    first, second = call(engine, "(model) => tracetorch.neuron.runs(model)", both)
    assert (first["mark"], second["mark"]) == ("A", "B") and first["series"] == second["series"]
    assert call(engine, change, both, False) == model


def test_a_second_neuron_has_the_same_input_and_its_own_parameters(engine):
    model = from_fragment(engine, "layer=LIB&input=noise&b.layer=DLIT&b.pos_beta=0.7")["model"]
    first, second = call(engine, "(model) => tracetorch.neuron.runs(model)", model)
    for run, alone in ((first, "layer=LIB"), (second, "layer=DLIT&pos_beta=0.7")):
        want = run_fragment(engine, f"{alone}&input=noise")
        assert run["series"].keys() == want.keys()
        assert all(np.array_equal(run["series"][name], want[name]) for name in want)


def test_inputs(engine):
    def made(fragment):
        return run_fragment(engine, f"layer=LI&input={fragment}")["x"]

    assert np.flatnonzero(made("step&amplitude=2") == 2).tolist() == list(range(10, 70))
    assert np.flatnonzero(made("pulses&period=25&amplitude=1") == 1).tolist() == [12, 37, 62, 87]
    t = np.arange(100)
    np.testing.assert_allclose(made("sine"), 0.5 * np.sin(2 * np.pi * t / 50), atol=1e-12)
    assert made("alternating&period=4")[:5].tolist() == [0.3, 0.3, -0.3, -0.3, 0.3]
    noise = made("noise&amplitude=2&steps=400")
    assert abs(noise.mean()) < 0.3 and 1.7 < noise.std() < 2.3
    assert np.array_equal(noise, made("noise&amplitude=2&steps=400&seed=0"))
    assert not np.isclose(noise, made("noise&amplitude=2&steps=400&seed=1")).any()


def test_runs_are_the_librarys(engine, x64):
    series = run_fragment(engine, "layer=DSRLITS&input=noise&amplitude=2&pos_rec_weight=0.4")
    layer = snn.DSRLITS(1, pos_rec_weight=0.4, param_dtype=jnp.float64)
    model = snn.Unroll(layer, time_major=True)
    xs = jnp.asarray(series["x"])[:, None, None]
    want = model.apply(model.init(jax.random.key(0), xs), xs)
    np.testing.assert_array_equal(series["out"], want[:, 0, 0])
    assert len(set(series["out"])) == 3


def test_links_of_the_page_are_sound(engine):
    assert len(LINKS) >= 10
    for link in LINKS:
        run_fragment(engine, link)


def test_experiments_show_what_the_page_says(engine):
    """The numbers in the text, from the links in it."""
    text = " ".join(read("interactive").split())

    def shown(fragment, *claims):
        assert fragment in LINKS
        for claim in claims:
            assert claim in text, claim
        return run_fragment(engine, fragment)

    up, _ = spikes(shown("layer=LIB&input=step", "fire at every fourth step"))
    assert set(np.diff(up)) == {4}
    series = shown("layer=LIB&beta=0.5&input=step", "settles at 0.6", "stays silent")
    assert round(series["mem"].max(), 3) == 0.6 and not series["out"].any()

    series = shown("layer=LIB&input=pulses&amplitude=0.4", "no more than 0.61")
    assert round(series["membrane"].max(), 2) == 0.61 and not series["out"].any()
    up, _ = spikes(shown("layer=LIB&beta=0.99&input=pulses&amplitude=0.4", "at every third"))
    assert set(np.diff(up)) == {30}

    pulses, _ = spikes(
        shown("layer=LIB&input=pulses&amplitude=2&period=25", "fires with the pulse")
    )
    late = shown("layer=SLIB&alpha=0.8&input=pulses&amplitude=2&period=25", "three or four steps")
    assert set(spikes(late)[0] - pulses) == {3, 4}

    series = shown("layer=LIB&input=step&amplitude=0.9", "51 times in 60 steps")
    assert len(spikes(series)[0]) == 51 and np.count_nonzero(series["x"]) == 60
    up, _ = spikes(shown("layer=LIB&reset=zero&input=step&amplitude=0.9", "at every second step"))
    assert set(np.diff(up)) == {2}
    series = shown("layer=LIB&reset=none&input=step&amplitude=0.9", "20 steps after the input")
    up, _ = spikes(series)
    assert set(np.diff(up)) == {1} and up[-1] - np.flatnonzero(series["x"])[-1] == 20

    series = shown("layer=LIB&input=sine", "starts late into the next half")
    assert series["mem"].min() < -3 and spikes(series)[0].max() < 75
    first, second = (spikes(series)[0] % 50)[[0, 6]]
    assert (first, second) == (6, 10)
    series = shown("layer=LIT&input=sine", "12 spikes of each sign")
    assert [len(side) for side in spikes(series)] == [12, 12]
    assert set(shown("layer=LITS&neg_scale=0.25&input=sine")["out"]) == {-0.25, 0, 1}

    series = shown("layer=LI&input=alternating")["mem"]
    assert series[20:40].mean() == pytest.approx(-series[40:60].mean(), rel=0.3)
    series = shown("layer=DLI&pos_beta=0.98&neg_beta=0.8&input=alternating")
    assert series["pos_mem"][19] < 0.5 * 0.3 < -series["neg_mem"][25]
    assert series["pos_mem"][39] > 0.5 * series["pos_mem"][19]

    gaps = np.diff(spikes(shown("layer=RLIB&gamma=0.95&rec_weight=-1&input=step"))[0])
    assert "come 5 steps apart at first, and 8 in the end" in text
    assert (gaps[0], gaps[-1]) == (5, 8) and np.all(np.diff(gaps) >= 0)
    series = shown("layer=RLIB&rec_weight=1&input=step", "ends at step 70", "until the last step")
    assert not series["x"][70:].any() and series["out"][-1] == 1


def test_the_example_of_two_neurons_is_as_the_page_says(engine):
    (link,) = (link for link in LINKS if "b.layer" in link)
    assert "fires at 150 Hz and the ALIB at 100 Hz, counted over all 100 ms" in " ".join(
        read("interactive").split()
    )
    model = from_fragment(engine, link)["model"]
    runs = call(engine, "(model) => tracetorch.neuron.runs(model)", model)
    counts = {run["layer"]: np.count_nonzero(run["series"]["out"]) for run in runs}
    assert counts == {"LIB": 15, "ALIB": 10}
    assert model["dt"] == 1 and len(runs[0]["series"]["x"]) == 100


# Presets.


def presets(engine):
    return call(engine, "() => tracetorch.presets")


def test_presets_are_addresses_as_the_page_writes_them(engine):
    write = "(text) => tracetorch.neuron.toFragment(tracetorch.neuron.fromFragment(text).model)"
    for preset in presets(engine):
        assert from_fragment(engine, preset["fragment"])["errors"] == []
        assert call(engine, write, preset["fragment"]) == preset["fragment"]


def test_presets_show_what_they_say(engine):
    said = {preset["name"]: preset for preset in presets(engine)}

    def shown(name, *claims):
        preset = said.pop(name)
        for claim in claims:
            assert claim in preset["see"], claim
        return run_fragment(engine, preset["fragment"])

    series = shown("LIF", "fires 27 times in 60 steps")
    assert len(spikes(series)[0]) == 27 and np.count_nonzero(series["x"]) == 60
    up, _ = spikes(shown("LIF, hard reset", "fires 20 times in 60 steps, at every third"))
    assert len(up) == 20 and set(np.diff(up)) == {3}
    series = shown("adaptive LIF (ALIF)", "2 steps apart at first, and 5 in the end")
    gaps = np.diff(spikes(series)[0])
    assert (gaps[0], gaps[-1]) == (2, 5) and series["theta"].max() > 2
    series = shown("synaptic (CuBa) LIF", "three or four steps after the pulse")
    assert set(spikes(series)[0] - np.flatnonzero(series["x"])) == {3, 4}
    up, _ = spikes(shown("bursting", "five or six spikes in a row, and then rests"))
    bursts = np.split(up, np.flatnonzero(np.diff(up) > 2) + 1)
    assert len(bursts) >= 4 and {len(burst) for burst in bursts} == {5, 6}
    assert min(np.diff(up)[np.diff(up) > 2]) > 15
    series = shown("sigma-delta modulator", "the sum of the input less the sum of the spikes")
    assert np.abs(series["mem"]).max() < 1
    assert np.abs(np.cumsum(series["x"] - series["out"]) - series["mem"]).max() < 0.02
    assert not said


# The script.

SCRIPTED = [
    "layer=LI&input=alternating&amplitude=1",
    "layer=LIB&input=step&amplitude=2&reset=zero&dt=0.5",
    "layer=ASRLIT&rec_weight=0.5&input=noise&amplitude=2&seed=3",
    "layer=DSRLITS&pos_beta=0.8&neg_scale=0.25&input=drawn&steps=40&x=0*3,1*5,-2,2*9,-1*22",
    "layer=SLIB&input=pulses&amplitude=3&period=7&dt=2&b.layer=DLIT&b.reset=none&b.neg_beta=0.5",
    "layer=LIT&input=sine&amplitude=1&b.layer=LI&b.beta=0.99",
]


@pytest.mark.slow
@pytest.mark.parametrize("fragment", SCRIPTED)
def test_the_script_prints_the_numbers_of_the_page(engine, tmp_path, fragment):
    model = from_fragment(engine, fragment)["model"]
    runs = call(engine, "(model) => tracetorch.neuron.runs(model)", model)
    path = tmp_path / "neuron.py"
    path.write_text(call(engine, "(model) => tracetorch.python.script(model)", model))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:FigureCanvasAgg", str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    said = [line for line in lines if "firing rate" in line]
    head, *rows = (line.split("\t") for line in lines[len(said) :])
    got = dict(zip(head, np.array(rows, float).T, strict=True))
    assert got["step"].tolist() == list(range(len(runs[0]["series"]["x"])))
    fired = [run for run in runs if call(engine, FIRES, run["layer"])]
    for line, run in zip(said, fired, strict=True):
        count = np.count_nonzero(run["series"]["out"])
        rate = count / len(got["step"]) / ((model["dt"] or 1000) / 1000)
        unit = " Hz" if model["dt"] else ""
        name = run["mark"] or run["layer"]
        assert line == f"{name}: {count} spikes, firing rate {rate:.4g}{unit}" and count
    for run in runs:
        series, name = run["series"], run["mark"] or run["layer"]
        states = set(snn.ALL_LAYERS[run["layer"]](1).spec.states) - {"prev_output"}
        names = {state: state for state in states} | {"out": "out"}
        names |= {"mem before reset": "membrane"} if run in fired else {}
        np.testing.assert_allclose(got["x"], series["x"], rtol=1e-5, atol=1e-6)
        for column, key in names.items():
            np.testing.assert_allclose(
                got[f"{name} {column}"], series[key], rtol=1e-5, atol=1e-6, err_msg=column
            )


FIRES = "(name) => tracetorch.layers[name].thresholds.some(Boolean)"


def test_the_page_for_frames_loads_the_same_scripts():
    def scripts(text):
        return [re.sub(".*/", "", name) for name in re.findall(r'<script defer src="(.*?)"', text)]

    text = (SCRIPTS / "embed.html").read_text()
    assert scripts(text) == scripts(mount("interactive"))
    assert {*scripts(text)} == {path.name for path in SCRIPTS.glob("*.js")} | {"layers.js"}
