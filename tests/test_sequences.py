"""Step by step, Unroll, nn.RNN and chunks are one computation; parameters have one place."""

import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from tracetorch_jax import snn

EACH_LAYER = pytest.mark.parametrize("name", reference.EACH)
KEY = jax.random.key(0)


def by_steps(layer, variables, xs, carry=None):
    """[B, T, N] one step at a time."""
    carry = layer.initialize_carry(None, xs[:, 0].shape) if carry is None else carry
    ys = []
    for t in range(xs.shape[1]):
        carry, y = layer.apply(variables, carry, xs[:, t])
        ys.append(y)
    return carry, jnp.stack(ys, 1)


def by_unroll(layer, variables, xs, carry=None, **options):
    model = snn.Unroll(layer, return_carry=True, **options)
    return model.apply(reference.under(variables), xs, carry)


def by_rnn(layer, variables, xs):
    return nn.RNN(layer, return_carry=True).apply(reference.under(variables), xs)


def by_chunks(layer, variables, xs):
    carry, first = by_unroll(layer, variables, xs[:, :2])
    carry, rest = by_unroll(layer, variables, xs[:, 2:], carry)
    return carry, jnp.concatenate([first, rest], 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", reference.FEW)
def test_every_way_over_a_sequence_agrees(name):
    """Values and gradients: steps, Unroll with each option, nn.RNN, and chunks."""
    layer, variables = reference.scrambled(name)
    xs = reference.inputs(2, 3, 3) * 3

    @jax.jit
    def everything(variables, xs):
        ways = [
            by_steps,
            by_unroll,
            by_rnn,
            by_chunks,
            lambda *args: by_unroll(*args, unroll=2),
            lambda *args: by_unroll(*args, checkpoint_every=2),
        ]
        return [
            reference.value_and_grads(lambda v, xs, way=way: way(layer, v, xs), variables, xs)
            for way in ways
        ]

    first, *others = everything(variables, xs)
    (_, ys), (d_variables, _) = first
    if name in reference.FIRING:
        assert float(jnp.abs(ys).sum()) > 0
    for parameter, gradient in d_variables["params"].items():
        # A binary layer has no negative output, so its negative recurrent half is never at work.
        idle = name.endswith("B") and parameter in ("raw_neg_gamma", "raw_neg_rec_weight")
        assert (float(jnp.abs(gradient).sum()) > 0) != idle, parameter
    for other in others:
        reference.assert_trees_close(other, first, 2e-5)


@EACH_LAYER
def test_parameters_have_one_place(name):
    layer, xs = snn.ALL_LAYERS[name](3), jnp.ones((2, 4, 3))
    key = jax.random.key(0)
    want = nn.RNN(layer).init(key, xs)
    for options in (
        {}, {"engine": "scan"}, {"unroll": 2}, {"checkpoint_every": 2}, {"reverse": True},
    ):  # fmt: skip
        got = jax.eval_shape(snn.Unroll(layer, **options).init, key, xs)
        assert jax.tree.structure(got) == jax.tree.structure(want)
    time_major = snn.Unroll(layer, time_major=True).init(key, jnp.ones((4, 2, 3)))
    remat = snn.Unroll(nn.remat(type(layer))(3)).init(key, xs)
    for got in (time_major, remat):
        reference.assert_trees_close(got, want, 0)
    assert set(want["params"]["cell"]) == {f"raw_{p}" for p in layer.spec.parameters}


@EACH_LAYER
def test_no_state_survives_a_call(name):
    layer, variables = reference.scrambled(name)
    xs = reference.inputs(2, 4, 3)
    first = by_unroll(layer, variables, xs)
    by_unroll(layer, variables, xs * 5)
    reference.assert_trees_close(by_unroll(layer, variables, xs), first, 0)


@EACH_LAYER
def test_time_major_is_a_transpose(name):
    layer, variables = reference.scrambled(name)
    xs = reference.inputs(2, 4, 3)
    want = snn.Unroll(layer).apply(reference.under(variables), xs)
    got = snn.Unroll(layer, time_major=True).apply(
        reference.under(variables), jnp.swapaxes(xs, 0, 1)
    )
    np.testing.assert_array_equal(jnp.swapaxes(got, 0, 1), want)


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("keep_order", [False, True])
@pytest.mark.parametrize("lengths", [None, [5, 2, 1]])
def test_options_mean_what_they_mean_in_flax(reverse, keep_order, lengths):
    layer, variables = reference.scrambled("SRLITS")
    xs = reference.inputs(3, 5, 3)
    options = {"reverse": reverse, "keep_order": keep_order, "return_carry": True}
    lengths = None if lengths is None else jnp.array(lengths)
    with jax.numpy_rank_promotion("allow"):  # Flax's own reversal relies on it
        want = nn.RNN(layer, **options).apply(reference.under(variables), xs, seq_lengths=lengths)
    got = snn.Unroll(layer, **options).apply(reference.under(variables), xs, seq_lengths=lengths)
    called = snn.Unroll(layer).apply(reference.under(variables), xs, seq_lengths=lengths, **options)
    reference.assert_trees_close(called, got, 0)
    reference.assert_trees_close(got[0], want[0], 1e-6)
    for b, n in enumerate([5, 5, 5] if lengths is None else lengths):
        np.testing.assert_allclose(got[1][b, :n], want[1][b, :n], atol=1e-6)
        assert float(jnp.abs(got[1][b, n:]).sum()) == 0


def test_a_call_can_switch_off_what_was_set():
    layer, variables = reference.scrambled("SRLIT")
    xs, variables = reference.inputs(3, 3, 3), reference.under(variables)
    want = snn.Unroll(layer).apply(variables, xs)
    options = ("time_major", "reverse", "keep_order", "return_carry")
    model = snn.Unroll(layer, **dict.fromkeys(options, True))
    got = model.apply(variables, xs, **dict.fromkeys(options, False))
    np.testing.assert_array_equal(got, want)


def test_a_cell_that_starts_from_a_random_carry():
    cell, xs = nn.GRUCell(3, carry_init=nn.initializers.normal()), reference.inputs(2, 4, 3)
    variables = snn.Unroll(cell).init(KEY, xs)
    for seed in (1, 2):
        key = jax.random.key(seed)
        got = snn.Unroll(cell).apply(variables, xs, init_key=key)
        start = cell.initialize_carry(key, (2, 3))
        np.testing.assert_array_equal(got, snn.Unroll(cell).apply(variables, xs, start))


class Dropping(nn.RNNCellBase):
    """A cell of one's own that draws random numbers and sows."""

    @nn.compact
    def __call__(self, carry, x):
        y = nn.Dropout(0.5, deterministic=False)(x)
        self.sow("intermediates", "dropped", y)
        return carry + 1, y

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros(input_shape)

    @property
    def num_feature_axes(self):
        return 1


def test_a_cell_that_draws_and_sows():
    xs = jnp.ones((1, 4, 50))
    rngs = {"dropout": KEY}
    ys, changed = snn.Unroll(Dropping()).apply({}, xs, rngs=rngs, mutable=["intermediates"])
    assert len(np.unique(np.asarray(ys[0]), axis=0)) == 4  # steps differ
    (sown,) = changed["intermediates"]["cell"]["dropped"]
    np.testing.assert_array_equal(jnp.swapaxes(sown, 0, 1), ys)


def test_whole_numbers_in_the_padding_change_nothing():
    """Not even those that are infinite in the type that is computed in."""
    layer = snn.LIB(3, dtype="float16", param_dtype="float16")
    model, lengths = snn.Unroll(layer), jnp.array([4, 2])
    xs = jnp.ones((2, 4, 3), jnp.int32)
    variables = model.init(KEY, xs)

    def gradients(xs):
        run = jax.value_and_grad(lambda v: model.apply(v, xs, seq_lengths=lengths).sum())
        return run(variables)

    reference.assert_trees_close(gradients(xs.at[1, 2:].set(10**9)), gradients(xs), 0)


def equations_of(jaxpr):
    """Every equation of a program, those of the programs in it included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns")):
            yield from equations_of(inner) if hasattr(inner, "eqns") else ()


@pytest.mark.parametrize(
    ("layers", "more"),
    [
        ([snn.LIB(2)], 1),
        ([snn.LIB(2), snn.SLIB(2), snn.LI(2)], 3),
        (
            [
                nn.Dense(2, use_bias=False),
                snn.LIB(2),
                nn.Dropout(0.5, deterministic=True),
                snn.LI(2),
            ],
            4,
        ),
        ([nn.Dense(2), snn.LIB(2), jax.nn.relu, snn.LI(2)], 4),
        ([snn.LIB(2), snn.Residual([snn.Sequential([snn.LIB(2), nn.Dense(2)]), snn.LI(2)])], 4),
        ([snn.LIB(2), nn.SimpleCell(2)], 1),  # that masks its outputs step by step
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_mask_is_made_once_and_applied_to_each_output(layers, more, reverse):
    """And to the input."""
    model = snn.Unroll(snn.Sequential(layers, feature_axes=1), reverse=reverse, keep_order=reverse)
    xs = reference.inputs(3, 7, 2)

    def counts(lengths):
        program = jax.make_jaxpr(lambda xs, n: model.init_with_output(KEY, xs, seq_lengths=n)[0])
        found = [
            (equation.primitive.name, out.aval.shape)
            for equation in equations_of(program(xs, lengths).jaxpr)
            for out in equation.outvars
        ]
        return np.array([found.count(("lt", (7, 3))), found.count(("select_n", (7, 3, 2)))])

    made, applied = counts(jnp.array([7, 2, 0])) - counts(None)
    assert (made, applied) == (1, 1 + more)


def unit(x):
    """Has no derivative at 0."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Dense(3, use_bias=False), unit, snn.LI(3)],
        lambda: [snn.Residual([nn.Dense(2, use_bias=False)]), unit, snn.LI(2)],
        lambda: [nn.Dense(3, use_bias=False), snn.Sequential([unit, snn.LI(3)])],
    ],
)
def test_no_gradient_comes_from_padding_where_a_function_has_none(layers):
    model = snn.Unroll(snn.Sequential(layers(), feature_axes=1))
    xs, lengths = reference.inputs(2, 5, 2) + 2.0, jnp.array([5, 3])
    variables = model.init(KEY, xs)

    def loss(variables, xs, lengths=None):
        return (model.apply(variables, xs, seq_lengths=lengths) ** 2).sum()

    got = jax.grad(loss)(variables, xs, lengths)
    each = [jax.grad(loss)(variables, xs[i : i + 1, :n]) for i, n in enumerate((5, 3))]
    reference.assert_trees_close(got, jax.tree.map(jnp.add, *each))


@EACH_LAYER
def test_padding_changes_neither_values_nor_gradients(name):
    layer, variables = reference.scrambled(name)
    xs, lengths = reference.inputs(3, 5, 3), jnp.array([5, 2, 0])
    inside = (jnp.arange(5)[None] < lengths[:, None])[..., None]

    @jax.jit
    def run(variables, xs):
        return reference.value_and_grads(
            lambda v, xs: snn.Unroll(layer, return_carry=True).apply(
                reference.under(v), xs, seq_lengths=lengths
            ),
            variables, xs,
        )  # fmt: skip

    clean = run(variables, jnp.where(inside, xs, 0.0))
    dirty = run(variables, jnp.where(inside, xs, jnp.nan))
    reference.assert_trees_close(dirty, clean, 0)
    (carry, ys), (_, d_xs) = dirty
    assert float(jnp.abs(jnp.where(inside, 0.0, ys)).max()) == 0
    assert float(jnp.abs(jnp.where(inside, 0.0, d_xs)).max()) == 0
    for state in carry.values():
        assert float(jnp.abs(state[2]).max()) == 0
    short, _ = by_unroll(layer, variables, xs[1:2, :2])
    reference.assert_trees_close(jax.tree.map(lambda s: s[1:2], carry), short, 1e-6)


@EACH_LAYER
def test_empty_and_single(name):
    layer, variables = reference.scrambled(name)
    model = snn.Unroll(layer, return_carry=True)
    for shape in ((2, 0, 3), (0, 4, 3), (0, 3), (2, 1, 3)):
        carry, ys = model.apply(reference.under(variables), jnp.ones(shape))
        assert ys.shape == shape
        batch = shape[:1] if len(shape) == 3 else ()
        assert all(state.shape == (*batch, 3) for state in carry.values())
    _, one = model.apply(reference.under(variables), jnp.ones((2, 1, 3)))
    np.testing.assert_allclose(
        one[:, 0], layer.apply(variables, None, jnp.ones((2, 3)))[1], atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"checkpoint_every": 1},
        {"unroll": 2, "reverse": True, "keep_order": True},
        {"engine": "fused"},
        {"engine": "parallel"},
    ],
    ids=str,
)
def test_no_steps_give_no_gradient(options):
    """Whatever runs them: the state stays, and so does its gradient; others are 0."""
    xs, lengths = jnp.ones((2, 0, 3)), jnp.zeros(2, int)
    cell, variables = reference.scrambled("DSRLITS")
    stack = snn.Sequential([nn.Dense(3), snn.SLIB(3), lambda x: 2 * x, snn.Residual([snn.SLI(3)])])
    other = nn.GRUCell(3)
    in_stack = reference.inner(snn.Unroll(stack).init(KEY, jnp.ones((2, 1, 3))))
    in_other = reference.inner(snn.Unroll(other).init(KEY, jnp.ones((2, 1, 3))))
    cells = [(cell, variables), (stack, in_stack)]
    if options.keys() <= {"reverse", "keep_order", "unroll"}:
        cells.append((other, in_other))
    for cell, inner in cells:
        model, under = snn.Unroll(cell, return_carry=True, **options), reference.under(inner)
        carry = jax.tree.map(jnp.ones_like, cell.initialize_carry(KEY, (2, 3)))
        for seq_lengths in (None, lengths):

            def run(variables, carry, xs, model=model, seq_lengths=seq_lengths):
                return model.apply(variables, xs, carry, seq_lengths=seq_lengths)

            (last, ys), pullback = jax.vjp(run, under, carry, xs)
            assert ys.shape == (2, 0, 3)
            reference.assert_trees_close(last, carry, 0)
            got = pullback((carry, ys))
            want = jax.tree.map(jnp.zeros_like, under), carry, xs
            reference.assert_trees_close(got, want, 0)


@EACH_LAYER
def test_without_a_batch_axis(name):
    layer, variables = reference.scrambled(name)
    xs = reference.inputs(2, 4, 3)
    carry, ys = by_unroll(layer, variables, xs)
    for b in range(2):
        carry_b, ys_b = by_unroll(layer, variables, xs[b])
        np.testing.assert_allclose(ys_b, ys[b], atol=1e-6)
        reference.assert_trees_close(carry_b, jax.tree.map(lambda s, b=b: s[b], carry), 1e-6)
    short = snn.Unroll(layer).apply(reference.under(variables), xs[0], seq_lengths=jnp.array(2))
    np.testing.assert_allclose(short[:2], ys[0, :2], atol=1e-6)
    assert float(jnp.abs(short[2:]).sum()) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "step"), [(-3, (3, 2, 4)), (-4, (3, 2, 2, 2)), (-2, (3, 5))])
@pytest.mark.parametrize("name", ["LI", "DSRLITS"])
def test_other_axes_for_the_neurons(name, dim, step):
    """`dim` gives what moving the axis to the end gives, and compiles to no transpose."""
    layer, variables = reference.scrambled(name, dim=dim)
    last, _ = reference.scrambled(name)
    xs = reference.inputs(2, 4, *step)
    got = snn.Unroll(layer, time_major=True).apply(reference.under(variables), xs)
    want = snn.Unroll(last, time_major=True).apply(
        reference.under(variables), jnp.moveaxis(xs, dim, -1)
    )
    np.testing.assert_allclose(got, jnp.moveaxis(want, -1, dim), atol=1e-6)
    batch_major = snn.Unroll(layer).apply(reference.under(variables), jnp.swapaxes(xs, 0, 1))
    np.testing.assert_allclose(jnp.swapaxes(batch_major, 0, 1), got, atol=1e-6)

    run = snn.Unroll(layer, time_major=True).apply
    jaxpr = jax.make_jaxpr(run)(reference.under(variables), xs)
    assert "transpose" not in str(jaxpr)
    step_jaxpr = jax.make_jaxpr(layer.apply)(variables, None, xs[0])
    assert "transpose" not in str(step_jaxpr)


def test_channels_last_images():
    """[B, T, H, W, C] with the neurons at the end: time is the second axis."""
    layer, variables = reference.scrambled("LIB")
    xs = reference.inputs(2, 6, 4, 5, 3)
    got = snn.Unroll(layer).apply(reference.under(variables), xs)
    want = snn.Unroll(layer, time_major=True).apply(
        reference.under(variables), jnp.swapaxes(xs, 0, 1)
    )
    np.testing.assert_array_equal(got, jnp.swapaxes(want, 0, 1))


@pytest.mark.parametrize("name", ["LIB", "DSRLITS"])
def test_compiles_once_and_independently_of_time(name):
    layer, variables = reference.scrambled(name)
    traced = []

    @jax.jit
    def run(variables, xs):
        traced.append(xs.shape)
        return snn.Unroll(layer).apply(reference.under(variables), xs)

    for seed in range(3):
        run(variables, reference.inputs(2, 4, 3, seed=seed))
    assert len(traced) == 1
    sizes = {
        len(run.lower(variables, jnp.ones((2, steps, 3))).as_text().splitlines())
        for steps in (10, 1000)
    }
    assert len(sizes) == 1


def test_calls_outside_jit_share_a_program():
    """A second eager call, by an equal layer with other parameters, compiles nothing."""
    xs = jnp.ones((2, 4, 3))

    def call(seed):
        layer, variables = reference.scrambled("SLIB", seed=seed)
        return snn.Unroll(layer).apply(reference.under(variables), xs)

    call(0)
    messages, logger = [], logging.getLogger("jax")
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    try:
        with jax.log_compiles(True):
            call(1)
            assert not [message for message in messages if "Compiling" in message]
            jax.jit(lambda x: x + 1)(xs)
            assert [message for message in messages if "Compiling" in message]
    finally:
        logger.removeHandler(handler)


class TestUnrollErrors:
    @pytest.mark.parametrize(
        ("cell", "kwargs", "error", "words"),
        [
            (nn.Dense(3), {}, TypeError, "`cell` must be a cell"),
            (3, {}, TypeError, "`cell` must be a cell"),
            (snn.LI(3), {"engine": "fast"}, ValueError, "`engine` must be one of 'auto'"),
        ],
    )
    def test_constructor(self, cell, kwargs, error, words):
        with pytest.raises(error, match=words):
            snn.Unroll(cell, **kwargs)

    @pytest.mark.parametrize("engine", ["fused", "parallel"])
    def test_other_cells_have_no_such_engine(self, engine):
        model = snn.Unroll(nn.GRUCell(3), engine=engine)
        with pytest.raises(ValueError, match=f"`engine` '{engine}' is for trace layers; GRUCell"):
            model.init(jax.random.key(0), jnp.ones((2, 4, 3)))

    def test_time_is_needed(self):
        with pytest.raises(ValueError, match="`xs` must have a time axis"):
            snn.Unroll(snn.LI(3)).init(jax.random.key(0), jnp.ones(3))
        with pytest.raises(ValueError, match="`xs` must have a time axis"):
            snn.Unroll(snn.LI(3, dim=-3)).init(jax.random.key(0), jnp.ones((3, 4, 4)))

    @pytest.mark.parametrize(
        ("lengths", "error", "words"),
        [
            (jnp.array([1, 2, 3]), ValueError, r"shape \(2,\); got shape \(3,\)"),
            (jnp.array([[1], [2]]), ValueError, r"got shape \(2, 1\)"),
            (jnp.array(2), ValueError, r"got shape \(\)"),
            (jnp.array([1.0, 2.0]), TypeError, "must be integers; got dtype float32"),
            (jnp.array([1, 5]), ValueError, "between 0 and T = 4; got 5"),
            (jnp.array([-1, 2]), ValueError, "between 0 and T = 4; got -1"),
        ],
        ids=str,
    )
    def test_seq_lengths(self, lengths, error, words):
        for cell in (snn.LI(3), nn.GRUCell(3), snn.Sequential([nn.Dense(3), snn.LI(3)])):
            with pytest.raises(error, match=words):
                snn.Unroll(cell).init(jax.random.key(0), jnp.ones((2, 4, 3)), seq_lengths=lengths)
