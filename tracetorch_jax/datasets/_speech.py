"""Google's Speech Commands: folders of WAV files."""

from __future__ import annotations

import os
import pathlib
import wave
from collections.abc import Iterator

import numpy as np

from tracetorch_jax._shared.checks import check_choice, in_brief
from tracetorch_jax.datasets._files import damaged, folder_of, there
from tracetorch_jax.datasets._rows import Sounds

RATE = 16000
_LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}


def speech_commands(folder: str | os.PathLike[str], split: str) -> Sounds:
    r"""Google's Speech Commands: recordings of one second, words spoken by thousands of people.

    Version 0.02 has 84843 sounds to train on, 9981 to choose settings with and 11005 to test, in 35
    classes. The published lists say which are which; no speaker is in two of them.
    ``_background_noise_`` belongs to none. With its defaults `Sounds.log_mel` makes 1.3 GB of the
    training set.

    Args:
        folder: where the folders of the words, ``validation_list.txt`` and ``testing_list.txt``
            are.
        split: "train", "valid" or "test".

    Returns:
        `Sounds` of 16000 samples at 16 kHz: shorter ones are padded with zeros, longer ones cut.
        `classes` are the words, in the order of the alphabet, and `speakers` texts, by which the
        files are named.

    Raises:
        FileNotFoundError: a list, a sound that is in a list, or every word is missing.
        ValueError: `split` is none. A sound that is read is damaged, or not of one channel, 16 bits
            and 16 kHz.

    Reference: Warden, "Speech Commands: a dataset for limited-vocabulary speech recognition",
    arXiv:1804.03209, 2018; CC BY 4.0.

    Example:
        >>> import wave
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("up/0a_nohash_0.wav", "down/0b_nohash_0.wav", "up/0b_nohash_1.wav"):
        ...     (folder / name).parent.mkdir(exist_ok=True)
        ...     with wave.open(str(folder / name), "wb") as file:
        ...         file.setparams((1, 2, 16000, 0, "NONE", ""))
        ...         file.writeframes(np.arange(16000, dtype=np.int16).tobytes())
        >>> _ = (folder / "validation_list.txt").write_text("up/0a_nohash_0.wav\n")
        >>> _ = (folder / "testing_list.txt").write_text("")
        >>> train = datasets.speech_commands(folder, "train")
        >>> train.classes, train.labels.tolist(), train.speakers.tolist()
        (('down', 'up'), [0, 1], ['0b', '0b'])
        >>> train.log_mel().shape
        (2, 98, 40)
    """
    check_choice("split", split, ("train", *_LISTS))
    source = "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
    how = f"Get it: curl -LO {source} && tar -xzf speech_commands_v0.02.tar.gz -C FOLDER"
    place = folder_of(folder, how)
    listed = {
        name: set(there(place / path, how).read_text(errors="replace").split())
        for name, path in _LISTS.items()
    }
    words = sorted(p.name for p in place.iterdir() if p.is_dir() and p.name[0] not in "_.")
    if not words:
        raise FileNotFoundError(
            f"`folder` must hold a folder for each word; {place} has none. {how}"
        )
    names = [f"{w}/{n}" for w in words for n in sorted(os.listdir(place / w)) if n.endswith(".wav")]
    for part, chosen in listed.items():
        if missing := sorted(chosen - set(names)):
            there(
                place / missing[0], f"It is one of {len(missing)} of {_LISTS[part]} missing. {how}"
            )
    held = listed["valid"] | listed["test"]
    names = [n for n in names if (n in listed[split] if split in listed else n not in held)]
    number = {word: i for i, word in enumerate(words)}

    def read(rows: np.ndarray) -> Iterator[np.ndarray]:
        for row in rows:
            yield _sound(place / names[row])

    return Sounds(
        read,
        [number[name.partition("/")[0]] for name in names],
        rate=RATE,
        speakers=[name.partition("/")[2].partition("_")[0] for name in names],
        classes=words,
    )


def _sound(path: pathlib.Path) -> np.ndarray:
    """A second of sound."""
    try:
        with wave.open(str(path), "rb") as file:
            kind = file.getnchannels(), 8 * file.getsampwidth(), file.getframerate()
            length, data = file.getnframes(), file.readframes(RATE)
    except (EOFError, wave.Error) as error:
        damaged(path, f"be a WAV file ({in_brief(error)})")
    if kind != (1, 16, RATE):
        damaged(path, "have 1 channel, 16 bits and {} Hz; got {}, {} and {}".format(RATE, *kind))
    if len(data) != 2 * min(length, RATE):
        damaged(path, f"have the {length} samples that it says; got {len(data) // 2}")
    sound = np.frombuffer(data, "<i2").astype(np.float32) / 2**15
    return np.pad(sound, (0, RATE - len(sound)))
