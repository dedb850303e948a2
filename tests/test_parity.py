"""Outputs, states and gradients of the 28 layers of traceTorch against its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from tracetorch_jax import snn
from tracetorch_jax.functional.equations import equations

FEW = reference.some(reference.TRACETORCH, reference.QUICK)
EACH = reference.each(reference.TRACETORCH)
EVERY = reference.each(reference.TRACETORCH, pytest.mark.slow)


def check(cases, dtype, *ways):
    """Cases in each of the ways to run them."""
    assert cases
    for case in cases:
        for way in ways:
            reference.check_case(case, way, dtype)


@pytest.mark.parametrize("layer", EVERY)
def test_matches_tracetorch_in_float64(layer, x64):
    check(reference.one_program(layer), "float64", "scan")


@pytest.mark.slow
@pytest.mark.parametrize("layer", reference.TRACETORCH)
def test_matches_tracetorch_on_other_axes_ranks_and_surrogates(layer, x64):
    others = {case.name for case in reference.one_program(layer)}
    check([c for c in reference.cases(layer) if c.name not in others], "float64", "scan")


@pytest.mark.slow
@pytest.mark.parametrize("layer", FEW)
def test_matches_tracetorch_step_by_step_and_under_flax_rnn(layer, x64):
    check(reference.cases(layer), "float64", "cell", "rnn")


@pytest.mark.slow
@pytest.mark.parametrize("layer", EACH)
def test_the_leaky_integrator_is_the_same_program(layer, x64):
    """Gradients included, to the letter."""
    for case in reference.cases(layer):
        named, flexible = (
            reference.through_unroll.lower(
                *reference.arguments(case, "float64", family), engine="scan"
            ).as_text()
            for family in (snn, snn.flex)
        )
        assert named == flexible, f"{layer}/{case.name}"


@pytest.mark.slow
@pytest.mark.parametrize("layer", EACH)
def test_matches_tracetorch_in_float32(layer):
    """Other axes and ranks are another matter than the type: float64 has them in every way."""
    check(reference.one_program(layer), "float32", "cell", "rnn")


@pytest.mark.optimised
@pytest.mark.slow
@pytest.mark.parametrize("layer", reference.some(reference.TRACETORCH, ("LI", "SLITS")))
def test_matches_tracetorch_in_float32_with_all_optimisations(layer):
    check(reference.cases(layer), "float32", "scan")


@pytest.mark.parametrize("layer", reference.each(reference.DUAL))
def test_outputs_and_states_do_not_depend_on_zero_split(layer, x64):
    """The default rule, whose gradients differ from the reference on purpose."""
    for case in reference.cases(layer):
        module, raw, carry, xs, *_ = reference.arguments(case, "float64")
        half = module.clone(zero_split="half")
        assert half == module.clone(zero_split="half") != module
        carries, out = reference.carries_of(half, raw, carry, xs[: case.info["T"]])
        step = case["x"].shape[1:]
        got = reference.crop(out, len(case["x"]), *step)
        reference.assert_close(got, case["out"], 1e-10, f"{layer}: out")
        for name, want in case.group("state/").items():
            got = np.stack([reference.crop(c[name], *step) for c in carries[1:]])
            reference.assert_close(got, want, 1e-10, f"{layer}: {name}")


@pytest.mark.parametrize("layer", EVERY)
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


@pytest.mark.parametrize("layer", reference.TRACETORCH)
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
