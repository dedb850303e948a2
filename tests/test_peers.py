"""Each row of the table of other libraries' neurons is what they compute, and so is what it says
of ours.

Runs without these libraries, on what they gave (`data/peers`, by make_peer_vectors.py). Where one
is installed it is run again: ``make test-peers`` does that.
"""

import dataclasses
import inspect
import json
import re

import jax
import jax.numpy as jnp
import make_peer_vectors
import numpy as np
import pages
import peer_neurons
import peers
import pytest
from generate.sessions import code, run, sessions

from tracetorch_jax import snn, spikes

KEYS = ["y", "v", "grad", "again", "resumed"]
OTHERS = [row.key for row in peers.ROWS.values() if row.package != "tracetorch_jax"]
COUNTERPARTS = [key for key in OTHERS if peers.ROWS[key].here]
OURS = [key for key in peers.ROWS if key not in OTHERS]
FILES = {library: np.load(peers.FOLDER / f"{library}.npz") for library in peers.SURROGATES}
# The spikes are exact; the rest is computed in float32.
CLOSE = {"rtol": 1e-5, "atol": 5e-6}


def stored(row):
    """What a library gave, by name, and the row with the arguments that it was given."""
    file, prefix = FILES[row.package], f"{row.name}/"
    found = {name.removeprefix(prefix): file[name] for name in file if name.startswith(prefix)}
    arguments = json.loads(str(found.pop("arguments")))
    assert arguments == pytest.approx(row.arguments)
    return found, dataclasses.replace(row, arguments=arguments)


def alike(got, want):
    """Whether two sets of results are the same, spikes exactly."""
    if not all((name in got) == (name in want) for name in KEYS):
        return False
    return all(np.allclose(got[name], want[name], **CLOSE) for name in KEYS if name in want)


@pytest.mark.parametrize("name", peers.TABLES)
def test_the_page_has_the_tables(name):
    assert peers.written(name, peers.PAGE.read_text()) == getattr(peers, name)()


@pytest.mark.parametrize("key", OTHERS)
def test_a_row_computes_what_the_library_gave(key):
    want, row = stored(peers.ROWS[key])
    got = peer_neurons.simulate(row, want["x"], want["w"])
    assert alike(got, want)
    if row.fires in (">", ">="):
        assert set(np.unique(want["y"])) == {0, 1}
        assert (got["u"] == 0).any()  # or nothing would tell the two apart


@pytest.mark.parametrize("key", OTHERS)
def test_a_row_with_one_column_changed_does_not(key):
    want, row = stored(peers.ROWS[key])
    columns = set()
    for column, other in peer_neurons.changed(row):
        assert not alike(peer_neurons.simulate(other, want["x"], want["w"]), want), (column, other)
        columns.add(column)
    described = {"current", "arrives", "decay", "factor", "state", "sequences"}
    if row.fires is not None:
        described |= {"fires", "decided", "reset", "surrogate"}
        described |= {"when", "gradient"} if row.reset != "none" else set()
        described |= {"adapts", "threshold"} if row.adapts else set()
    assert columns == described


@pytest.mark.parametrize("library", peers.SURROGATES)
def test_the_files_are_of_the_versions_in_the_table(library):
    versions = json.loads(str(FILES[library]["versions"]))
    assert peers.LIBRARIES[library].split()[1] == versions[library]


@pytest.mark.parametrize("formula, here", sorted({row.surrogate for row in peers.ROWS.values()}))
def test_the_formula_of_a_surrogate_is_that_of_ours(formula, here):
    u = make_peer_vectors.GRID
    want = eval(here, vars(spikes)).derivative(u)
    np.testing.assert_allclose(peer_neurons.evaluate(formula, u=u), want, rtol=1e-5)


CHOICES = [
    *(spikes.atan(alpha) for alpha in (0.5, 1.0, 2.0, 4.0)),
    *(spikes.sigmoid(slope) for slope in (1.0, 2.0, 4.0, 8.0)),
    *(spikes.fast_sigmoid(slope) for slope in (0.5, 1.0, 2.0, 4.0)),
    *(spikes.triangular(width) for width in (0.5, 1.0, 2.0)),
    *(spikes.gaussian(width) for width in (0.25, 0.5, 1.0)),
    *(spikes.straight_through(width) for width in (0.5, 1.0, 2.0)),
]


@pytest.mark.parametrize(
    "library, there, here",
    [
        (library, there, here)
        for library, rows in peers.SURROGATES.items()
        for there, _, here in rows
    ],
)
def test_a_surrogate_is_the_one_named(library, there, here):
    want, u = FILES[library][f"derivative/{there}"], make_peer_vectors.GRID
    if here is None:
        assert not any(np.allclose(f.derivative(u), want, rtol=0.02) for f in CHOICES)
    else:
        derivative = eval(here, vars(spikes)).derivative(u)
        np.testing.assert_allclose(derivative, want, rtol=1e-5)


def results(model, x, w, late=0):
    """Outputs ``[B, T, N]``, some steps late, and the gradient of ``sum(w * y)``."""
    variables = model.init(jax.random.key(0), x)

    @jax.jit
    def run(x):
        def loss(x):
            y = model.apply(variables, x)
            y = jnp.pad(y, ((0, 0), (late, 0), (0, 0)))[:, : y.shape[1]]
            return (w * y).sum(), y

        return jax.grad(loss, has_aux=True)(x)

    grad, y = run(x)
    return np.asarray(y), np.asarray(grad)


def cell(row):
    """Our layer, by the code of the library's page."""
    for session in sessions(pages.read(f"coming-from/{row.package}")):
        if re.search(rf"^def {row.here}\(", code(session), re.M):
            make = run(session, row.package)[row.here]
            wanted = inspect.signature(make).parameters.keys() & row.arguments.keys()
            return make(make_peer_vectors.N, **{name: row.arguments[name] for name in wanted})
    raise LookupError(f"no `{row.here}` on the page of {row.package}")


@pytest.mark.slow
@pytest.mark.parametrize("key", COUNTERPARTS)
def test_our_layer_gives_the_numbers_of_the_library(key):
    """And differs where the table says that it does."""
    want, row = stored(peers.ROWS[key])
    u = peer_neurons.simulate(row, want["x"], want["w"])["u"]
    want = {name: as_ours(row, array) for name, array in {**want, "u": u}.items()}
    if not row.fires:  # the membrane is what it gives
        want["y"] = want["v"]
    model = snn.Unroll(cell(row))
    y, grad = results(model, jnp.asarray(want["x"]), jnp.asarray(want["w"]), row.late)

    def sequences(condition):
        return np.broadcast_to(np.any(condition, axis=1, keepdims=True), y.shape)

    unlike = sequences(
        np.broadcast_to(peer_neurons.evaluate(row.unless, row.arguments, u=want["u"]), y.shape)
    )
    # Our parameters are rounded, as they are stored raw: on the threshold that decides.
    close = sequences(abs(want["u"]) < 1e-4) if row.fires else np.zeros_like(unlike)
    same = ~(unlike | close)
    assert same.mean() > 0.3
    assert np.allclose(y[same], want["y"][same], **CLOSE)
    assert unlike.any() == (row.unless != "False")
    assert not unlike.any() or not np.allclose(y[unlike], want["y"][unlike], **CLOSE)
    if row.fires or row.reset != "none":
        assert np.allclose(grad[same], want["grad"][same], **CLOSE) == (row.same == "all")


def as_ours(row, array):
    """``[B, T, N]``."""
    return array if row.sequences == "[B, T, N]" else array.swapaxes(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("key", OURS)
def test_our_rows_are_what_our_layers_compute(key):
    row = peers.ROWS[key]
    x, w = (as_ours(peers.ROWS[OTHERS[0]], a) for a in make_peer_vectors.inputs())
    want = peer_neurons.simulate(row, x, w)
    layer = eval(row.make, {"snn": snn, "N": make_peer_vectors.N, **row.arguments})
    layer = layer.clone(**{f"{name}_learnable": False for name in row.arguments})  # not rounded
    y, grad = results(snn.Unroll(layer), jnp.asarray(x), jnp.asarray(w))

    variables = snn.Unroll(layer).init(jax.random.key(0), x)
    cell = {name: value["cell"] for name, value in variables.items()}
    step, carry, vs = jax.jit(layer.apply), None, []
    for t in range(x.shape[1]):
        carry, _ = step(cell, carry, x[:, t])
        vs.append(carry["mem"])
    again = snn.Unroll(layer).apply(variables, x)
    resumed = snn.Unroll(layer).apply(variables, x, initial_carry=carry)
    v = np.stack(vs, axis=1)
    found = {"y": y, "v": v, "grad": grad, "again": again, "resumed": resumed}
    assert alike(found, want)
    for column, other in peer_neurons.changed(row):
        assert not alike(found, peer_neurons.simulate(other, x, w)), column


def test_recurrence_between_neurons_is_that_of_sparx():
    """Spikes, and the gradients of the input and of the matrix."""
    file, row = FILES["sparx"], peers.ROWS["sparx.LIF"]
    want = {name: file[f"recurrent/{name}"] for name in ("kernel", "x", "w", "y")}
    page = sessions(pages.read("coming-from/sparx"))
    (session,) = (each for each in page if "def recurrent" in code(each))
    layer = run(session, "sparx")["recurrent"](make_peer_vectors.N, **row.arguments)
    model = snn.Unroll(layer, time_major=True)
    params = model.init(jax.random.key(0), want["x"])["params"]

    def loss(kernel, xs):
        own = {"cell": params["cell"] | {"feedback": {"kernel": kernel}}}
        ys = model.apply({"params": own}, xs)
        return (want["w"] * ys).sum(), ys

    grads, ys = jax.grad(loss, (0, 1), has_aux=True)(want["kernel"], want["x"])
    np.testing.assert_array_equal(ys, want["y"])
    for got, name in zip(grads, ("grad_kernel", "grad"), strict=True):
        np.testing.assert_allclose(got, file[f"recurrent/{name}"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key", OTHERS)
def test_the_library_still_gives_that(key):
    row = peers.ROWS[key]
    pytest.importorskip(row.package, reason="see the docstring of this file")
    want, _ = stored(row)
    got = make_peer_vectors.run(row)
    got.pop("arguments")
    assert got.keys() == want.keys()
    assert alike(got, want)


@pytest.mark.parametrize("library", peers.SURROGATES)
def test_its_surrogates_still_do(library):
    pytest.importorskip(library, reason="see the docstring of this file")
    for there, expression, _ in peers.SURROGATES[library]:
        with jax.numpy_dtype_promotion("standard"):
            got = make_peer_vectors.derivative(library, expression or there)
        np.testing.assert_allclose(got, FILES[library][f"derivative/{there}"], rtol=1e-5)
