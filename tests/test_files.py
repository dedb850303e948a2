"""What is written stands there whole, whoever writes at the same time and whatever is killed."""

import pathlib

import pytest
import writers

from tracetorch_jax._shared import files as _files

WAYS = ("exchange", "rename")


@pytest.fixture
def rounds(trials):
    """How often something that depends on chance is done."""
    return trials(6, 60)


def test_nothing_is_there_before_all_of_it_is(tmp_path):
    path = tmp_path / "it"
    with _files.replacing(path, overwrite=False) as incoming:
        incoming.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    with (
        pytest.raises(KeyError, match="stopped"),
        _files.replacing(path, overwrite=True) as incoming,
    ):
        incoming.write_text("newer")
        raise KeyError("stopped")
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["it"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["folders", "files"])
def test_of_several_writers_one_wins(kind, way, tmp_path, rounds):
    for i, outcome in enumerate(writers.run("race", kind, tmp_path, rounds, way)):
        found = writers.values(tmp_path / str(i))
        assert len(found) == writers.PARTS and len(set(found)) == 1
        if i % 2:
            assert outcome == ["written"] * 3  # one after the other
        else:
            assert sorted(outcome) == ["exists", "exists", "written"]
            assert found[0] == outcome.index("written")
    assert len(list(tmp_path.iterdir())) == rounds  # nothing else was left


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["folders", "files"])
def test_a_killed_writer_loses_nothing(kind, way, tmp_path, rounds):
    written = writers.run("kill", kind, tmp_path, rounds, way)
    for i, value in enumerate(written):
        path = tmp_path / str(i) / "it"
        assert path.exists() or way == "rename"
        _files.finish(path)
        found = writers.values(path)
        assert found in ([value] * writers.PARTS, [value + 1] * writers.PARTS)
        # The next one removes what it left.
        with _files.replacing(path, overwrite=True) as incoming:
            incoming.mkdir() if kind == "folders" else incoming.write_text("")
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("killed", ["before the new one came", "when all was done"])
def test_what_was_stopped_is_finished(killed, tmp_path):
    """Between the two renames that stand for an exchange, nothing is under the path."""
    path, left = tmp_path / "it", _files.workspace(tmp_path / "it", 7)
    for name in ("old", "new"):
        (left / name).mkdir(parents=True)
        (left / name / "part").write_text(name)
    if killed == "when all was done":
        (left / "new").rename(path)
    _files.finish(path)
    assert (path / "part").read_text() == "new"
    _files.finish(path)
    with _files.replacing(path, overwrite=True) as incoming:
        incoming.mkdir()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("way", WAYS)
def test_who_finishes_first_does_not_matter(way, tmp_path, monkeypatch):
    """A reader may finish an exchange, and a folder may be lost before it."""
    path = tmp_path / "it"
    path.mkdir()
    (path / "part").write_text("old")
    if way == "rename":
        rename = pathlib.Path.rename

        def interrupted(self, target):
            moved = rename(self, target)
            if target.name == "old":
                _files.finish(path)
            return moved

        monkeypatch.setattr(_files, "_exchange", lambda one, two: False)
        monkeypatch.setattr(pathlib.Path, "rename", interrupted)
    with _files.replacing(path, overwrite=True) as incoming:
        incoming.mkdir()
        (incoming / "part").write_text("new")
    monkeypatch.undo()
    assert (path / "part").read_text() == "new"
    with (
        pytest.raises(FileNotFoundError),
        _files.replacing(path, overwrite=True) as incoming,
    ):
        incoming.mkdir()
        incoming.rmdir()
    assert (path / "part").read_text() == "new"


def test_what_someone_is_writing_is_left_alone(tmp_path):
    path = tmp_path / "it"
    with _files.replacing(path, overwrite=True) as slow:
        slow.write_text("slow")
        with _files.replacing(path, overwrite=True) as fast:
            fast.write_text("fast")
        assert path.read_text() == "fast"
    assert path.read_text() == "slow"


def test_a_full_disk_is_said_in_one_line(tmp_path):
    path = tmp_path / "it"
    path.write_text("old")
    with (
        pytest.raises(OSError, match="`path` is not written: No space left on device: '.*/it'$"),
        _files.replacing(path, overwrite=True) as incoming,
        open("/dev/full", "w") as full,
    ):
        incoming.write_text("new")
        full.write("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
