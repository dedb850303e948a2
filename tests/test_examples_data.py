"""Reading and making of the events that examples learn from."""

import importlib
import pathlib
import re
import zipfile

import jax
import numpy as np
import pytest

from tracetorch_jax import snn

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def error(function, *args):
    """The message with which a function of an example ends."""
    with pytest.raises(SystemExit) as end:
        function(*args)
    assert end.value.code.startswith("error: ")
    return end.value.code


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


@pytest.mark.parametrize("hz", [150, 400, 1000, 3000])
def test_a_tone_excites_the_channel_of_its_frequency(hz, example):
    module = example("spoken_digits")
    times, channels = module.events(np.sin(2 * np.pi * hz * np.arange(8000) / 8000))
    counts = np.bincount(channels, minlength=module.CHANNELS)
    frequencies = module.frequencies()
    assert abs(int(counts.argmax()) - int(abs(frequencies - hz).argmin())) <= 1
    assert 300 < counts.max() <= 334  # every 3 ms
    assert counts[abs(frequencies - hz) > 150].max() < 0.1 * counts.max()
    assert (np.diff(times) >= 0).all() and times.max() <= 1000


def test_silence_has_no_events_and_loudness_does_not_matter(example):
    events = example("spoken_digits").events
    assert not len(events(np.zeros(800))[0])
    sound = np.random.default_rng(0).normal(size=800)
    assert all((a == b).all() for a, b in zip(events(sound), events(1000 * sound), strict=True))


def test_recordings_are_read_from_the_archive(example, tmp_path):
    from scipy.io import wavfile

    module = example("spoken_digits")
    path = tmp_path / "recordings.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(6):
            wavfile.write(tmp_path / "a.wav", 8000, np.arange(800, dtype=np.int16))
            archive.write(tmp_path / "a.wav", f"master/recordings/{i}_s{i}_0.wav")
    recordings, digits, speakers = module.from_recordings(path)
    assert digits.tolist() == speakers.tolist() == list(range(6)) and len(recordings) == 6
    x = module.bin_events(recordings)
    assert x.shape == (6, module.STEPS, module.CHANNELS)
    assert x.sum() == sum(len(times) for times, _ in recordings)


@pytest.mark.parametrize("layer", ["LI", "LIB"])
def test_a_text_is_read_alike_at_once_and_byte_by_byte(layer, example):
    module = example("byte_lm")
    symbols = np.arange(1, 13, dtype=np.int32) * 5 % 7
    seen = module.windows(symbols)
    assert seen.shape == (12, module.READ) and (seen[:, -1] == symbols).all()
    assert (seen[-1] == symbols[-module.READ :]).all() and not seen[0, :-1].any()
    cell = module.network(7, width=6, blocks=2, layer=layer, dropout=0.5)
    variables = snn.Unroll(cell).init(jax.random.key(0), seen[None])
    expected = snn.Unroll(cell).apply(variables, seen[None])[0]
    carry = cell.initialize_carry(None, (module.READ,))
    for row, logits in zip(seen, expected, strict=True):
        carry, found = cell.apply({"params": variables["params"]["cell"]}, carry, row)
        np.testing.assert_allclose(found, logits, atol=1e-5)


@pytest.mark.parametrize("name", ["--epochs", "--batch", "--seeds"])
def test_numbers_below_one_are_refused(name, example, capsys):
    parser = example("harness").parser("", epochs=1, batch=1, rate=1.0)
    assert getattr(parser.parse_args([name, "3"]), name.strip("-")) == 3
    with pytest.raises(SystemExit):
        parser.parse_args([name, "0"])
    assert f"argument {name}: must be at least 1; got 0" in capsys.readouterr().err


def test_what_is_wrong_with_a_file_is_said(example, tmp_path):
    digits = example("spoken_digits")
    assert "there is no" in error(digits.from_recordings, tmp_path / "nowhere.zip")
    path = tmp_path / "damaged.npz"
    path.write_bytes(b"PK\x03\x04 and no more")
    assert "can't be read" in error(digits.from_events, path)
    assert "can't be read" in error(digits.from_recordings, path)
    whole = {
        f"{name}_{part}": np.array(values)
        for name, values in {
            "t_ms": [1, 2], "ch": [0, 64], "offsets": [0, 2], "y": [3], "speaker": [0]
        }.items()
        for part in ("train", "test")
    }  # fmt: skip
    np.savez(path, **whole)
    assert "`ch_train` must lie between 0 and 63" in error(digits.from_events, path)
    del whole["y_test"]
    np.savez(path, **whole | {"ch_train": np.array([0, 1])})
    assert "y_test" in error(digits.from_events, path)


@pytest.mark.parametrize("name", ["shd", "ssc"])
def test_spikes_of_speakers_are_parted(name, example, tmp_path):
    shd = example("shd")
    folder = shd.made_up(tmp_path, name)
    train, validation, test = shd.load(folder, name, [3, 6])
    assert [len(labels) for _, labels in (train, validation, test)] == (
        [66, 14, 40] if name == "shd" else [80, 40, 40]
    )
    for x, labels in (train, validation, test):
        assert x.shape == (len(labels), shd.STEPS, 70) and (x.sum((1, 2)) == 200).all()
        assert x[:, [0, -1]].any(axis=2).all()  # every recording fills all steps
    if name == "shd":
        assert "`speakers` must be some of" in error(shd.load, folder, name, [12])
    (folder / f"{name}_test.h5").write_bytes(b"no HDF5")
    message = error(shd.load, folder, name, [3, 6])
    assert "must be an HDF5 file" in message and "Leave out --data to fetch" in message


def test_time_series_are_read_whatever_their_layout(example, tmp_path):
    """Classes of words, one channel without an axis, padding of NaN, and arrays of groups."""
    series = example("series")
    x = np.arange(12, dtype=np.int16).reshape(3, 4)
    padded = np.where([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1]], x, np.nan)
    arrays = {"x_train": padded, "y_train": np.array(["b", "a", "b"]), "who_train": np.arange(3)}
    arrays |= {"x_test": x[:1], "y_test": np.array(["b"]), "who_test": np.arange(1)}
    np.savez(tmp_path / "a.npz", **arrays)
    train, test = series.load(tmp_path / "a.npz")
    assert train["x"].shape == (3, 4, 1) and train["y"].tolist() == [1, 0, 1]
    assert train["length"].tolist() == [4, 2, 4] and test["length"].tolist() == [4]
    assert train["who"].tolist() == [0, 1, 2] and test["y"].tolist() == [1]
    scales = series.scales(train)
    (xs, lengths), (others, _) = (series.standardised(scales, own) for own in (train, test))
    slopes = np.diff(padded, axis=1, prepend=padded[:, :1])
    for channel, values in enumerate((padded, slopes)):
        expected = (values - np.nanmean(values)) / np.nanstd(values)
        ends = np.nan_to_num(expected)[[[0], [1], [2]], [[0, 1, 2, 3], [0, 1, 1, 1], [0, 1, 2, 3]]]
        np.testing.assert_allclose(xs[..., channel], ends, rtol=1e-4)
        np.testing.assert_allclose(others[0, :, channel], expected[0], rtol=1e-4)
    assert lengths.tolist() == [4, 2, 4]
    train["x"][:, ::2] = np.nan  # so that no slope is known
    xs, _ = series.standardised(series.scales(train), train)
    assert xs.shape == (3, 4, 1) and np.isfinite(xs).all()
    np.savez(tmp_path / "b.npz", **arrays, length_train=[3, 2, 1], length_test=[4])
    assert series.load(tmp_path / "b.npz")[0]["length"].tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y_test": None}, r"must hold x_test and y_test; it has"),
        ({"x_train": np.zeros((3, 4, 1, 1))}, r"x_train .*shape \(3, 4, 1, 1\)"),
        ({"y_train": np.zeros(2, int)}, r"x_train must be sequences with a class each"),
        ({"x_test": np.zeros((2, 5))}, "of one length and number of channels"),
        ({"y_test": np.array([0, 2])}, "no class that y_train lacks"),
    ],
)
def test_what_is_wrong_with_time_series_is_said(changed, message, example, tmp_path):
    arrays = {"x_train": np.zeros((3, 4)), "y_train": np.arange(3) % 2}
    arrays |= {"x_test": np.zeros((2, 4)), "y_test": np.arange(2)} | changed
    path = tmp_path / "a.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    assert re.search(message, error(example("series").load, path))
