"""Files of torch and safetensors: every kind of tensor, and nothing but tensors."""

import io
import os
import pickle
import sys
import zipfile

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from torch_vectors import FOLDER

from tracetorch_jax import interop, snn


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


def test_a_file_of_torch_is_read_without_torch(no_torch):
    state_dict = interop.load_torch(FOLDER / "network.pt")
    assert list(state_dict) == [
        "0.weight", "0.bias", "1.raw_beta", "1.raw_threshold", "1.raw_bias",
        "2.weight", "2.bias", "2.running_mean", "2.running_var", "2.num_batches_tracked",
    ]  # fmt: skip
    layers = [nn.Dense(2), snn.LIB(2), nn.BatchNorm(use_running_average=True)]
    variables = interop.from_torch(FOLDER / "network.pt", snn.Sequential(layers), np.ones((1, 3)))
    assert set(variables) == {"params", "batch_stats"}
    np.testing.assert_array_equal(
        variables["params"]["layers_0"]["kernel"], state_dict["0.weight"].T
    )
    np.testing.assert_allclose(variables["params"]["layers_1"]["raw_beta"], np.log(9), rtol=1e-6)


def test_every_kind_of_tensor_is_read(no_torch):
    saved = interop.load_torch(FOLDER / "checkpoint.pt")
    kinds, numbers = saved["model"], np.arange(12).reshape(3, 4)
    assert (saved["epoch"], saved["history"]) == (3, [0.5, None])
    np.testing.assert_array_equal(kinds["transposed"], numbers.T)
    np.testing.assert_array_equal(kinds["view"], numbers[1:, ::2])
    for name, dtype in (
        ("double", np.float64), ("half", np.float16), ("bfloat16", jnp.bfloat16),
        ("parameter", np.float32),
    ):  # fmt: skip
        assert kinds[name].dtype == dtype
        np.testing.assert_array_equal(kinds[name].astype(np.float64), numbers)
    assert kinds["long"] == 7 and kinds["long"].dtype == np.int64
    assert kinds["bool"].tolist() == [True, False]
    assert kinds["empty"].shape == (0, 3)


def archive(path, data, **records):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        for name, record in records.items():
            file.writestr(f"archive/data/{name}", record)
    return path


class Malice:
    def __reduce__(self):
        return os.mkdir, ("was-here",)


def test_nothing_else_is_ever_unpickled(tmp_path, monkeypatch, no_torch):
    monkeypatch.chdir(tmp_path)
    for data in (pickle.dumps({"a": Malice()}), pickle.dumps({"a": os.mkdir})):
        with pytest.raises(ImportError, match="only torch can read it"):
            interop.load_torch(archive(tmp_path / "evil.pt", data))
    assert not (tmp_path / "was-here").exists()
    for name in ("module.pt", "old.pt"):  # a whole model, and torch before 1.6
        with pytest.raises(ImportError, match="only torch can read it: pip install torch"):
            interop.load_torch(FOLDER / name)


def test_what_only_torch_reads_is_left_to_torch(monkeypatch):
    class Torch:
        @staticmethod
        def load(path, map_location, weights_only):
            assert (map_location, weights_only) == ("cpu", True)
            if path.name == "module.pt":
                raise pickle.UnpicklingError("Weights only load failed")
            return {"a": Tensor()}

    class Tensor:
        dtype = "torch.float32"

        def detach(self):
            return self

        cpu = resolve_conj = resolve_neg = detach

        def numpy(self):
            return np.ones(2)

    monkeypatch.setitem(sys.modules, "torch", Torch)
    assert interop.load_torch(FOLDER / "old.pt")["a"].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="`path` must hold a state dict.*Weights only load failed"):
        interop.load_torch(FOLDER / "module.pt")


class Storage:
    def __init__(self, size=4):
        self.size = size


def tensor_pickle(*arguments, kind="FloatStorage", key="0"):
    """A pickle of one tensor, as torch would write it, with what is said of it."""

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            if isinstance(value, Storage):
                return ("storage", Global("torch", kind), key, "cpu", value.size)
            return None

        def save(self, value, save_persistent_id=True):
            if isinstance(value, Global):
                return self.write(f"c{value.module}\n{value.name}\n".encode())
            return super().save(value, save_persistent_id)

    class Global:
        def __init__(self, module, name):
            self.module, self.name = module, name

    class Tensor:
        def __reduce_ex__(self, protocol):
            return len, (Storage(), *arguments, False, {})

    stream = io.BytesIO()
    Pickler(stream, 2).dump({"a": Tensor()})
    return stream.getvalue().replace(b"c__builtin__\nlen\n", b"ctorch._utils\n_rebuild_tensor_v2\n")


def test_a_damaged_file_is_no_state_dict(tmp_path, no_torch):
    numbers = np.arange(4, dtype=np.float32).tobytes()
    good = archive(tmp_path / "good.pt", tensor_pickle(1, (3,), (1,)), **{"0": numbers})
    assert interop.load_torch(good)["a"].tolist() == [1.0, 2.0, 3.0]
    for arguments, message in (
        ((2, (3,), (1,)), "a tensor beyond its storage"),
        ((0, (3,), (2,)), "a tensor beyond its storage, 'a'"),
        ((0, (10**12,), (0,)), "a tensor of 10{12} elements in a storage of 4, .*clone.*, 'a'"),
        ((0, (2, 3), (0, 1)), "a tensor of 6 elements in a storage of 4"),
        ((0, (10**30, 10**30), (1, 1)), "a tensor beyond its storage"),
        ((2**64, (1,), (1,)), "a tensor beyond its storage"),
        ((0, (2,), (-1,)), "sizes that are none"),
        ((0, ("3",), (1,)), "sizes that are none"),
        ((0, (0, 10**30), (1, 1)), ""),
        ((-1, (3,), (1,)), "sizes that are none"),
        ((0, (3,), (1, 1)), "axes and strides of different number"),
    ):
        path = archive(tmp_path / "bad.pt", tensor_pickle(*arguments), **{"0": numbers})
        with pytest.raises(ValueError, match=f"must be a file of torch.save.*{message}"):
            interop.load_torch(path)
    path = archive(tmp_path / "lost.pt", tensor_pickle(0, (3,), (1,)))
    with pytest.raises(ValueError, match="is damaged"):
        interop.load_torch(path)
    whole = (FOLDER / "network.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[:2000])
    with pytest.raises(ValueError, match="cut.pt is damaged: File is not a zip"):
        interop.load_torch(tmp_path / "cut.pt")
    with pytest.raises(ValueError, match="holds a list"):
        interop.load_torch(archive(tmp_path / "list.pt", pickle.dumps([1.0])))
    with pytest.raises(FileNotFoundError, match="`path` must be a file"):
        interop.load_torch(tmp_path / "none.pt")


def test_what_is_shared_stays_shared(tmp_path, no_torch):
    numbers = np.arange(4, dtype=np.float32).tobytes()
    shared = [0.5]
    for _ in range(40):
        shared = [shared] * 10
    path = archive(tmp_path / "lists.pt", pickle.dumps({"a": shared, "b": (1, {"c": shared})}, 2))
    read = interop.load_torch(path)
    assert read["a"] is read["b"][1]["c"] and read["a"][0] is read["a"][9]
    endless = []
    endless.append(endless)
    path = archive(tmp_path / "endless.pt", pickle.dumps({"a": endless}, 2))
    assert (read := interop.load_torch(path))["a"][0] is read["a"]
    path = archive(tmp_path / "views.pt", tensor_pickle(1, (3,), (1,)), **{"0": numbers})
    interop.load_torch(path)["a"][:] = 7.0  # an array of its own, which can be written to


def test_shared_parts_of_what_torch_reads(monkeypatch):
    shared = {"a": 0.5}
    for _ in range(40):
        shared = {str(i): shared for i in range(10)}

    class Torch:
        @staticmethod
        def load(path, map_location, weights_only):
            return shared

    monkeypatch.setitem(sys.modules, "torch", Torch)
    read = interop.load_torch(FOLDER / "old.pt")
    assert read["0"] is read["9"]


@pytest.mark.slow
def test_a_file_cannot_claim_more_than_it_holds(tmp_path, no_torch):
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", tensor_pickle(0, (2**24,), (1,)))
        file.writestr("archive/data/0", bytes(2**26))
    with pytest.raises(ValueError, match="bomb.pt is damaged: it is compressed"):
        interop.load_torch(bomb)
    good = archive(tmp_path / "good.pt", tensor_pickle(0, (3,), (1,)), **{"0": bytes(16)})
    whole = bytearray(good.read_bytes())
    at = whole.rindex(b"PK\1\2") + 24  # the size of the last member, in the directory
    whole[at : at + 4] = (2**31).to_bytes(4, "little")
    good.write_bytes(whole)
    with pytest.raises(ValueError, match="good.pt is damaged: it declares more data than it holds"):
        interop.load_torch(good)
    deep = pickle.dumps({"a": 1}, 2).replace(b"X\1\0\0\0a", b")" + b"\x85" * 2**17)
    with pytest.raises(ImportError, match="only torch can read it"):  # a key that `hash` dies of
        interop.load_torch(archive(tmp_path / "deep.pt", deep))
    memo = b"\x80\x02}r\xff\xff\xff\xff."  # the memo of `pickle` would take 64 GB
    assert interop.load_torch(archive(tmp_path / "memo.pt", memo)) == {}


def test_safetensors(tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors.numpy")
    path, x = tmp_path / "stack.safetensors", np.ones((1, 2), np.float32)
    model = snn.Sequential([nn.Dense(3), snn.LI(3)])
    state_dict = {
        "0.weight": np.arange(6, dtype=np.float32).reshape(3, 2),
        "0.bias": np.ones(3, np.float32),
        "1.raw_beta": np.full(3, 2.0, np.float32),
    }
    safetensors.save_file(state_dict, path)
    written = interop.to_torch(interop.from_torch(path, model, x), model, x, like=path)
    safetensors.save_file(written, tmp_path / "again.safetensors")
    again = interop.load_torch(tmp_path / "again.safetensors")
    for key, array in state_dict.items():
        np.testing.assert_array_equal(again[key], array)
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(ValueError, match="`path` must be a safetensors file"):
        interop.load_torch(tmp_path / "bad.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match="pip install 'safetensors"):
        interop.load_torch(path)


def test_tensors_are_taken_as_they_are():
    """Without torch here, something that behaves as its tensors do."""

    class Tensor:
        dtype = "torch.bfloat16"

        def detach(self):
            return self

        cpu = resolve_conj = resolve_neg = detach

        def float(self):
            self.dtype = "torch.float32"
            return self

        def numpy(self):
            assert self.dtype == "torch.float32"
            return np.zeros(3, np.float32)

    assert interop.from_torch({"raw_beta": Tensor()}, snn.LI(3))["params"]["raw_beta"].shape == (3,)
