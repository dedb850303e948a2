"""Outputs, states and gradients of all layers against traceTorch's."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from tracetorch_jax import snn
from tracetorch_jax.functional.equations import equations


@pytest.fixture(autouse=True)
def _clear_after_each_layer():
    yield
    jax.clear_caches()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("layer", reference.LAYERS)
def test_matches_tracetorch(layer, dtype):
    """Every case through every way of running it: cell, Unroll, nn.RNN, and as LeakyIntegrator."""
    with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
        for case in reference.cases(layer):
            for way in reference.WAYS:
                reference.check_case(case, way, dtype)
            reference.check_case(case, "unroll", dtype, family=snn.flex)


@pytest.mark.parametrize("layer", reference.LAYERS)
def test_every_state_after_every_step(layer, x64):
    for case in reference.cases(layer):
        module = case.build(param_dtype=jnp.float64)
        raw = {f"raw_{name}": jnp.asarray(v) for name, v in case.group("raw/").items()}
        carry = {name: jnp.asarray(v) for name, v in case.group("init/").items()} or None
        carries = []
        reference.run_steps(module, raw, carry, jnp.asarray(case["x"]), record=carries)
        for name, want in case.group("state/").items():
            got = np.stack([carry[name] for carry in carries])
            reference.assert_close(got, want, 1e-10, f"{layer}/{case.name}: {name}")


@pytest.mark.parametrize("layer", reference.LAYERS)
@pytest.mark.parametrize("family", [snn, snn.flex], ids=["snn", "flex"])
def test_starts_from_the_reference_parameters(layer, family, x64):
    """Values given to the constructor, and the defaults, become traceTorch's raw parameters."""
    for case in reference.cases(layer):
        module = case.build(family, param_dtype=jnp.float64)
        x = jnp.asarray(case["x"][0])
        params = module.init(jax.random.key(0), None, x)["params"]
        want = case.group("raw/")
        assert set(params) == {f"raw_{name}" for name in want}
        for name, value in want.items():
            reference.assert_close(params[f"raw_{name}"], value, 1e-10, f"{layer}: {name}")
        values = module.apply({"params": params}, method="parameters")
        for name, value in case.group("param/").items():
            reference.assert_close(values[name], value, 1e-10, f"{layer}: {name}")


@pytest.mark.parametrize("layer", reference.LAYERS)
def test_documented_equations_compute_the_layer(layer):
    """The equations in a layer's docstring, executed line by line, give its outputs and states."""
    lines = equations(snn.ALL_LAYERS[layer](1).spec)
    for line in lines:
        assert f"\n    {line}\n" in snn.ALL_LAYERS[layer].__doc__
    program = compile("\n".join(lines), layer, "exec")
    functions = {
        "pos": lambda v: np.maximum(v, 0),
        "neg": lambda v: np.minimum(v, 0),
        "spike": lambda u: (u > 0).astype(float),
    }
    for case in reference.cases(layer):
        trailing = (1,) * (-case.info["dim"] - 1)
        params = {
            name: v.reshape(v.shape + trailing if v.ndim else ())
            for name, v in case.group("param/").items()
        }
        zeros = np.zeros(case["x"].shape[1:])
        state = case.group("init/") or dict.fromkeys(case.group("state/"), zeros)
        scope = {**functions, **params, **state}
        for t, x in enumerate(case["x"]):
            scope["x"] = x
            exec(program, scope)
            reference.assert_close(scope["out"], case["out"][t], 1e-12, f"{layer}: out")
            for name, want in case.group("state/").items():
                reference.assert_close(scope[name], want[t], 1e-12, f"{layer}: {name}")
