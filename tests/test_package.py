"""The package as a user meets it: importing, naming, README and example."""

import ast
import inspect
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import flax
import jax
import mypy.api
import pytest
import reference
from generate import names

import tracetorch_jax
from tracetorch_jax import snn

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = sorted((ROOT / "tracetorch_jax").rglob("*.py"))
GENERATORS = sorted((ROOT / "docs" / "generate").rglob("*.py"))
README = (ROOT / "README.md").read_text()


def run(*args, **kwargs):
    return subprocess.run(
        [sys.executable, *args], check=True, capture_output=True, text=True, **kwargs
    ).stdout


@pytest.mark.nightly
def test_importing_is_fast(tmp_path):
    """At most 15 % of the processor time that importing jax and flax takes.

    Most of it (8 % where it was measured) goes into the classes that Flax makes of 40 layers. The
    bytecode is compiled before, as it is where the package was installed, and the garbage collector
    is off, whose next pass over all that jax and flax hold may or may not fall into this import.
    """
    code = (
        "import gc, time; gc.disable(); start = time.process_time()\n"
        "import jax, flax.linen; ours = time.process_time()\n"
        "import tracetorch_jax; print((time.process_time() - ours) / (ours - start))"
    )
    kept = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    run("-c", code, env=os.environ | kept)  # compiles
    ratios = (float(run("-c", code, env=os.environ | kept)) for _ in range(10))
    assert any(ratio < 0.15 for ratio in ratios)  # the other worker is busy too


def test_importing_needs_nothing_but_the_declared_dependencies():
    code = (
        "import sys\n"
        "for name in ('optax', 'chex', 'matplotlib', 'scipy', 'sklearn', 'tqdm'):\n"
        "    assert name not in sys.modules\n"
        "import jax, flax.linen\n"
        "before = set(sys.modules)\n"
        "import tracetorch_jax\n"
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    assert set(run("-c", code).split()) <= {"tracetorch_jax"} | sys.stdlib_module_names


@pytest.mark.parametrize("path", SOURCES + GENERATORS, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_public_names_of_jax_and_flax(path):
    """No module and no attribute with an underscore is taken from either."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        for name in names:
            if re.match(r"(jax|jnp|nn|flax|lax)\.", name):
                assert not re.search(r"\._(?!_)", name), f"{path.name}: {name}"


def test_versions_that_fit_are_those_of_the_page():
    """The message of an nnx that cannot be imported, the page and the declared ones agree."""
    message = (ROOT / "tracetorch_jax/nnx/_needed.py").read_text()
    page = (ROOT / "docs/compatibility.md").read_text()
    named = set(re.findall(r"\b0\.1\d\.\d+", message))
    assert len(named) >= 5
    assert named <= set(re.findall(r"\b0\.1\d\.\d+", page))
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    oldest = dict(re.findall(r"(jax|flax)>=([\d.]+)", " ".join(declared)))
    assert f"| oldest | 3.11 | {oldest['jax']}.0 | {oldest['flax']} |" in page


def test_public_names_are_listed_and_documented():
    modules = [getattr(tracetorch_jax, name) for name in tracetorch_jax.__all__]
    for module in (tracetorch_jax, snn.flex, *filter(inspect.ismodule, modules)):
        for name in module.__all__:
            assert getattr(module, name).__doc__, (module.__name__, name)
    assert set(tracetorch_jax.__all__) <= set(dir(tracetorch_jax))
    with pytest.raises(AttributeError, match="has no attribute 'loses'"):
        tracetorch_jax.loses  # noqa: B018
    assert list(snn.ALL_LAYERS) == [n for n in snn.ALL_LAYERS if n in snn.__all__]
    assert len(snn.ALL_LAYERS) == 40 and len(reference.TRACETORCH) == 28


@pytest.mark.parametrize("name", snn.ALL_LAYERS)
def test_names_say_what_layers_are_made_of(name):
    """A, D, S, R before LI; B, T, TS after it; and the bases agree."""
    letters = re.fullmatch("(A?)(D?)(S?)(R?)LI(B|TS|T|)", name).groups()
    adaptive, dual, synaptic, recurrent, fires = letters
    spec = snn.ALL_LAYERS[name](1).spec
    assert bool(spec.adaptation) == spec.adapt_weight == bool(adaptive)
    assert bool(spec.synapse) == bool(synaptic)
    assert bool(spec.recurrence) == bool(recurrent)
    assert {t.dual for t in (spec.membrane, spec.synapse, spec.recurrence) if t} == {bool(dual)}
    assert (bool(spec.positive), bool(spec.negative)) == {
        "": (False, False), "B": (True, False), "T": (True, True), "TS": (True, True),
    }[fires]  # fmt: skip
    assert bool(spec.scale) == (fires == "TS")
    assert spec.membrane.ema is (not fires)
    bases = {base.__name__ for base in snn.ALL_LAYERS[name].__bases__} - {"Layer"}
    assert bases == {
        {"": "Potential", "B": "Binary", "T": "Ternary", "TS": "ScaledTernary"}[fires],
        "DualMembrane" if dual else "Membrane",
        *([f"{'Dual' if dual else ''}Synapse"] if synaptic else []),
        *([f"{'Dual' if dual else ''}Recurrence"] if recurrent else []),
        *(["Adaptation"] if adaptive else []),
    }


def test_readme_names_every_layer():
    for name in snn.ALL_LAYERS:
        assert re.search(rf"\b{name}\b", README), name


@pytest.mark.slow
@pytest.mark.parametrize("mode", reference.first(["image", "rows"]))
def test_the_example_runs(mode, tmp_path):
    out = run(
        str(ROOT / "examples" / "digits.py"), "--smoke", "--mode", mode, "--out", str(tmp_path)
    )  # fmt: skip
    assert re.search(r"^test accuracy 0\.\d{3}$", out.strip().splitlines()[-1])
    assert "greatest difference from the whole sequence" in out
    assert (tmp_path / f"digits-{mode}.png").stat().st_size > 20_000
    assert (tmp_path / f"digits-{mode}.npz").exists()


def numbers_of(version):
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def test_versions_are_what_is_declared():
    declared = (ROOT / "pyproject.toml").read_text()
    for module in (jax, flax):
        low = re.search(rf'"{module.__name__}>=([\d.]+)"', declared).group(1)
        assert numbers_of(module.__version__) >= numbers_of(low)


def test_public_names_stay():
    """Who takes a name away, or adds one, changes ``tests/data/public_names.txt`` as well."""
    found = []
    for path, thing in names.everywhere().items():
        methods = names.methods(thing) if inspect.isclass(thing) else []
        found += [path, *(f"{path}.{method}" for method in methods)]
    assert sorted(found) == (ROOT / "tests/data/public_names.txt").read_text().split()


@pytest.mark.slow
def test_a_type_checker_knows_what_is_imported_when_first_used(tmp_path, monkeypatch):
    expected = {
        "reveal_type(tt.losses.cross_entropy)": r"def \(outputs: .*labels: .*\) -> jax.*Array",
        "reveal_type(tt.record)": r"\[model: flax.*, variables: .*\], tuple\[.*Recording",
        "reveal_type(tt.diagnose(tt.nnx.Unroll(tt.nnx.LIB(8)), 0))": "diagnosis.Diagnosis",
        "tt.diagnose(tt.snn.LIB(8), {}, 0, loss=1)": "No overload variant",
        "reveal_type(tt.snn.flex.LIB)": r"def \(num_neurons: int, .*\) -> .*snn.flex.LeakyInteg",
        "reveal_type(tt.nnx.flex.LIB(8))": '"tracetorch_jax.nnx.flex.LeakyIntegrator"',
        "tt.loses": 'Module has no attribute "loses"',
        "tt.snn.flex.LIB(8, bete=0.9)": 'Unexpected keyword argument "bete"',
    }
    path = tmp_path / "user.py"
    path.write_text("\n".join(("import tracetorch_jax as tt", *expected)))
    monkeypatch.chdir(ROOT)  # where mypy finds the package, its options and what it has cached
    found, errors, _ = mypy.api.run([str(path)])
    assert not errors
    for number, (line, words) in enumerate(expected.items(), start=2):
        assert re.search(rf"user.py:{number}: .*{words}", found), f"{line}:\n{found}"
