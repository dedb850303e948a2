"""What the pages on other libraries say besides the table, where these are installed: ``make
test-peers``, and for Spyx the environment of examples/benchmarks/README.md.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pages
import pytest
from generate.sessions import run, sessions

from tracetorch_jax import interop, snn
from tracetorch_jax.snn.flex import Decay, LeakyIntegrator, Weight


def needs(name):
    return pytest.importorskip(name, reason="see the docstring of this file")


def page(library):
    """Names that the page's sessions leave: their model, ours, and layers with the same numbers."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return [run(session, library) for session in sessions(pages.read(f"coming-from/{library}"))]


def in_tracetorch(net, xs):
    torch = needs("torch")
    for layer in net:
        if hasattr(layer, "zero_states"):
            layer.zero_states()
    return torch.stack([net(x) for x in xs]).mean(0)


MODELS = {
    "tracetorch": (in_tracetorch, True),
    "spikingjelly": (lambda net, xs: net(xs), False),
    "norse": (lambda net, xs: net(xs)[0].mean(0), False),
}


def kernels(net):
    """The two Dense layers of ours, of theirs in PyTorch."""
    dense = [m for m in net.modules() if type(m).__name__ == "Linear"]
    return [
        {"kernel": jnp.asarray(m.weight.detach().numpy().T), "bias": jnp.asarray(m.bias.detach())}
        for m in dense
    ], dense


@pytest.mark.parametrize("library", MODELS)
def test_the_two_models_side_by_side_are_the_same(library):
    """Logits and gradients of the weights, once ours has their weights."""
    torch = needs("torch")
    needs(library)
    theirs, ours, _ = page(library)
    run, batch_major = MODELS[library]
    if library == "spikingjelly":
        from spikingjelly.activation_based import functional

        functional.reset_net(theirs["net"])
    (first, second), modules = kernels(theirs["net"])
    logits = run(theirs["net"], theirs["xs"])
    grads = torch.autograd.grad(logits.square().sum(), [m.weight for m in modules])

    model, xs = ours["model"], jnp.asarray(theirs["xs"].numpy())
    xs = xs.swapaxes(0, 1) if batch_major else xs
    if library == "tracetorch":
        params = interop.from_torch(theirs["net"].state_dict(), model, xs)["params"]["cell"]
    else:
        params = ours["params"]["params"]["cell"] | {"layers_0": first, "layers_2": second}

    def loss(params):
        ys = model.apply({"params": {"cell": params}}, xs).mean(axis=1 if batch_major else 0)
        return (ys**2).sum(), ys

    ours_grads, ys = jax.grad(loss, has_aux=True)(params)
    np.testing.assert_allclose(ys, logits.detach().numpy(), rtol=1e-4, atol=1e-5)
    for name, grad in zip(("layers_0", "layers_2"), grads, strict=True):
        np.testing.assert_allclose(ours_grads[name]["kernel"], grad.T, rtol=1e-3, atol=1e-4)


def test_a_network_of_snntorch_is_run_with_the_same_numbers():
    needs("snntorch")
    theirs, _, same = page("snntorch")
    (first, second), _ = kernels(theirs["net"])
    model = snn.Unroll(
        snn.Sequential(
            [nn.Dense(32), same["leaky"](32, 0.9, 1.0), nn.Dense(2), same["leaky_membrane"](2, 0.9)]
        ),
        time_major=True,
    )
    xs = jnp.asarray(theirs["xs"].numpy())
    params = model.init(jax.random.key(0), xs)["params"]["cell"] | {
        "layers_0": first,
        "layers_2": second,
    }
    want = theirs["net"](theirs["xs"]).detach().numpy()
    ys = model.apply({"params": {"cell": params}}, xs)
    np.testing.assert_allclose(ys, want, rtol=1e-4, atol=1e-5)


def test_a_network_of_spyx_is_run_with_the_same_numbers():
    spyx = needs("spyx")
    theirs, _, same = page("spyx")
    net, xs = theirs["model"], theirs["xs"]
    want = spyx.nn.run(net, xs)[0].swapaxes(0, 1)

    def run(layer, xs):
        model = snn.Unroll(layer)
        return model.apply(model.init(jax.random.key(0), xs), xs)

    beta, readout = (float(net.layers[i].beta[...]) for i in (1, 3))
    hidden = run(same["lif"](32, beta, 1.0), net.layers[0](xs.swapaxes(0, 1)))
    ys = run(same["li"](2, readout), net.layers[2](same["one_step_later"](hidden)))
    np.testing.assert_allclose(ys, want, rtol=1e-4, atol=1e-5)


def test_snntorch_clips_beta_and_starts_from_zeros_for_another_shape():
    torch, snntorch = needs("torch"), needs("snntorch")
    leaky = snntorch.Leaky(beta=torch.tensor(1.3), learn_beta=True)
    _, mem = leaky(torch.full((1, 1), 0.25), torch.full((1, 1), 0.5))
    mem.sum().backward()
    assert mem.item() == 0.75 and leaky.beta.grad.item() == 0
    _, mem = leaky(torch.full((2, 1), 0.25))
    assert mem.tolist() == [[0.25], [0.25]]
    assert not [*snntorch.Leaky(beta=0.9).parameters()]


def test_tracetorch_keeps_states_and_emits_no_spikes():
    torch = needs("torch")
    layer = needs("tracetorch").snn.LIB(3)
    assert layer(torch.full((2, 3), 0.5))[0, 0].item() == pytest.approx(0.1192, abs=1e-4)
    with pytest.raises(RuntimeError, match="size"):
        layer(torch.ones(4, 3))
    layer.zero_states()
    layer(torch.ones(1, 3))
    assert layer(torch.ones(4, 3)).shape == (4, 3)
    backward_twice_fails(layer)


def backward_twice_fails(layer):
    torch = needs("torch")
    with pytest.raises(RuntimeError, match="second time"):
        for _ in range(2):
            layer(torch.ones(4, 3, requires_grad=True)).sum().backward()


def test_spikingjelly_keeps_states_and_learns_w_alone():
    torch = needs("torch")
    needs("spikingjelly")
    from spikingjelly.activation_based import neuron

    backward_twice_fails(neuron.LIFNode())
    assert not [*neuron.LIFNode().parameters()]
    ((name, w),) = neuron.ParametricLIFNode(4.0).named_parameters()
    layer = snn.LIB(1, beta=0.75)
    raw = layer.init(jax.random.key(0), None, jnp.ones((1, 1)))["params"]["raw_beta"]
    assert name == "w" and float(raw[0]) == pytest.approx(-w.item())
    assert isinstance(neuron.NonSpikingLIFNode()(torch.ones(2, 1, 1)), list)


def test_norse_leaks_to_a_bias_and_gives_the_current_after_its_decay():
    torch = needs("torch")
    norse = needs("norse.torch")
    from norse.torch.functional.leaky_integrator_box import LIBoxParameters

    xs = torch.randn(6, 2, 3)
    cell = norse.LIBoxCell(LIBoxParameters(torch.tensor(100.0), torch.tensor(0.5)))
    want, _ = norse.Lift(cell)(xs)
    layer = LeakyIntegrator(3, pos_beta=Decay(0.9), bias=Weight(0.5))
    model, xs = snn.Unroll(layer, time_major=True), jnp.asarray(xs.numpy())
    carry = {"mem": jnp.full((2, 3), 0.5)}
    ys = model.apply(model.init(jax.random.key(0), xs), xs, initial_carry=carry)
    np.testing.assert_allclose(ys, want.detach().numpy(), rtol=1e-5, atol=1e-6)

    _, state = norse.LIF()(torch.ones(1, 1, 1))
    assert state.i.item() == pytest.approx(1 - 0.001 * 200)
    assert not [*norse.LIF().parameters()]


def test_spyx_clips_beta_and_learns_it():
    spyx = needs("spyx")
    from flax import nnx

    layer = spyx.nn.LIF((1,), beta=1.3, rngs=nnx.Rngs(0))
    _, state = spyx.nn.run(layer, jnp.full((3, 1, 1), 0.25))
    assert state.item() == 0.75
    assert jnp.shape(nnx.state(layer, nnx.Param).beta[...]) == ()
    drawn = spyx.nn.LIF((500,), rngs=nnx.Rngs(0)).beta[...]
    assert abs(drawn.mean() - 0.5) < 0.1


def test_a_network_of_sparx_has_the_same_numbers_and_parameters():
    sparx = needs("sparx")
    theirs, ours, _ = page("sparx")
    params = theirs["params"]["params"]
    names = {"Dense_0": "layers_0", "LIF_0": "layers_1", "Dense_1": "layers_2", "LI_0": "layers_3"}
    own = {here: params[there] for there, here in names.items()}
    for name in ("layers_1", "layers_3"):
        own[name] = {"raw_beta": own[name]["decay"]}
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        want = theirs["model"].apply(theirs["params"], theirs["xs"])
        layer = sparx.nn.LIF(3.0, learn_tau=True).init(jax.random.key(0), jnp.zeros((1, 1, 2)))
    ys = ours["model"].apply({"params": {"cell": own}}, theirs["xs"])
    np.testing.assert_allclose(ys, want, rtol=1e-4, atol=1e-5)

    drawn = snn.LIB(2, beta=np.exp(-1 / 3.0)).init(jax.random.key(0), None, jnp.zeros((1, 2)))
    np.testing.assert_allclose(layer["params"]["decay"], drawn["params"]["raw_beta"], rtol=1e-5)
    assert not sparx.nn.LIF(3.0).init(jax.random.key(0), jnp.zeros((1, 1, 2)))


def test_sparx_keeps_states_if_asked_and_writes_a_reset_to_zero_alone():
    sparx = needs("sparx")
    needs("nir")
    layer, xs = sparx.nn.LIF(3.0), jnp.full((4, 1, 2), 0.75)
    ys, state = layer.apply({}, xs[:2], mutable="state")
    rest, _ = layer.apply(state, xs[2:], mutable="state")
    np.testing.assert_array_equal(jnp.concatenate([ys, rest]), layer.apply({}, xs))

    model = nn.Sequential([nn.Dense(2), layer])
    variables = model.init(jax.random.key(0), xs)
    with pytest.raises(NotImplementedError, match="reset='zero'"):
        sparx.nir.to_nir(model, variables, dt=1e-3)
    zero = nn.Sequential([nn.Dense(2), sparx.nn.LIF(3.0, reset="zero")])
    graph = sparx.nir.to_nir(zero, variables, dt=1e-3)
    read, _ = sparx.nir.from_nir(graph, dt=1e-3)
    assert read.layers[1].reset == "zero"


def test_jaxpike_writes_a_reset_to_zero_alone():
    jaxpike = needs("jaxpike")
    needs("nir")
    from jaxpike import nir

    for reset in ("subtract", "zero"):
        net = jaxpike.Sequential(
            jaxpike.Dense(3, 2, key=jax.random.key(0)), jaxpike.LIF(5.0, reset=reset)
        )
        if reset == "subtract":
            with pytest.raises(nir.NIRConversionError, match="subtract"):
                nir.to_nir(net, (1, 3), dt_seconds=1e-3)
        else:
            read = nir.from_nir(nir.to_nir(net, (1, 3), dt_seconds=1e-3), dt_seconds=1e-3)
            assert read.layers[1].reset == "zero"
