"""The trained networks that come with the examples, and their page."""

import argparse
import importlib
import json
import re
import runpy
import shlex
import shutil
import sys

import jax
import numpy as np
import pytest
from generate.sessions import run, sessions
from pages import ROOT, read

from tracetorch_jax import export

EXAMPLES = ROOT / "examples"
FOLDER = EXAMPLES / "pretrained"
NAMES = ("digits", "ecg", "spoken")
PAGE = read("how-to/pretrained")

pytestmark = pytest.mark.usefixtures("standard")


@pytest.fixture
def pretrained(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("pretrained")


@pytest.fixture
def call(monkeypatch, capsys):
    """Run an example in this process; gives what it printed, or how it ended."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def run(command, *more):
        path = EXAMPLES / f"{command.split()[0]}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *command.split()[1:], *map(str, more)])
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as stop:
            return f"{stop.code} {''.join(capsys.readouterr())}"
        return capsys.readouterr().out

    return run


def test_these_are_all_and_they_are_small(pretrained):
    assert tuple(pretrained.names()) == NAMES
    ends = (".json", ".npz", "_test.npz")
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    notice = (FOLDER / "LICENSE.md").read_text()
    assert set(files) == {"LICENSE.md"} | {name + end for name in NAMES for end in ends}
    assert all(f"`{name}`" in notice for name in files if name.endswith(".npz"))
    assert sum(files.values()) < 600_000


@pytest.mark.parametrize("name", NAMES)
def test_a_network_does_what_its_card_says(name, pretrained):
    network = pretrained.load(name)
    card, stored = network.card, network.card["stored"]
    answers, rates = network.answer(network.variables, *network.prepare(**network.inputs))
    assert answers.shape == network.labels.shape and len(answers) == len(rates) == stored["rows"]
    right = (np.asarray(answers) == network.labels)[network.counted]
    assert 0.7 < stored["accuracy"] < 1
    # Of the electrocardiograms each step counts: rounding moves spikes, and so some of the answers.
    assert abs(right.mean() - stored["accuracy"]) < (1e-3 if name == "ecg" else 1e-9)
    np.testing.assert_allclose(rates.mean(), stored["firing_rate"], rtol=5e-3)
    assert sum(x.size for x in jax.tree.leaves(network.variables["params"])) == card["parameters"]
    about = card["about"]
    assert network.labels.max() == len(about["classes"]) - 1
    assert {"task", "input", "output", "split", "source", "licence of the data"} < set(about)
    assert re.match("no," if name == "spoken" else "yes,", about["stream"])
    assert set(card["versions"]) > {"jax", "flax", "numpy"}
    assert card["test"]["rows"] > stored["rows"] and card["seed"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_became_nan_has_no_firing_rate(name, pretrained):
    """By which --compare tells it from others."""
    network = pretrained.load(name)
    inputs = network.prepare(**{key: x[:1] for key, x in network.inputs.items()})
    lost = jax.tree.map(lambda x: x * np.nan, network.variables)
    answers, rates = network.answer(lost, *inputs)
    assert np.isnan(rates).all() and (name != "spoken" or (answers == -1).all())


@pytest.mark.parametrize("name", NAMES)
def test_the_command_on_a_card_is_one_of_its_example(name, pretrained, monkeypatch):
    """It is read as such, and asks for the seed and the network that the card names."""
    card, *_ = pretrained.restore(FOLDER / name)
    python, script, *words = shlex.split(card["command"])
    assert (python, script) == ("python", f"examples/{card['example']}.py")
    parse = argparse.ArgumentParser.parse_args

    class Parsed(Exception):
        pass

    def stop(parser):
        raise Parsed(parse(parser, words))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Parsed) as found:
        importlib.import_module(card["example"]).main()
    given = vars(found.value.args[0])
    assert given["save"].as_posix() == f"examples/pretrained/{name}"
    known = given.keys() & card["options"].keys()
    assert len(known) > 0 and given["seed"] == card["seed"]
    assert {key: given[key] for key in known} == {key: card["options"][key] for key in known}


@pytest.mark.parametrize(("name", "steps"), [("digits", 1), ("ecg", 40)])
def test_a_stream_gives_what_the_whole_sequence_gives(name, steps, pretrained):
    network = pretrained.load(name)
    inputs = {key: x[:2, :steps] if name == "ecg" else x[:2] for key, x in network.inputs.items()}
    (xs,) = network.prepare(**inputs)
    whole = network.model.apply(network.variables, xs)
    xs = np.repeat(xs, whole.shape[1] // xs.shape[1], axis=1)  # the image stays
    program = export.step(network.model, network.variables, f"b, {xs.shape[-1]}")
    step, carry = jax.jit(program.call), export.initial_carry(program, xs[:, 0])
    for x, expected in zip(xs.swapaxes(0, 1), whole.swapaxes(0, 1), strict=True):
        carry, y = step(carry, x)
        np.testing.assert_allclose(y, expected, atol=1e-4)


def test_a_wrong_name_gets_the_right_ones(pretrained, call):
    with pytest.raises(
        ValueError, match=r"`name` must be one of \['digits', 'ecg', 'spoken'\];.*x"
    ):
        pretrained.load("x")
    said = call("pretrained x")
    assert said.startswith("2 ") and all(name in said for name in NAMES)


@pytest.fixture
def copy(tmp_path):
    for name in ("digits", "ecg"):
        for path in FOLDER.glob(f"{name}[._]*"):
            shutil.copy(path, tmp_path)
    return tmp_path


@pytest.mark.parametrize("end", [".npz", "_test.npz"])
def test_files_that_are_missing_or_damaged_are_named(end, pretrained, copy):
    path = copy / f"digits{end}"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"digits{end} can't be read as an \.npz file"):
        pretrained.load("digits", copy)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"there is no .*digits{end}\."):
        pretrained.load("digits", copy)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"example": "digits"}'])
def test_a_damaged_card_is_named(text, pretrained, copy):
    (copy / "digits.json").write_text(text)
    with pytest.raises(ValueError, match=r"digits\.json is not the card of a network"):
        pretrained.load("digits", copy)


@pytest.mark.parametrize("example", ["nothing", "harness", ""])
def test_a_card_of_no_example_is_named(example, pretrained, copy):
    card = json.loads((copy / "digits.json").read_text())
    (copy / "digits.json").write_text(json.dumps(card | {"example": example}))
    with pytest.raises(ValueError, match="digits do not fit together"):
        pretrained.load("digits", copy)


def test_files_of_different_networks_do_not_fit(pretrained, copy):
    shutil.copy(copy / "ecg.npz", copy / "digits.npz")
    with pytest.raises(ValueError, match="are not those of the network on its card"):
        pretrained.load("digits", copy)
    shutil.copy(copy / "digits_test.npz", copy / "ecg_test.npz")
    with pytest.raises(ValueError, match="do not fit together: .*pixels"):
        pretrained.load("ecg", copy)


@pytest.mark.parametrize("example", ["nope", "os", "harness", "../digits", 3, None])
def test_a_card_of_no_example(example, pretrained, copy):
    path = copy / "digits.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"example": example}))
    with pytest.raises(ValueError, match="do not fit together: no example .* can load a network"):
        pretrained.load("digits", copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.pop("y"), r"lack \['y'\]"),
        (lambda rows: rows.pop("counted"), r"lack \['counted'\]"),
        (lambda rows: rows.update(y=rows["y"][:4], counted=rows["counted"][:4]), "one number"),
        (lambda rows: rows.update({name: x[:0] for name, x in rows.items()}), "one number"),
        (lambda rows: rows.update({name: x[0] for name, x in rows.items()}), "one number"),
        (lambda rows: rows.update(counted=rows["counted"][:, None]), "counted have shapes"),
    ],
)
def test_rows_that_do_not_fit_each_other(change, said, pretrained, copy):
    rows = dict(np.load(copy / "digits_test.npz"))
    change(rows)
    np.savez(copy / "digits_test.npz", **rows)
    with pytest.raises(ValueError, match=f"do not fit together: .*{said}"):
        pretrained.load("digits", copy)


@pytest.mark.parametrize("flag", [1, 32], ids=["encrypted", "patched"])
def test_a_flag_that_zipfile_can_not_read(flag, pretrained, copy):
    path = copy / "digits_test.npz"
    changed = bytearray(path.read_bytes())
    changed[changed.index(b"PK\x01\x02") + 8] ^= flag
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=r"can't be read as an \.npz file"):
        pretrained.load("digits", copy)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "must end with a name"),
        (".", "must end with a name"),
        ("runs/..", "must end with a name"),
        ("file/own", "file is none"),
        ("list", "list.json is no card"),
        ("text", "text.json is no card"),
    ],
)
def test_paths_at_which_nothing_can_be_saved(path, said, pretrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "text.json").write_text("{about")
    parser = argparse.ArgumentParser(exit_on_error=False)
    pretrained.add_save(parser)
    with pytest.raises(argparse.ArgumentError, match=said):
        parser.parse_args(["--save", path])


def test_a_network_of_which_nobody_wrote_is_shown(pretrained, copy, monkeypatch, capsys):
    path = copy / "digits.json"
    card = json.loads(path.read_text())
    del card["about"]
    path.write_text(json.dumps(card))
    monkeypatch.setattr(pretrained, "FOLDER", copy)
    monkeypatch.setattr(pretrained.names, "__defaults__", (copy,))
    pretrained.show_all()
    assert "0.969" in capsys.readouterr().out
    pretrained.show("digits", pretrained.load("digits", copy), slice(2))
    assert "whole test set" in capsys.readouterr().out


def test_a_changed_byte_is_noticed(pretrained, copy, trials):
    """Or it is one that changes no value, such as that of a date."""
    path = copy / "digits_test.npz"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    expected, noticed = pretrained.harness.arrays(path), 0
    for place in rng.choice(len(whole), trials(60, len(whole)), replace=False):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            found = pretrained.harness.arrays(path)
        except ValueError:
            noticed += 1
        else:
            assert all((found[name] == expected[name]).all() for name in expected)
    assert noticed > 30


def test_what_is_saved_is_loaded(pretrained, tmp_path, monkeypatch):
    """With what a person wrote on the card before, and the rows as bytes."""
    network = pretrained.load("digits")
    about = {"task": "mine"}
    (tmp_path / "own.json").write_text(json.dumps({"about": about, "seed": 7}))
    monkeypatch.setattr(sys, "argv", ["examples/digits.py", "--seed", "3"])
    variables = jax.tree.map(lambda x: x + 1, network.variables)
    rows = {"pixels": network.inputs["pixels"].astype(np.float32), "y": network.labels}
    answers = np.where(np.arange(50) < 10, 10, network.labels)  # 40 of 50 are right
    options, rates = network.card["options"], np.arange(50) / 50
    pretrained.save(
        tmp_path / "own",
        variables,
        rows,
        answers,
        rates,
        stored=20,
        seed=3,
        options=options,
        more=5,
    )
    own = pretrained.load("own", tmp_path)
    jax.tree.map(np.testing.assert_array_equal, own.variables, variables)
    assert own.card["about"] == about and own.card["seed"] == 3
    assert own.card["command"] == "python examples/digits.py --seed 3"
    assert own.card["test"] == {
        "rows": 50, "accuracy": 0.8, "firing_rate": pytest.approx(0.49), "more": 5
    }  # fmt: skip
    assert own.inputs["pixels"].dtype == np.uint8 and own.counted.all()
    rows = [(network.inputs["pixels"] == x).all((1, 2)).argmax() for x in own.inputs["pixels"]]
    assert (np.diff(rows) > 0).all() and (own.labels == network.labels[rows]).all()
    stored = own.card["stored"]
    assert stored["rows"] == len(rows) == 20
    assert stored["accuracy"] == pytest.approx(np.mean(np.array(rows) >= 10))
    assert stored["firing_rate"] == pytest.approx(rates[rows].mean())


@pytest.mark.nightly
@pytest.mark.parametrize(
    "command", ["series", "digits --mode rows", "ecg_segmentation --layer LIB --past 4"]
)
def test_a_network_of_ones_own_is_saved_and_loaded(command, call, pretrained, tmp_path):
    about = {"task": "mine", "classes": ["a"]}
    (tmp_path / "own.json").write_text(json.dumps({"about": about, "seed": 7}))
    more = ("--out", tmp_path) if command.startswith("digits") else ()
    printed = call(command, "--smoke", "--save", tmp_path / "own.npz", *more)
    network = pretrained.load("own", tmp_path)
    card, (accuracy, rate, _) = network.card, pretrained.score(network, slice(None))
    assert card["about"] == about and card["seed"] == 0
    assert card["example"] == command.split()[0]
    np.testing.assert_allclose(accuracy, card["stored"]["accuracy"], atol=2e-3)
    np.testing.assert_allclose(rate, card["stored"]["firing_rate"], rtol=5e-3)
    of_all = card["test"].get("accuracy_of_all_steps", card["test"]["accuracy"])
    assert f"{of_all:.3f}" == printed.split()[-1]


@pytest.mark.parametrize(
    "command",
    [
        *("digits --seeds 2", "ecg_segmentation --seeds 2", "ecg_segmentation --tune"),
        *("series --seeds 2", "series --compare LIB", "series --hold-out 0.2"),
    ],
)
def test_one_network_is_saved_at_a_time(command, call, tmp_path):
    said = call(command, "--smoke", "--save", tmp_path / "own")
    assert said.startswith("error: --save writes one network") and not list(tmp_path.iterdir())


def test_the_list_is_that_of_the_page(call):
    (shown,) = re.findall(r"pretrained\.py\n```\n\n```text\n(.*?)```", PAGE, re.S)
    assert call("pretrained") == shown


def test_the_command_line_shows_a_network(call):
    printed = call("pretrained spoken --smoke")
    assert "licence of the data: CC BY-SA 4.0" in printed
    whole, now = printed.splitlines()[-2:]
    assert re.fullmatch(r"whole test set +500 +0\.\d{3} +0\.\d{3}", whole)
    assert re.fullmatch(r"stored rows, now +2 +0\.\d{3} +\d+\.\d +[01]\.\d{3}", now)
    assert "python examples/pretrained.py ecg" in call("pretrained --help")


@pytest.mark.slow
@pytest.mark.parametrize("i", range(len(sessions(PAGE))))
def test_the_code_of_the_page_runs(i, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    run(sessions(PAGE)[i], "how-to/pretrained")
