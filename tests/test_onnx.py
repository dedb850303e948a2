"""Steps as ONNX models, run by onnxruntime; `make test-onnx` has an environment for it."""

import doctest
import pathlib
import re
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pages
import pytest
from flax import nnx as fnnx

from tracetorch_jax import export, nnx, snn
from tracetorch_jax.snn.flex import Decay, LeakyIntegrator, Threshold, Weight

pytest.importorskip("jax2onnx", reason="jax2onnx has an environment of its own: make test-onnx")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.filterwarnings("default")  # what jax2onnx and its like warn of is theirs
KEY = jax.random.key(0)
STEPS, BATCH = 12, 3


@pytest.fixture(autouse=True)
def standard():
    """As users run it, and jax2onnx expects it."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def start(cell, *features):
    """Variables, away from their initial values, and inputs ``[T, B, ...]``."""
    xs = 2 * jax.random.normal(KEY, (STEPS, BATCH, *features))
    variables = cell.init(KEY, cell.initialize_carry(KEY, xs.shape[1:]), xs[0])
    return jax.tree.map(lambda p: p + 0.3 * jax.random.normal(KEY, p.shape), variables), xs


def stream(path, xs):
    """Outputs of an ONNX model, which knows nothing of the cell, and its last states."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    first, *states = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    assert first.name == "x" and names[0] == "y"
    assert [name.removeprefix("next.") for name in names[1:]] == [
        state.name.removeprefix("carry.") for state in states
    ]
    batch = xs.shape[1]
    carry = {s.name: np.zeros([batch, *s.shape[1:]], np.float32) for s in states}
    ys = []
    for x in np.asarray(xs):
        y, *new = session.run(None, {"x": x, **carry})
        carry = dict(zip(carry, new, strict=True))
        ys.append(y)
    return np.stack(ys), {name.removeprefix("carry."): value for name, value in carry.items()}


def assert_same(path, cell, variables, xs):
    """The ONNX model gives the spikes, and to rounding the states, that the cell gives."""
    onnx.checker.check_model(onnx.load(path), full_check=True)
    got, states = stream(path, xs)
    step = jax.jit(lambda carry, x: cell.apply(variables, carry, x))
    carry, want = cell.initialize_carry(KEY, xs.shape[1:]), []
    for x in xs:
        carry, y = step(carry, x)
        want.append(y)
    np.testing.assert_allclose(got, np.stack(want), atol=1e-5)
    assert np.any(got)
    leaves = jax.tree.leaves_with_path(carry)
    assert len(leaves) == len(states)
    for keys, leaf in leaves:
        name = ".".join(str(getattr(key, "key", getattr(key, "idx", None))) for key in keys)
        np.testing.assert_allclose(states[name], leaf, atol=1e-5)


@pytest.mark.parametrize("name", snn.ALL_LAYERS)
def test_every_layer(name, tmp_path):
    cell = snn.Sequential([nn.Dense(4), snn.ALL_LAYERS[name](4)])
    variables, xs = start(cell, 5)
    path = export.onnx(cell, variables, "b, 5", tmp_path / "it.onnx")
    assert_same(path, cell, variables, xs)
    assert stream(path, xs[:, :1])[0].shape == (STEPS, 1, 4)  # another batch


MODELS = {
    "deep": (
        snn.Sequential(
            [
                nn.Dense(8),
                snn.SRLITS(8),
                nn.LayerNorm(),
                nn.Dropout(0.5, deterministic=True),
                snn.Residual([nn.Dense(8), nn.relu, snn.LIB(8, threshold_rank=0)]),
                nn.Dense(3),
                snn.LI(3, ema=False),
            ]
        ),
        "b, 5",
        (5,),
    ),
    "images": (
        snn.Sequential(
            [
                nn.Conv(4, (3, 3)),
                snn.SLIT(4),
                lambda x: nn.max_pool(x, window_shape=(2, 2), strides=(2, 2)),
                lambda x: x.reshape(*x.shape[:-3], -1),
                nn.Dense(3),
                snn.LI(3),
            ]
        ),
        "b, 6, 6, 1",
        (6, 6, 1),
    ),
    "gated": (snn.Sequential([nn.GRUCell(4), snn.LIT(4)]), "b, 5", (5,)),
    "alone": (snn.DSRLITS(4), "b, 4", (4,)),
    "fixed": (snn.RLIB(4, rec_weight=0.5), (BATCH, 4), (4,)),
    "recurrent": (
        snn.Sequential([nn.Dense(4), snn.Recurrent(snn.ASLIB(4)), snn.LI(4)]), "b, 5", (5,)
    ),
    "recurrent images": (
        snn.Recurrent(snn.LIB(2), nn.Conv(2, (3, 3))), "b, 4, 5, 2", (4, 5, 2)
    ),
    "recurrent stack": (
        snn.Recurrent(snn.Sequential([nn.Dense(6), snn.LIB(6)]), nn.Dense(4)), "b, 4", (4,)
    ),
    "adaptation current": (
        LeakyIntegrator(
            4, pos_beta=Decay(0.9), pos_threshold=Threshold(1.0), rho=Decay(0.9),
            adapt_coupling=Weight(0.5), adapt_jump=Weight(0.5),
        ),
        "b, 4",
        (4,),
    ),
    "reset": (snn.SRLITS(4, reset="zero"), "b, 4", (4,)),
    "delays": (snn.Sequential([nn.Dense(4), snn.Delay(4, 5), snn.LIB(4)]), "b, 5", (5,)),
    "whole delays": (
        snn.Sequential(
            [snn.Delay(5, 5, delay=(0.0, 1.0, 2.0, 3.0, 5.0), delay_learnable=False), snn.LIB(5)]
        ),
        "b, 5",
        (5,),
    ),
    "one delay": (snn.Delay(5, 5, delay=2.0, delay_rank=0, delay_learnable=False), "b, 5", (5,)),
    "delays of images": (snn.Delay(2, 3, dim=-3), "b, 2, 4, 4", (2, 4, 4)),
    "delayed dense": (snn.Sequential([snn.DelayedDense(4, 6), snn.LIB(4)]), "b, 5", (5,)),
    "window": (snn.Sequential([snn.DelayedDense(4, 6, sigma=1.0), snn.LIB(4)]), "b, 5", (5,)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_stacks(name, tmp_path):
    cell, shape, features = MODELS[name]
    variables, xs = start(cell, *features)
    assert_same(export.onnx(cell, variables, shape, tmp_path / "it.onnx"), cell, variables, xs)


def test_the_page_on_deployment_runs(tmp_path, monkeypatch):
    make, run = pages.blocks(pages.read("how-to/deployment").partition("## ONNX")[2])
    monkeypatch.chdir(tmp_path)
    exec(make, {"__name__": "page"})
    names: dict = {}
    exec(run, names)
    assert list(names["carry"]) == [s.name for s in names["states"]]
    comment = re.search(r"# (carry.*)", run)[1]
    assert comment.split(", ") == list(names["carry"])
    assert names["y"].shape == (2, 3)


def test_as_it_was_trained(tmp_path):
    """An Unroll and its variables; and nothing is overwritten unasked."""
    cell = snn.Sequential([nn.Dense(4), snn.LIB(4)])
    model = snn.Unroll(cell)
    variables = model.init(KEY, jnp.ones((1, 1, 5)))
    path = export.onnx(model, variables, "b, 5", tmp_path / "it.onnx")
    own = {"params": variables["params"]["cell"]}
    assert_same(path, cell, own, start(cell, 5)[1])
    with pytest.raises(FileExistsError, match="`path` exists"):
        export.onnx(model, variables, "b, 5", path)
    with pytest.raises(TypeError, match="`model` must be a cell, or the Unroll of one"):
        export.onnx(nn.Dense(3), variables, "b, 5", path, overwrite=True)


def test_a_model_of_nnx(tmp_path):
    """Written as the linen model with the same values is."""
    rngs = fnnx.Rngs(0)
    model = nnx.Sequential(
        [
            fnnx.Linear(5, 4, rngs=rngs),
            nnx.Delay(4, 3),
            nnx.Recurrent(nnx.ASLIB(4), rngs=rngs),
            nnx.DelayedDense(4, 3, 5, rngs=rngs),
            nnx.LI(3),
        ]
    )
    delayed = [nn.Dense(4), snn.Delay(4, 3), snn.Recurrent(snn.ASLIB(4)), snn.DelayedDense(3, 5)]
    cell = snn.Sequential([*delayed, snn.LI(3)])
    path = export.onnx(model, "b, 5", tmp_path / "it.onnx")
    xs = 2 * jax.random.normal(KEY, (STEPS, BATCH, 5))
    assert_same(path, cell, nnx.to_linen(model), xs)


def test_the_example_runs():
    """Of `export.onnx`, which test_reference.py can't run without jax2onnx."""
    names = {"export": export, "jax": jax, "jnp": jnp, "pathlib": pathlib, "snn": snn}
    (example,) = doctest.DocTestFinder(recurse=False).find(
        export.onnx, globs={**names, "tempfile": tempfile}
    )
    assert example.examples and not doctest.DocTestRunner().run(example).failed
