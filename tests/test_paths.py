"""Where a parameter is, is spelt in one way in all of the library: as Flax spells it, with "/"."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx as fnnx
from jax.sharding import PartitionSpec as P

import tracetorch_jax as tt
from tracetorch_jax import (
    __main__,
    checkpoint,
    export,
    interop,
    metrics,
    nnx,
    sharding,
    snn,
    training,
)
from tracetorch_jax._shared import trees

XS = jnp.ones((2, 3, 4))
MODEL = snn.Unroll(snn.Sequential([nn.Dense(4), snn.LIB(4)]))
PLACE = "cell/layers_1"


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(jax.random.key(0), XS)


@pytest.fixture
def wide():
    """Variables of another model, in which the layer has another width."""
    return snn.Unroll(snn.Sequential([nn.Dense(5), snn.LIB(5)])).init(jax.random.key(0), XS)


def refusal(act, *args, **kwargs):
    with pytest.raises(ValueError) as caught:
        act(*args, **kwargs)
    return str(caught.value)


@pytest.mark.slow
def test_results_are_indexed_alike(variables):
    _, recordings = tt.record(MODEL, variables, XS)
    assert list(recordings) == [PLACE]
    assert [layer.path for layer in tt.diagnose(MODEL, variables, XS).layers] == [PLACE]
    assert list(metrics.synaptic_operations(MODEL, variables, XS)) == ["cell/layers_0"]
    for name, leaf in trees.leaves_by_name("variables", variables).items():
        assert functools.reduce(lambda tree, key: tree[key], name.split("/"), variables) is leaf


def test_errors_say_it_alike(variables, wide, tmp_path):
    path = checkpoint.save(tmp_path / "it", variables)
    unknown = {"params": {"cell": {"layers_1": {"raw_wrong": jnp.ones(3)}}}}
    mesh = jax.make_mesh((1,), ("data",))
    torch = interop.to_torch(variables, MODEL, XS)
    said = {
        "checkpoint": refusal(checkpoint.restore, path, wide),
        "names": refusal(trees.leaves_by_name, "x", {PLACE: 1, "cell": {"layers_1": 2}}),
        "rules": refusal(sharding.partition_specs, variables, {"layers_0": P()}),
        "specs": refusal(sharding.shardings, variables, mesh, P("other")),
        "training": refusal(training.parameter_labels, unknown),
        "nnx": refusal(
            nnx.from_linen,
            wide,
            nnx.Unroll(nnx.Sequential([fnnx.Linear(4, 4, rngs=fnnx.Rngs(0)), nnx.LIB(4)])),
        ),
        "to_torch": refusal(interop.to_torch, wide, MODEL, XS),
        "from_torch": refusal(interop.from_torch, torch, MODEL, XS, names={"1": "cell/layers_3"}),
    }
    for where, message in said.items():
        assert PLACE in message, (where, message)
        assert ".layers" not in message and "['layers" not in message, (where, message)


def test_listings_show_it_alike(variables, tmp_path, capsys):
    path = checkpoint.save(tmp_path / "it", variables)
    assert __main__.main(["info", str(path)]) == 0
    assert f"params/{PLACE}: LIB" in capsys.readouterr().out
    step = export.step(MODEL, variables, "b, 4")
    assert __main__.main(["info", str(export.save(tmp_path / "step", step))]) == 0
    assert "carry/layers_1/mem" in capsys.readouterr().out


def test_lists_and_names_are_keys_too():
    tree = {"a": [np.ones(1), (np.ones(2),)]}
    assert list(trees.leaves_by_name("tree", tree)) == ["a/0", "a/1/0"]
    assert list(trees.leaves_by_path(tree)) == [("a", "0"), ("a", "1", "0")]
    boxed = {"a": nn.Partitioned(np.ones(1), names=(None,))}
    assert list(trees.leaves_by_path(boxed)) == [("a",)]
