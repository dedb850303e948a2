"""Readers of published data sets, on tiny files in the published layouts."""

import importlib.util
import re
import sys

import numpy as np
import published
import pytest

from tracetorch_jax import datasets, encode

# The events of a file of 2 recordings that is right.
TIMES, UNITS = [[0.5, 0.25, 1.0], [0.125]], [[3, 699, 0], [7]]


def spikes(folder, times=TIMES, units=UNITS, name="shd_train.h5", **arrays):
    arrays = {"labels": [19, 0], "extra__speaker": [3, 6], "extra__keys": ["a"] * 20} | arrays
    arrays = {key: value for key, value in arrays.items() if value is not None}
    recordings = list(zip(times, units, strict=True))
    published.heidelberg(folder / name, recordings, **arrays)
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    published.everything(folder)
    return folder


# Rows, whatever they hold.


def test_rows_are_chosen_without_reading(tmp_path):
    read = []

    def reader(rows):
        for row in rows:
            read.append(int(row))
            yield np.array([0.1 * row]), np.array([row])

    made = datasets.Recordings(reader, [5, 6, 7, 8], shape=(4,), speakers=["a", "b", "a", "c"])
    some = made[[3, 0, 1]][np.array([True, False, True])][::-1]
    rest, held = made.hold_out("a")
    assert not read and (len(made), len(some), len(rest), len(held)) == (4, 2, 2, 2)
    assert some.labels.tolist() == [6, 8] and some.speakers.tolist() == ["b", "c"]
    assert rest.labels.tolist() == [6, 8] and set(held.speakers) == {"a"}
    assert [int(channels[0]) for _, channels in some] == [1, 3] == read
    assert made[-1][1].tolist() == [3] and some[0][1].tolist() == [1]
    with pytest.raises(IndexError):
        made[4]
    assert repr(made) == "<Recordings: 4 rows, 0 classes>"


@pytest.mark.parametrize("chosen", ["z", ["a", "z"], ["a", "b"]])
def test_who_can_be_held_out(chosen):
    made = datasets.Recordings(lambda rows: iter(()), [0, 1], shape=(1,), speakers=["a", "b"])
    with pytest.raises(ValueError, match=r"`speakers` must be some of \['a', 'b'\], and not all"):
        made.hold_out(chosen)
    with pytest.raises(ValueError, match="this set has none"):
        datasets.Recordings(lambda rows: iter(()), [0], shape=(1,)).hold_out("a")


def test_what_labels_and_speakers_must_be():
    def made(labels, **options):
        return datasets.Recordings(lambda rows: iter(()), labels, shape=(1,), **options)

    with pytest.raises(TypeError, match="`labels` must be integers; got dtype float64"):
        made([0.5])
    with pytest.raises(ValueError, match=r"`labels` must be \[rows\]; got shape \(1, 2\)"):
        made([[0, 1]])
    with pytest.raises(ValueError, match=r"the shape of `labels`, \(2,\); got \(1,\)"):
        made([0, 1], speakers=[3])
    assert made([]).frames(5, 1.0).shape == (0, 5, 1)


# Frames.


def made_up(rows=5, shape=(700,), longest=0.9, whole=False):
    rng = np.random.default_rng(0)
    events = []
    for _ in range(rows):
        times = np.sort(rng.uniform(0, longest, rng.integers(1, 300)))
        channels = rng.integers(0, np.prod(shape), len(times))
        events.append((times.astype(np.int64 if whole else np.float32), channels))
    recordings = datasets.Recordings(
        lambda chosen: (events[i] for i in chosen), np.zeros(rows, int), shape=shape
    )
    return recordings, events


@pytest.mark.parametrize(("whole", "step"), [(False, 0.01), (True, 10_000), (True, 0.5e4)])
def test_frames_are_those_of_encode(whole, step):
    recordings, events = made_up(longest=900_000 if whole else 0.9, whole=whole)
    padded = encode.pad_events(events)
    steps = 181
    expected = encode.frames(
        *padded[:3], num_events=padded.lengths, num_steps=steps, num_channels=700, step=step
    )
    np.testing.assert_array_equal(recordings.frames(steps, step), expected)


def test_neighbours_are_merged_but_not_signs():
    recordings = made_up(shape=(5, 8, 2))[0]
    apart, merged = recordings.frames(10, 0.1), recordings.frames(10, 0.1, merge=4)
    assert apart.shape == (5, 10, 5, 8, 2) and merged.shape == (5, 10, 2, 2, 2)
    whole = np.pad(apart, ((0, 0), (0, 0), (0, 3), (0, 0), (0, 0)))
    np.testing.assert_array_equal(merged, whole.reshape(5, 10, 2, 4, 2, 4, 2).sum((3, 5)))
    lines = made_up()[0]
    sums = lines.frames(10, 0.1).reshape(5, 10, 140, 5).sum(-1)
    np.testing.assert_array_equal(lines.frames(10, 0.1, merge=5), sums)


def test_events_after_the_last_step_are_an_error_or_left_out():
    recordings, events = made_up(longest=2.0)
    with pytest.raises(ValueError, match=r"greater than every time; got 10 \* 0.1 for an event at"):
        recordings.frames(10, 0.1)
    kept = recordings.frames(10, 0.1, cut=True)
    assert kept.sum() == sum((times < 1).sum() for times, _ in events)


def test_every_recording_fills_all_steps_without_a_step():
    events = [(np.array([1.0, 1.5, 3.0]), np.array([0, 1, 2])), (np.array([9.0]), np.array([1]))]
    events.append((np.zeros(0), np.zeros(0, int)))
    made = datasets.Recordings(lambda rows: (events[i] for i in rows), np.zeros(3, int), shape=(3,))
    xs = made.frames(4, None)
    assert xs[0].argmax(axis=1).tolist()[:2] == [0, 1] and xs[0, 3, 2] == 1 and xs[0].sum() == 3
    assert xs[1].sum() == xs[1, 0, 1] == 1 and not xs[2].any()
    assert not made[2:].frames(4, 1.0).any()  # a recording without events


def test_many_events_at_once_are_255():
    made = datasets.Recordings(
        lambda rows: (((np.zeros(n)), np.zeros(n, int)) for n in (255, 300)), [0, 1], shape=(1,)
    )
    assert made.frames(1, 1.0).ravel().tolist() == [255, 255]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_steps": 0}, ValueError, "`num_steps` must be an integer of at least 1"),
        ({"num_steps": 1.5}, TypeError, "`num_steps` must be an integer"),
        ({"step": 0.0}, ValueError, "`step` must be finite and greater than 0"),
        ({"merge": 0}, ValueError, "`merge` must be an integer of at least 1"),
    ],
)
def test_what_frames_need(options, error, message):
    with pytest.raises(error, match=message):
        made_up()[0].frames(**{"num_steps": 10, "step": 0.1} | options)


# The Heidelberg sets.


def test_spikes_become_frames(tmp_path):
    train = datasets.shd(spikes(tmp_path, extra__keys=[b"null"] + [b"eins"] * 19), "train")
    assert train.labels.tolist() == [19, 0] and train.labels.dtype == np.int32
    assert train.speakers.tolist() == [3, 6] and train.classes[:2] == ("null", "eins")
    times, units = train[0]  # sorted, which the file is not
    assert times.tolist() == [0.25, 0.5, 1.0] and units.tolist() == [699, 3, 0]
    padded = encode.pad_events(train)
    expected = encode.frames(
        *padded[:3], num_events=padded.lengths, num_steps=11, num_channels=700, step=0.1
    )
    np.testing.assert_array_equal(train.frames(11, 0.1), expected)
    rest, held = train.hold_out(6)
    assert rest.labels.tolist() == [19] and held.frames(11, 0.1, merge=7).shape == (1, 11, 100)


def test_what_is_not_needed_may_be_missing(tmp_path):
    train = datasets.shd(spikes(tmp_path, extra__keys=None, extra__speaker=None), "train")
    assert train.speakers is None and train.classes == tuple(map(str, range(20)))


def test_ssc_has_three_parts(sets):
    for split in ("train", "valid", "test"):
        part = datasets.ssc(sets / "ssc", split)
        assert len(part) == 70 and part.labels.max() == 34
        assert set(part.speakers) == {"0a", "0b"} and part.classes[34] == "word 34"
    xs = part.frames(100, 0.01, merge=5)
    assert xs.shape == (70, 100, 140) and xs.sum() == 70 * 60


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": [19, 20]}, "have `labels` from 0 to 19; got 19 to 20"),
        ({"labels": [0.5, 1]}, "have integers as `labels`; got float64"),
        ({"labels": [[0], [1]]}, r"have integers as `labels`; got int64 of shape \(2, 1\)"),
        ({"labels": [0]}, "have arrays of one length; got .*'spikes/units': 2, 'labels': 1"),
        ({"labels": None}, "hold an array `labels`; there is none"),
        ({"labels": 3}, "hold an array `labels`; there is none"),
        ({"extra__speaker": [1, 2, 3]}, "have arrays of one length; got .*'extra/speaker': 3"),
        ({"extra__keys": ["zero"]}, "have 20 names of classes as `extra/keys`; got 1"),
    ],
)
def test_a_file_of_spikes_that_is_wrong(changed, message, tmp_path):
    with pytest.raises(ValueError, match=f"shd_train.h5 must {message}.*The file is damaged"):
        datasets.shd(spikes(tmp_path, **changed), "train")


@pytest.mark.parametrize(
    ("times", "units", "message"),
    [
        ([0.5, 0.6], [3], r"have a unit for every time in recording 1; got shapes \(2,\) and \(1,"),
        ([0.5], [700], "have `spikes/units` from 0 to 699; got 700 to 700 in recording 1"),
        ([-0.5], [3], "have `spikes/times` of at least 0; got -0.5 in recording 1"),
        ([np.nan], [3], "have `spikes/times` of at least 0; got nan in recording 1"),
    ],
)
def test_spikes_that_are_wrong(times, units, message, tmp_path):
    folder = spikes(tmp_path, [[0.1], times], [[1], units])
    train = datasets.shd(folder, "train")
    assert train[0][1].tolist() == [1]
    with pytest.raises(ValueError, match=f"shd_train.h5 must {message}"):
        train.frames(100, 0.1)


def test_units_that_are_no_integers(tmp_path):
    import h5py

    with h5py.File(spikes(tmp_path) / "shd_train.h5", "a") as file:
        del file["spikes/units"]
        file["spikes/units"] = np.zeros((2, 3))
    with pytest.raises(ValueError, match="have integers as `spikes/units`; got float64 in rec"):
        datasets.shd(tmp_path, "train")[0]


@pytest.mark.parametrize("damage", ["text", "half"])
def test_a_file_that_is_no_hdf5(damage, tmp_path):
    path = spikes(tmp_path) / "shd_train.h5"
    data = path.read_bytes()
    path.write_bytes(b"<html>not found</html>" if damage == "text" else data[: len(data) // 2])
    with pytest.raises(ValueError, match="shd_train.h5 must be an HDF5 file. The file is damaged"):
        datasets.shd(tmp_path, "train")


def test_a_file_that_loses_its_end_after_it_was_opened(tmp_path):
    path = spikes(tmp_path) / "shd_train.h5"
    train = datasets.shd(tmp_path, "train")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="must be an HDF5 file"):
        train[0]


def test_h5py_is_asked_for(tmp_path, monkeypatch):
    spikes(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'h5py"):
        datasets.shd(tmp_path, "train")


# N-MNIST.


def test_saccades_become_frames(tmp_path):
    for digit in range(10):
        published.saccades(tmp_path / f"Test/{digit}/00001.bin", [(0, 0, 0, 1)])
    events = [(33, 2, 1, 5), (0, 240, 0, 9), (1, 33, 0, 2**16 + 3 * 256 + 7)]  # a lap of the clock
    published.saccades(tmp_path / "Test/4/00000.bin", events)
    test = datasets.n_mnist(tmp_path, "test")
    assert test.labels.tolist() == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9]
    times, channels = test[4]
    assert times.tolist() == [5, 2**16 + 3 * 256 + 7 + 2**13]
    assert np.stack(np.unravel_index(channels, test.shape)).T.tolist() == [[2, 33, 1], [33, 1, 0]]
    xs = test[4:5].frames(8, 10_000)
    assert xs.shape == (1, 8, 34, 34, 2) and xs[0, 0, 2, 33, 1] == xs[0, 7, 33, 1, 0] == 1
    padded = encode.pad_events(test)
    expected = encode.frames(
        *padded[:3], num_events=padded.lengths, num_steps=8, num_channels=2312, step=10_000
    )
    np.testing.assert_array_equal(test.frames(8, 10_000).reshape(11, 8, 2312), expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(7), "have 5 bytes for each event; got 7 bytes"),
        (bytes([34, 0, 0, 0, 0]), "have `x` from 0 to 33; got 34"),
        (bytes([0, 35, 0, 0, 0]), "have `y` from 0 to 33; got 35"),
    ],
)
def test_saccades_that_are_wrong(data, message, tmp_path):
    for digit in range(10):
        published.saccades(tmp_path / f"Train/{digit}/00001.bin", [(0, 0, 0, 1)])
    (tmp_path / "Train/0/00001.bin").write_bytes(data)
    with pytest.raises(ValueError, match=f"00001.bin must {message}. The file is damaged"):
        datasets.n_mnist(tmp_path, "train")[0]


# DVS Gesture.


def test_gestures_become_frames(tmp_path):
    trials = {"train": ["user01_fluorescent_led", "user10_lab"], "test": ["user24_led"]}
    published.gestures(tmp_path, trials, [(2, 1000, 2000), (11, 2500, 9000), (2, 2500, 2600)])
    packets = [
        (1, 0, [(0, 0, 0, 999), (5, 126, 0, 1999), (127, 3, 1, 1000), (9, 9, 1, 2000)]),
        (0, 0, [(0, 0, 0, 2500)]),  # of another kind
        (1, 1, [(1, 1, 1, 6)]),  # after a lap of the clock
    ]
    published.aedat(tmp_path / "user24_led.aedat", packets)
    train, test = (datasets.dvs_gesture(tmp_path, split) for split in ("train", "test"))
    assert train.labels.tolist() == [1, 10, 1] * 2 and train.speakers.tolist() == [1] * 3 + [10] * 3
    assert len(train.classes) == 11
    times, channels = test[0]
    assert times.tolist() == [0, 999] and not len(test[1][0])
    assert np.stack(np.unravel_index(channels, test.shape)).T.tolist() == [[3, 127, 1], [126, 5, 0]]
    xs = test.frames(10, 100, merge=4, cut=True)
    assert xs.shape == (3, 10, 32, 32, 2) and xs.sum() == 2 and xs[0, 9, 31, 1, 0] == 1
    assert train.frames(65, 100).sum() >= 2 * 80  # of overlapping gestures each has all its events
    rest, held = train.hold_out([10])
    assert set(rest.speakers) == {1} and len(held) == 3


def test_a_recording_is_read_once_for_gestures_that_follow(sets, monkeypatch):
    from tracetorch_jax.datasets import _vision

    read, whole = [], _vision._polarities
    monkeypatch.setattr(_vision, "_polarities", lambda path: read.append(path) or whole(path))
    train = datasets.dvs_gesture(sets / "gesture", "train")
    assert len(list(train)) == 33 and len(read) == 3


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (slice(3, None), "be a recording in AEDAT 3.1; it begins with b'ER-DAT3"),
        (slice(-1), "end with a whole packet; it ends within one"),
        (slice(-17), "end with a whole packet; it ends within a header"),
    ],
)
def test_recordings_that_are_wrong(cut, message, tmp_path):
    published.gestures(tmp_path, {"train": ["user01_lab"]}, [(1, 0, 100)])
    path = tmp_path / "user01_lab.aedat"
    published.aedat(path, [(1, 0, [(0, 0, 0, 1)]), (1, 0, [(0, 0, 0, 2)])])
    data = path.read_bytes()
    path.write_bytes(data[cut])
    with pytest.raises(ValueError, match=f"user01_lab.aedat must {re.escape(message)}"):
        datasets.dvs_gesture(tmp_path, "train")[0]


def test_pixels_and_sizes_that_are_wrong(tmp_path):
    published.gestures(tmp_path, {"train": ["user01_lab"]}, [(1, 0, 100)])
    path = tmp_path / "user01_lab.aedat"
    published.aedat(path, [(1, 0, [(128, 0, 0, 1)])])
    train = datasets.dvs_gesture(tmp_path, "train")
    with pytest.raises(ValueError, match="have `x` from 0 to 127; got 128"):
        train[0]
    data = bytearray(path.read_bytes())
    data[-32] = 4  # bytes of an event
    path.write_bytes(data)
    with pytest.raises(ValueError, match="have events of 8 bytes; got 4"):
        train[0]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("user01_lab_labels.csv", "class,s,e\n12,0,5\n", "have classes from 1 to 11"),
        ("user01_lab_labels.csv", "class,s,e\n2,5,5\n", "ends after starts; got '2,5,5'"),
        ("user01_lab_labels.csv", "class,s,e\n2,x,5\n", "have a class, a start and an end"),
        ("user01_lab_labels.csv", "class,s,e\n", "recordings with at least one gesture"),
        ("trials_to_train.txt", "lab.aedat\n", "list recordings such as .*; got 'lab.aedat'"),
        ("trials_to_train.txt", "", "recordings with at least one gesture"),
    ],
)
def test_tables_that_are_wrong(file, text, message, tmp_path):
    published.gestures(tmp_path, {"train": ["user01_lab"]}, [(1, 0, 100)])
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=f"must .*{message}.*The file is damaged"):
        datasets.dvs_gesture(tmp_path, "train")


# Speech Commands.


def test_sounds_are_read_as_they_are_listed(tmp_path):
    published.speech(tmp_path, ["up", "down"], people=6)
    published.sound(tmp_path / "up/0000000a_nohash_0.wav", [2**14, -(2**15)])
    published.sound(tmp_path / "up/0000000b_nohash_1.wav", np.arange(16001))
    parts = {s: datasets.speech_commands(tmp_path, s) for s in ("train", "valid", "test")}
    assert {split: len(part) for split, part in parts.items()} == {
        "train": 6,
        "valid": 4,
        "test": 4,
    }
    train = parts["train"]
    assert train.classes == ("down", "up") and train.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert train.speakers.tolist()[-2:] == ["0000000a", "0000000b"] and train.rate == 16000
    assert set(parts["valid"].speakers) == {"00000002", "00000003"}
    short, long = train[-2], train[-1]
    assert short[:3].tolist() == [0.5, -1.0, 0.0] and short.shape == long.shape == (16000,)
    assert long.dtype == np.float32 and long[-1] == 15999 / 2**15
    assert np.stack(list(train[:2])).shape == (2, 16000)


def test_sounds_become_frames(sets):
    test = datasets.speech_commands(sets / "speech", "test")
    mels = test.log_mel(num_mels=20, step=0.02)
    assert mels.shape == (28, 49, 20) and mels.dtype == np.float32
    expected = encode.log_mel(test[3], 20, step=0.02)
    np.testing.assert_allclose(mels[3], expected, rtol=1e-4, atol=1e-4)
    loudest = mels.mean(axis=1).argmax(axis=1)  # the words are tones, each higher than the last
    assert (np.diff(loudest[::2]) >= 0).all() and loudest[-1] > loudest[0]
    with pytest.raises(ValueError, match="needs at least one row"):
        test[:0].log_mel()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 8000}, "have 1 channel, 16 bits and 16000 Hz; got 1, 16 and 8000"),
        ({"channels": 2}, "got 2, 16 and 16000"),
        ({"width": 1}, "got 1, 8 and 16000"),
    ],
)
def test_sounds_of_another_kind(options, message, tmp_path):
    published.speech(tmp_path, ["up"])
    published.sound(tmp_path / "up/00000000_nohash_0.wav", np.zeros(16000), **options)
    with pytest.raises(ValueError, match=f"00000000_nohash_0.wav must .*{message}"):
        datasets.speech_commands(tmp_path, "train")[0]


def test_sounds_that_are_damaged(tmp_path):
    published.speech(tmp_path, ["up"])
    path = tmp_path / "up/00000000_nohash_0.wav"
    train, data = datasets.speech_commands(tmp_path, "train"), path.read_bytes()
    for damaged, message in (
        (b"nothing of the kind", "be a WAV file"),
        (b"", "be a WAV file"),
        (data[:2000], "have the 16000 samples that it says; got 978"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"must {message}"):
            train[0]


# What is missing, for all.


@pytest.mark.parametrize(
    ("read", "split", "missing", "advice"),
    [
        ("shd", "train", "shd_train.h5", "curl -LO https://zenkelab.org/datasets/shd_train.h5.gz"),
        ("ssc", "valid", "ssc_valid.h5", "gunzip ssc_valid.h5.gz"),
        ("n_mnist", "train", "Train", "garrickorchard.com/datasets/n-mnist.*unzip Train.zip"),
        ("dvs_gesture", "test", "trials_to_test.txt", "research.ibm.com.*tar -xzf"),
        ("speech_commands", "test", "validation_list.txt", "speech_commands_v0.02.tar.gz"),
    ],
)
def test_what_is_missing_is_named_with_where_to_get_it(read, split, missing, advice, tmp_path):
    read = getattr(datasets, read)
    gone = f"there is no {re.escape(str(tmp_path / missing))}"
    with pytest.raises(FileNotFoundError, match=f"must hold {missing}; {gone}. Get .*{advice}"):
        read(tmp_path, split)
    with pytest.raises(FileNotFoundError, match=f"there is no folder .*nowhere. Get .*{advice}"):
        read(tmp_path / "nowhere", split)
    with pytest.raises(ValueError, match="`split` must be .*; got 'all'"):
        read(tmp_path, "all")


@pytest.mark.parametrize(("ending", "command"), [(".gz", "gunzip --keep"), (".zip", "unzip")])
def test_a_file_that_is_packed(ending, command, tmp_path):
    path = tmp_path / f"shd_test.h5{ending}"
    path.touch()
    with pytest.raises(FileNotFoundError, match=f"unpacked; .* Type: {command} {path}"):
        datasets.shd(tmp_path, "test")


def test_shd_says_how_to_validate(tmp_path):
    with pytest.raises(ValueError, match="no validation part: hold out speakers"):
        datasets.shd(tmp_path, "valid")


def test_what_else_can_be_missing(tmp_path):
    published.saccades(tmp_path / "Train/0/a.bin", [(0, 0, 0, 1)])
    with pytest.raises(
        FileNotFoundError, match=r"of each digit; there is no .*Train.1.\*.bin. Get"
    ):
        datasets.n_mnist(tmp_path, "train")
    published.gestures(tmp_path, {"train": ["user01_lab"]}, [(1, 0, 100)])
    (tmp_path / "user01_lab_labels.csv").unlink()
    with pytest.raises(FileNotFoundError, match="must hold user01_lab_labels.csv"):
        datasets.dvs_gesture(tmp_path, "train")
    for name in ("validation_list.txt", "testing_list.txt"):
        (tmp_path / name).write_text("up/a_nohash_0.wav\nup/b_nohash_0.wav\n")
    (tmp_path / "up").mkdir()
    with pytest.raises(FileNotFoundError, match="a_nohash_0.wav.* one of 2 of validation_list.txt"):
        datasets.speech_commands(tmp_path, "train")
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in ("validation_list.txt", "testing_list.txt"):
        (empty / name).touch()
    with pytest.raises(FileNotFoundError, match="must hold a folder for each word"):
        datasets.speech_commands(empty, "train")


# Against tonic, where it is installed.

needs_tonic = pytest.mark.skipif(not importlib.util.find_spec("tonic"), reason="needs tonic")


@needs_tonic
def test_saccades_are_those_of_tonic(tmp_path):
    from tonic.io import read_mnist_file

    rng = np.random.default_rng(0)
    for digit in range(10):
        times = np.sort(rng.integers(0, 2**17, 200))
        rows = [(int(x), int(y), int(s), int(t)) for (x, y, s), t in zip(
            rng.integers(0, (34, 34, 2), (200, 3)), times, strict=True)]  # fmt: skip
        rows[100] = (0, 240, 0, rows[100][3])
        published.saccades(tmp_path / f"Train/{digit}/00001.bin", rows)
    dtype = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
    for i, (times, channels) in enumerate(datasets.n_mnist(tmp_path, "train")):
        theirs = read_mnist_file(str(tmp_path / f"Train/{i}/00001.bin"), dtype)
        y, x, signs = np.unravel_index(channels, (34, 34, 2))
        for ours, name in ((times, "t"), (x, "x"), (y, "y"), (signs, "p")):
            np.testing.assert_array_equal(ours, theirs[name])


@needs_tonic
def test_gestures_are_those_of_tonic(sets, monkeypatch):
    from tonic import io

    header = io.read_aedat_header_from_file  # which gives three values where its caller takes two
    monkeypatch.setattr(io, "read_aedat_header_from_file", lambda name: header(name)[:2])
    _, theirs = io.read_dvs_ibm(str(sets / "gesture/user24_lab.aedat"))
    test = datasets.dvs_gesture(sets / "gesture", "test")
    for label, (times, channels) in zip(test.labels, test, strict=True):
        start = 10**6 * (label + 1)
        among = theirs[(theirs["t"] >= start) & (theirs["t"] < start + 900_000)]
        y, x, signs = np.unravel_index(channels, (128, 128, 2))
        for ours, name in ((times + start, "t"), (x, "x"), (y, "y"), (signs, "p")):
            np.testing.assert_array_equal(ours, among[name])


@needs_tonic
def test_spikes_and_their_frames_are_those_of_tonic(sets, tmp_path):
    import tonic

    (tmp_path / "SHD").mkdir()
    (tmp_path / "SHD/shd_train.h5").symlink_to(sets / "shd/shd_train.h5")
    (tmp_path / "SHD/shd_train.h5.zip").touch()  # else it is fetched
    theirs = tonic.datasets.SHD(str(tmp_path), train=True)
    ours = datasets.shd(sets / "shd", "train")
    steps = tonic.transforms.ToFrame(
        sensor_size=(700, 1, 1), time_window=10_000, start_time=0, end_time=1_000_000
    )
    frames = ours.frames(100, 0.01)
    assert len(theirs) == len(ours) and ours.speakers.tolist() == theirs.speaker.tolist()
    for i in range(0, len(ours), 7):
        events, label = theirs[i]
        np.testing.assert_array_equal(events["x"], ours[i][1])
        np.testing.assert_allclose(events["t"], 1e6 * ours[i][0], atol=1)
        assert label == ours.labels[i]
        np.testing.assert_array_equal(steps(events)[:, 0], frames[i])
