"""Files that are cut, damaged or random: an error that names the file, and nothing worse."""

import io
import os
import sys

import flax.linen as nn
import h5py
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import nir
import numpy as np
import pytest
import reference
import safetensors.numpy

from tracetorch_jax import export, interop, snn
from tracetorch_jax.__main__ import main

DATA = reference.DATA
CELL = snn.LI(3, beta=0.5)
X = jnp.ones((2, 3))
SHAPE = (5,)  # of own.nir


def program(**options):
    variables = CELL.init(jax.random.key(0), None, X)
    return export.step(CELL, variables, "b, 3", platforms=["cpu"], **options)


def info(path):
    """The command, whose status 1 comes with an error on one line."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.StringIO())
        patch.setattr(sys, "stderr", out)
        status = main(["info", str(path)])
    if status:
        raise ValueError(out.getvalue())


def weights(path):
    return interop.load_torch(path)


def graph(path):
    return interop.from_nir(path, dt=1e-3)


READERS = {
    "program": (export.load, ".program"),
    "info": (info, ".program"),
    "torch": (weights, ".pt"),
    "safetensors": (weights, ".safetensors"),
    "nir": (graph, ".nir"),
    "nir as it is run": (
        lambda path: interop.run_nir(path, np.zeros((2, *SHAPE)), dt=1e-3),
        ".nir",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a good file for each reader."""
    folder = tmp_path_factory.mktemp("whole")
    new = export.save(folder / "program", program()).read_bytes()
    arrays = {"raw_beta": np.arange(3, dtype=np.float32), "b": np.ones((2, 2), np.float16)}
    graphs = (DATA / "nir" / "own.nir").read_bytes()
    return {
        "program": new,
        "info": (DATA / "export" / "old.step").read_bytes(),
        "torch": (DATA / "torch" / "checkpoint.pt").read_bytes(),
        "safetensors": safetensors.numpy.save(arrays),
        "nir": graphs,
        "nir as it is run": graphs,
    }


def attempt(reader, path):
    """Whether a file is read; if not, the error must be one that names it."""
    read, _ = READERS[reader]
    try:
        read(path)
    except ValueError as error:
        assert str(path) in str(error), error
        return False
    return True


EVERY = pytest.mark.parametrize("reader", READERS)


@pytest.fixture(autouse=True)
def no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


@EVERY
@hypothesis.given(blob=st.binary(max_size=300))
def test_random_bytes(reader, whole, tmp_path, blob):
    path = tmp_path / f"it{READERS[reader][1]}"
    for start in (b"", whole[reader][:64]):
        path.write_bytes(start + blob)
        assert not attempt(reader, path)


@pytest.mark.slow
@EVERY
@hypothesis.given(data=st.data())
def test_random_damage(reader, whole, tmp_path, data):
    path, blob = tmp_path / f"it{READERS[reader][1]}", bytearray(whole[reader])
    places = st.integers(0, len(blob) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        blob[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(blob)
    attempt(reader, path)
    path.write_bytes(blob[: data.draw(places)])
    attempt(reader, path)


@EVERY
def test_cut_files(reader, whole, tmp_path):
    path, blob = tmp_path / f"it{READERS[reader][1]}", whole[reader]
    path.write_bytes(blob)
    assert attempt(reader, path)
    for size in {0, 1, 3, 17, 30, 60, len(blob) // 2, len(blob) * 9 // 10}:
        path.write_bytes(blob[:size])
        assert not attempt(reader, path), size


@EVERY
def test_paths_that_are_no_files(reader, tmp_path):
    read, suffix = READERS[reader]
    errors = (OSError, ValueError) if reader == "info" else FileNotFoundError
    with pytest.raises(errors, match="none"):
        read(tmp_path / f"none{suffix}") if reader != "info" else export.load(tmp_path / "none")
    os.mkfifo(tmp_path / f"pipe{suffix}")
    with pytest.raises(errors, match="must be a file; there is none at"):
        read(tmp_path / f"pipe{suffix}")
    if reader != "info":  # where a folder is a checkpoint
        with pytest.raises(IsADirectoryError, match="must be a file; .* is a folder"):
            read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@EVERY
def test_files_that_must_not_be_read(reader, whole, tmp_path):
    path = tmp_path / f"it{READERS[reader][1]}"
    path.write_bytes(whole[reader])
    path.chmod(0)
    with pytest.raises((PermissionError, ValueError), match=f"Permission denied.*{path.name}"):
        READERS[reader][0](path)


# Programs.


def test_every_damaged_bit_of_a_program_is_noticed(whole, tmp_path):
    path, blob = tmp_path / "it", whole["program"]
    mark = range(4, 20)  # without it a file is an old one, and whole
    for place in {*range(0, 60), *range(60, len(blob), 97)} - {*mark}:
        path.write_bytes(blob[:place] + bytes([blob[place] ^ 1 << place % 8]) + blob[place + 1 :])
        with pytest.raises(ValueError, match="it is damaged: its checksum differs"):
            export.load(path)
    for size in range(60, len(blob), 97):
        path.write_bytes(blob[:size])
        with pytest.raises(ValueError, match="it is damaged: its checksum differs"):
            export.load(path)


def test_programs_of_earlier_versions_are_read(tmp_path):
    """`old.step` is never to be written again."""
    old = export.load(DATA / "export" / "old.step")
    carry, y = old.call(export.initial_carry(old, X), X)
    np.testing.assert_array_equal(y, np.full((2, 3), 0.5))
    np.testing.assert_array_equal(carry["mem"], y)
    plain = tmp_path / "plain"
    plain.write_bytes(program().serialize())
    assert export.load(plain).fun_name == "step"


def test_jax_alone_reads_what_is_sealed(tmp_path):
    path = export.save(tmp_path / "it", program(), vjp_order=1)
    read = jax.export.deserialize(bytearray(path.read_bytes()))
    np.testing.assert_array_equal(read.call({"mem": jnp.zeros((2, 3))}, X)[1], 0.5)
    gradient = jax.grad(lambda x: read.call({"mem": jnp.zeros((2, 3))}, x)[1].sum())(X)
    np.testing.assert_array_equal(gradient, 0.5)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk(overwrite, tmp_path, full_disk):
    path = tmp_path / "it"
    if overwrite:
        path.write_bytes(b"the old one")
    full_disk(2000)
    with pytest.raises(OSError, match=r"(?=.*tmp.*/it)(?=.*not written: [^\n]*$)"):
        export.save(path, program(), overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["it"] * overwrite
    assert not overwrite or path.read_bytes() == b"the old one"


# Graphs.


def damaged(path, change):
    nir.write(path, nir.NIRGraph.from_list(nir.Scale(np.ones(3)), nir.Linear(np.ones((2, 3)))))
    with h5py.File(path, "r+") as file:
        change(file["node/nodes"])
    return path


def large(nodes):
    del nodes["scale/scale"]
    nodes.create_dataset("scale/scale", (2**40,), np.float64, chunks=(2**20,))


def within(nodes):
    nodes["linear/again"] = nodes


def link(nodes):
    nodes["linear/elsewhere"] = h5py.ExternalLink("/etc/other.nir", "node")


def outside(nodes):
    del nodes["scale/scale"]
    nodes.create_dataset("scale/scale", (3,), np.float64, external=[("raw", 0, 24)])


GRAPHS = [
    (large, "larger than the file can hold"),
    (within, "'again' is there twice"),
    (link, "'elsewhere' is a link"),
    (outside, "'scale' lies in another file"),
]


@pytest.mark.parametrize("change, message", GRAPHS, ids=[change.__name__ for change, _ in GRAPHS])
def test_graphs_that_no_reader_should_follow(change, message, tmp_path):
    path = damaged(tmp_path / "it.nir", change)
    with pytest.raises(
        ValueError, match=f"`graph` must be a NIR file; {path} is none: .*{message}"
    ):
        graph(path)


def test_texts_that_hdf5_does_not_come_back_from(tmp_path):
    """A heap with an object of no bytes, and a text of 4 GB, in a file of 20 kB."""
    whole = (DATA / "nir" / "norse_li.nir").read_bytes()
    heap = whole.index(b"GCOL") + 16
    with h5py.File(DATA / "nir" / "norse_li.nir", "r") as file:
        text = file["node/type"].id.get_offset()
    path = tmp_path / "it.nir"
    for at, new, message in (
        (heap, bytes(16), "the heap at byte [0-9]+ is damaged"),
        (text, b"\xff" * 12, r"'type', of shape \(\), is larger than the file can hold"),
    ):
        path.write_bytes(whole[:at] + new + whole[at + len(new) :])
        with pytest.raises(ValueError, match=f"it.nir is none: {message}"):
            graph(path)


# Values that a parameter cannot hold, in every importer.

BAD = {"too large": 1e300, "not a number": np.nan, "infinite": -np.inf}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_values_that_no_parameter_can_hold(value, tmp_path):
    numbers = np.array([0.5, value, 0.5])
    said = rf"{value!r} at \[1\], where values must be finite and fit float32".replace("+", "[+]")
    for state_dict, model, inputs, name in (
        ({"raw_beta": numbers}, snn.LI(3), (), "raw_beta"),
        ({"weight": np.ones((3, 2)), "bias": numbers}, nn.Dense(3), (np.ones((1, 2)),), "bias"),
    ):
        with pytest.raises(ValueError, match=f"but it has '{name}' with {said}"):
            interop.from_torch(state_dict, model, *inputs)
    if np.isfinite(value):
        with jax.enable_x64(True):
            wide = interop.from_torch({"raw_beta": numbers}, snn.LI(3, param_dtype=jnp.float64))
        assert wide["params"]["raw_beta"][1].item() == value
    affine = nir.Affine(np.ones((3, 3)), numbers)
    for made, parameter in ((affine, "bias"), (nir.Scale(numbers), "scale")):
        with pytest.raises(
            ValueError, match=f"(?s)'(affine|scale)'.*`{parameter}`.*{value!r}".replace("+", "[+]")
        ):
            interop.from_nir(nir.NIRGraph.from_list(made))
    layer = snn.Unroll(snn.Sequential([nn.Dense(3)]))
    variables = layer.init(jax.random.key(0), jnp.ones((1, 1, 3)))
    written = interop.to_nir(layer, variables, input_shape=(3,))
    written.nodes["layers_0"].bias = numbers
    with pytest.raises(ValueError, match=f"`bias`.*{value!r}".replace("+", "[+]")):
        interop.from_nir(written)


def test_integers_that_a_parameter_cannot_hold():
    layer = snn.LI(3, param_dtype=jnp.float16)
    said = r"has 'raw_beta' with 70000 at \[1\], where values must be finite and fit float16"
    with pytest.raises(ValueError, match=said):
        interop.from_torch({"raw_beta": np.array([0, 70000, 0])}, layer)
