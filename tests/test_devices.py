"""Many devices: virtual ones, and real processes; and names of parameters as places on a mesh."""

import os
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from tracetorch_jax import sharding, snn

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize("which", ["layers_equal", "not layers_equal"])
def test_on_eight_devices(which):
    """In a process of its own, since devices are counted when JAX starts."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         "tests/eight_devices.py", "-k", which, "--durations=5"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def variables():
    model = snn.Unroll(snn.Sequential([nn.Dense(8), snn.SLIB(8, beta_rank=0)]))
    return model.init(jax.random.key(0), jnp.ones((2, 3, 4)))


def test_the_first_rule_that_fits_counts():
    rules = {"alpha": P(), "raw_": P("model"), "kernel$": P(None, "model"), "bias$": P("model")}
    specs = sharding.partition_specs(variables(), rules)["params"]["cell"]
    assert specs["layers_0"] == {"kernel": P(None, "model"), "bias": P("model")}
    assert specs["layers_1"] == {
        "raw_alpha": P(), "raw_beta": P(), "raw_threshold": P("model"),  # beta has no axes
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        ({"raw_": P("model")}, ValueError, r"none matches params/cell/layers_0/bias of shape \(8"),
        ({"": P("a", "b")}, ValueError, r"'' gives P.*\('a', 'b'\) to params/cell/layers_0/bias"),
        ({"(": P()}, ValueError, r"`rules` must have regular expressions as keys; got '\('"),
        ({"raw_": "model"}, TypeError, r"`rules\['raw_'\]` must be a .*PartitionSpec; got 'model'"),
        ([("raw_", P())], TypeError, "`rules` must be a dict from patterns .*; got list"),
    ],
)
def test_rules_that_do_not_fit(rules, error, message):
    with pytest.raises(error, match=message):
        sharding.partition_specs(variables(), rules)


def test_flax_knows_where_its_boxes_belong():
    """Parameters boxed by their initializers, as Flax has it."""

    def half_lives(key, shape, dtype):
        return jnp.full(shape, 0.5, dtype)

    layer = snn.LIB(8, beta=nn.with_partitioning(half_lives, ("model",)))
    boxed = layer.init(jax.random.key(0), None, jnp.ones((2, 8)))
    specs = nn.get_partition_spec(boxed)
    assert specs["params"]["raw_beta"] == P("model")
    mesh = jax.make_mesh((1,), ("model",))
    placed = sharding.shard(nn.meta.unbox(boxed), mesh, specs)["params"]
    assert placed["raw_beta"].sharding.spec == P("model")
