"""The benchmarks run, and what they compare computes the same."""

import importlib
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from tracetorch_jax import snn

FOLDER = pathlib.Path(__file__).parent.parent / "examples" / "benchmarks"
ENVIRONMENT = {"JAX_PLATFORMS": "cpu"}
QUICK = ("--smoke", "--rounds", "1", "--seconds", "0")


def run(script, *args, status=0):
    """What it printed and complained about, and an error if it does not end with `status`."""
    done = subprocess.run(
        [sys.executable, FOLDER / script, *map(str, args)],
        capture_output=True,
        text=True,
        env=os.environ | ENVIRONMENT,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


def expect_times(result, cases, sides):
    """Every case has finite times on every side, and what XLA says about its memory."""
    assert [(row["case"], row["side"]) for row in result["rows"]] == [
        (case, side) for case in cases for side in sides
    ]
    for row in result["rows"]:
        if row["side"] == "ours-parallel":  # LIB has nothing linear
            assert row["failure"].startswith("not possible: `engine` 'parallel' needs ")
            continue
        assert row["failure"] is None
        assert math.isfinite(row["median"]) and row["median"] > 0
        assert math.isfinite(row["first_s"]) and row["first_s"] > row["compile_s"] > 0
        assert row["temp_mib"] >= 0


def expect_equal(printed, case, sides, reference):
    """The script says of each side that all its results are those of the reference."""
    for side in sides:
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{case} {side}: "))
        assert line.endswith(f"equal to {reference}: all")


@pytest.mark.nightly
def test_every_case_runs_and_all_sides_agree(tmp_path):
    """`--check` fails unless values and gradients of plain autodiff equal ours."""
    out = tmp_path / "result.json"
    printed, _ = run("run.py", *QUICK, "--check", "--json", out)
    result = json.loads(out.read_text())
    layers = ["LIB/forward", "LIB/gradient", "SRLIT/gradient", "DSRLITS/gradient"]
    networks = [f"network-{layer}/training" for layer in ("LIB", "DSRLITS")]
    cases = [f"{case}/12x4x8" for case in (*layers, *networks)]
    others = ["ours-sharded", "ours-scan", "ours-scan-sharded", "autodiff"]
    expect_times(result, cases, ["ours", *others, "floor"])
    assert result["wrong"] == []
    for case in cases:
        expect_equal(printed, case, others, "ours")


@pytest.mark.nightly
def test_growth_another_environment_and_a_missing_peer(tmp_path):
    """Memory and time against T; a side that cannot be run is named with the reason."""
    json_file, markdown = tmp_path / "result.json", tmp_path / "result.md"
    nowhere = tmp_path / "bin" / "python"
    peers = (f"norse,ours={nowhere}", f"ours={sys.executable}")
    options = ("--json", json_file, "--markdown", markdown, *(f"--peer={peer}" for peer in peers))
    printed, _ = run("run.py", *QUICK, "--growth", "--case", "LIB/*", *options)
    result = json.loads(json_file.read_text())
    cases = [f"LIB/gradient/{steps}x8x128" for steps in (6, 12)]
    again = f"ours-jax-{jax.__version__}"
    expect_times(result, cases, ["ours", "ours-sqrt", "autodiff", "floor", again])
    assert set(result["absent"]) == {"norse", "ours (in another environment)"}
    for text in (printed, markdown.read_text()):
        assert "norse: not available: " in text
        assert "not asked for (--peer): tracetorch, " in text
        assert str(nowhere) not in text


@pytest.mark.nightly
def test_engines_agree_in_gpu_benchmark(tmp_path):
    """`gpu.py` times and compares the engines, on any device if asked for tiny sizes."""
    json_file, markdown = tmp_path / "result.json", tmp_path / "result.md"
    nowhere = tmp_path / "bin" / "python"
    options = ("--json", json_file, "--markdown", markdown, "--peer", f"spikingjelly={nowhere}")
    printed, _ = run("gpu.py", *QUICK, *options)
    result = json.loads(json_file.read_text())
    cases = ["LIB/forward/12x4x8", "LIB/gradient/12x4x8/bfloat16"]
    scans = [f"ours-scan-{steps}" for steps in (4, 8, 16)]
    expect_times(
        result, cases, ["copy", "autodiff", "ours-scan", *scans, "ours-parallel", "ours-fused"]
    )
    assert result["wrong"] == []
    for case in cases:
        expect_equal(printed, case, ["ours-fused", "autodiff", *scans], "ours-scan")
    for row in result["rows"]:
        if row["failure"] is None:
            assert row["rate"] > 0 and row["of_copy"] > 0
    assert len(result["absent"]) == 6
    for text in (printed, markdown.read_text()):
        assert "spikingjelly-fixed-cupy: not available: " in text
        assert str(nowhere) not in text


@pytest.fixture
def modules(monkeypatch):
    """Import a file of the benchmarks by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def test_traffic_and_targets(modules):
    """Rates count each array once; a target is met, missed or not measured."""
    cases, gpu = modules("cases"), modules("gpu")
    for layer, count in cases.STATES.items():
        assert len(getattr(snn, layer)(1).spec.states) == count
    four = {
        case.dtype + "/" * case.gradient: case for case in cases.gpu_cases(["LIB"], [(2, 3, 5)])
    }
    assert {name: gpu.traffic(case) / 30 for name, case in four.items()} == {
        "float32": 8,
        "float32/": 16 + 8,
        "bfloat16": 4,
        "bfloat16/": 8 + 8,
    }

    (case, *_) = cases.gpu_cases(["LIB"], cases.GPU_SHAPES[:1])
    milliseconds = {
        "ours-fused": 1.0,
        "autodiff": 10.0,
        "copy": 2**31 / gpu.traffic(case) * 0.75,
        "spikingjelly-triton": 3.0,
        "spikingjelly-fixed-cuda": 2.0,
    }
    measured = [
        gpu.table.Row(case=case.name, side=side, median=median)
        for side, median in milliseconds.items()
    ]
    fused, *others = gpu.compare(case, measured, "gpu")
    assert fused.of_copy == pytest.approx(0.75)
    assert fused.target == (
        "60% of copy: met (1.25 of it); 20 x lax.scan: missed (0.50 of it); "
        "SpikingJelly's best: met (2.00 of it)"
    )
    assert not any(row.target for row in others)
    (fused,) = gpu.compare(case, measured[:1], "gpu")
    assert fused.target.count("not measured") == 3


def test_only_rounding_and_a_rare_spike_may_differ(modules):
    """Small relative errors are found, and so are a few wrong values among many."""
    cases, check = modules("cases"), modules("check")
    (case, *_) = cases.gpu_cases(["LIB"], [(100, 20, 500)])
    rng = np.random.default_rng(0)
    y = (rng.random(case.shape) < 0.1).astype(np.float32)
    dx, beta = (rng.standard_normal(shape, np.float32) for shape in (case.shape, 500))
    expected = {"y": y, "x": dx, "beta": beta}

    def compare(**changed):
        return check._compare(case, expected | changed, expected, list(expected))

    def flip(count):
        flipped = y.copy()
        flipped.flat[:count] = 1 - flipped.flat[:count]
        return flipped

    assert compare(x=dx * (1 + 1e-6), beta=beta * (1 + 1e-6)) == ("all", [])
    assert compare(y=flip(5)) == ("y but for 5.0e-06 of it, x, beta", [])
    for name, wrong in {"y": flip(50), "x": dx * 1.001, "beta": beta * 1.001}.items():
        _, (complaint,) = compare(**{name: wrong})
        assert f"of `{name}` differ" in complaint
    _, complaints = check._compare(case, expected, {}, ["y"])
    assert complaints == ["there is no `y` to compare with"]


@pytest.mark.nightly
def test_gpu_benchmark_needs_a_gpu():
    """Without one it says so."""
    _, complaint = run("gpu.py", status=2)
    assert "needs a GPU that JAX can use" in complaint


@pytest.mark.parametrize(
    ("script", "option", "complaint"),
    [
        ("run", "--peer=nonsense", "--peer must name one of torch, .*; got nonsense"),
        ("run", "--case=nonsense", "--case matches nothing"),
        ("gpu", "--peer=norse", "--peer must name one of spikingjelly, .*; got norse"),
        ("gpu", "--shape=1x2", "must be like 1000x128x1024; got 1x2"),
    ],
)
def test_nonsense_is_refused(script, option, complaint, modules, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, option])
    with pytest.raises(SystemExit) as stopped:
        modules(script).main()
    assert re.search(complaint, f"{stopped.value.code}\n{capsys.readouterr().err}")


def test_list(modules, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run", "--list"])
    modules("run").main()
    names = capsys.readouterr().out.split()
    assert len(names) == 22
    assert {"LIB/gradient/1000x32x128", "network-DSRLITS/training/100x64x256"} < set(names)


def test_sides_are_compared_with_ours_on_their_jax(modules):
    """The ratio is to ours on the same jax where that is measured; a caution stands elsewhere."""
    table, report = modules("table"), modules("report")
    on = {"ours": "2", "autodiff": "2", "norse": None, "sparx": "1", "spyx": "0", "ours-jax-1": "1"}
    about = {
        side: {"versions": {"jax": jax} if jax else {}, "layout": "", "details": {}, "notes": ""}
        for side, jax in on.items()
    }
    references = table.references(about)
    assert references.pop("sparx") == "ours-jax-1"
    assert set(references.values()) == {"ours"}

    medians = {"ours": 1.0, "norse": 8.0, "sparx": 6.0, "ours-jax-1": 2.0}
    rows = [table.Row(case="", side=side, median=median) for side, median in medians.items()]
    table.compare(rows, table.references(about))
    assert [row.ours_faster for row in rows] == [1.0, 8.0, 3.0, 2.0]

    made = report.Report(facts={}, about=about, absent={}, missing=[], rows=[], columns=[])
    notes = made._notes()
    assert "sparx: jax 1; compared with ours-jax-1" in notes
    (caution,) = (note for note in notes if note.startswith("CAUTION"))
    assert "they are compared with: spyx;" in caution


def test_our_sides_may_run_in_several_environments(modules):
    """A peer runs once, in the environment named last."""
    chosen = modules("options").chosen_peers(
        ["a,ours=x", "both=y", "ours=y"], ["a", "b"], {"both": ["a", "b"]}, ["ours"]
    )
    assert chosen == [("a", "y"), ("ours", "x"), ("b", "y"), ("ours", "y")]


def test_the_page_says_where_each_side_differs(modules):
    """The README's table has a row, or a part of one, for each side of `run.py` but the floor."""
    sides = modules("sides")
    page = (FOLDER / "README.md").read_text().split("### Where sides differ")[1]
    first = [line.split("|")[1] for line in page.splitlines() if line.startswith("|")]
    named = {name.strip() for cell in first for name in cell.split(",")}
    assert {*sides.OWN, *sides.PEERS} - named == {"ours", "floor"}


@pytest.mark.nightly
def test_what_keeping_nan_costs_is_measured():
    out, _ = run("nan.py", "--smoke", "--layer", "LIB", "--layer", "DSRLIT")
    assert re.findall(r"^(\w+) +(\w+) +with / without: [\d.]+ ", out, re.M) == [
        (layer, what) for layer in ("LIB", "DSRLIT") for what in ("forward", "gradient")
    ]


@pytest.mark.nightly
def test_the_gradient_of_recurrence_is_measured():
    out, _ = run("feedback.py", "--smoke", "--layer", "LIB")
    assert re.search(
        r"^LIB +5x2x3 +memory in sizes of the input: ours [\d.]+, plain [\d.]+$", out, re.M
    )
    assert re.search(r"^ +time, ours / plain: [\d.]+ ", out, re.M)


@pytest.mark.nightly
def test_streams_are_measured():
    out, _ = run("streams.py", "--smoke")
    assert re.search(r"^ +3 neurons, +2 streams: .*; alone / streams: [\d.]+ \(", out, re.M)
