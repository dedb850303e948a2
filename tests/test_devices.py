"""Many devices: virtual ones, and real processes; and names of parameters as places on a mesh."""

import os
import pathlib
import re
import socket
import subprocess
import sys

import flax.linen as nn
import inner
import jax
import jax.numpy as jnp
import pages
import pytest
import reference
from jax.sharding import PartitionSpec as P

from tracetorch_jax import checkpoint, sharding, snn

ROOT = pathlib.Path(__file__).parent.parent
SLOWEST = 600  # seconds after which a process hangs; it takes about ten


@pytest.mark.slow
def test_on_eight_devices(request):
    """In a process of its own, since devices are counted when JAX starts."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    tier = request.config.getoption("--tier")
    inner.run(tier, "tests/support/eight_devices.py", XLA_FLAGS=flags)


@pytest.mark.nightly
def test_the_page_on_devices_runs():
    blocks = pages.blocks(pages.read("how-to/devices"))
    assert len(blocks) > 5
    checks = """
assert jax.device_count() == 8 and values.shape == (8,) and guess.shape == (64,)
assert {leaf.shape[0] for leaf in jax.tree.leaves(params)} == {8} and ys.shape == (8, 64, 20, 10)
assert values.sharding.device_set == set(jax.devices())
assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(restored))
"""
    done = subprocess.run(
        [sys.executable, "-c", "".join(blocks) + checks],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


def start(*args):
    """A process that runs the script of several hosts."""
    command = [sys.executable, "examples/distributed.py", "--smoke", *map(str, args)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def finish(processes):
    """What processes print, or an end to all of them if one takes too long or fails."""
    try:
        outs = [process.communicate(timeout=SLOWEST) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, err) in zip(processes, outs, strict=True):
        assert process.returncode == 0, err
    return [out for out, _ in outs]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Over a real network, if only that of one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = ["--coordinator", address, "--processes", 2, "--save", tmp_path / "two"]
    two = finish([start(*hosts, "--devices", 2, "--model", 2, "--process-id", i) for i in range(2)])
    (one,) = finish([start("--save", tmp_path / "one")])
    assert "2 hosts, mesh of 2 data x 2 model" in two[0]
    first, second, alone = (re.search(r"last loss ([\d.]+)", out)[1] for out in (*two, one))
    assert first == second
    assert float(first) == pytest.approx(float(alone), abs=2e-6)
    assert two[0].splitlines()[-1] == one.splitlines()[-1]  # test accuracy
    assert "accuracy" not in two[1]

    model = snn.Unroll(load_example("distributed").network(16))
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 2, 64)))["params"]
    got, want = (checkpoint.restore(tmp_path / name, like) for name in ("two", "one"))
    reference.assert_trees_close(got, want, 1e-4)
    assert {folder.name for folder in tmp_path.iterdir()} == {"one", "two"}


def load_example(name):
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        return __import__(name)
    finally:
        sys.path.pop(0)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--devices", 8, "--batch", 12], "--batch must be a multiple of the 8 parts .* got 12"),
        (["--devices", 8, "--model", 3], "--model must divide the 8 devices of each host; got 3"),
    ],
)
def test_the_script_says_what_does_not_divide(args, message):
    process = start(*args)
    out, err = process.communicate(timeout=SLOWEST)
    assert process.returncode == 1 and not out
    assert re.search(f"^error: {message}", err, re.M) and "Traceback" not in err


@pytest.mark.nightly
def test_scaling_is_measured():
    done = subprocess.run(
        [sys.executable, "examples/benchmarks/scaling.py", "--smoke"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\| network \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", done.stdout, re.M)


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
