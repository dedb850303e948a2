"""Every example as a user runs it, on tiny data."""

import pathlib
import re
import runpy
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
RESULTS = {
    "ecg_segmentation": "test accuracy",
    "ecg_segmentation --max-rate 0.1": "test accuracy",
    "ecg_segmentation --compare LIB LIT": "held-out accuracy of the last",
    "spoken_digits": "test accuracy",
    "mnist_rows": "test accuracy",
    "mnist_rows --mode pixels": "test accuracy",
    "mnist_rows --mode permuted": "test accuracy",
    "mnist_conv": "test accuracy",
    "mnist_1d": "test accuracy",
    "shd": "test accuracy",
    "shd --set ssc": "test accuracy",
    "online_stream": "test accuracy",
    "online_stream --method bptt --cosines": "test accuracy",
    "byte_lm": "validation nats per byte",
    "byte_lm --layer LIT --tune": "validation nats per byte",
    "distributed": "test accuracy",
    "population": "test accuracy",
    "series": "test accuracy",
    "series --compare LIB LIT": "mean accuracy of the last",
}
NAMES = sorted({command.split()[0] for command in RESULTS})
EMBEDDED = ("distributed", "online_stream", "population")  # data that come with scikit-learn


def run(name, *args):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *args],
        capture_output=True,
        text=True,
        cwd=EXAMPLES.parent,
    )


@pytest.fixture
def call(monkeypatch, capsys):
    """Run an example in this process; gives its exit status and what it printed and complained."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(name, *args):
        path = str(EXAMPLES / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *args])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(path, run_name="__main__")
        out, err = capsys.readouterr()
        if isinstance(stop.value.code, str):  # which Python prints as it ends
            return 1, out, f"{err}{stop.value.code}\n"
        return stop.value.code, out, err

    return run


def test_every_example_is_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "digits", "harness", "ported", "pretrained", "sparsity", *NAMES,
    }  # fmt: skip


@pytest.mark.nightly
@pytest.mark.parametrize("mode", ["rows", "image"])
def test_ported_gives_a_table(mode):
    done = run("ported", "--smoke", "--seeds", "2", "--mode", mode)
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split()[:2] == ["form", "accuracy"] and len(rows) == 2
    assert all(re.search(r"0\.\d{3} ± \d\.\d{3} +[01]\.\d{3} +0\.\d+$", row) for row in rows)


@pytest.mark.nightly
@pytest.mark.parametrize("command", RESULTS)
def test_runs_and_ends_with_its_result(command):
    done = run(*command.split(), "--smoke")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"{RESULTS[command]} \d\.\d{{3}}", done.stdout.splitlines()[-1])
    assert re.search(r"100%.*2/2", done.stderr)  # the progress bar


@pytest.mark.nightly
def test_sparsity_gives_a_table_and_a_plot(tmp_path):
    done = run("sparsity", "--smoke", "--seeds", "2", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ +[\d.]+ +[01]\.\d{3} +\d\.\d{3} +\d+ +[\d.]+$", done.stdout, re.M)
    assert len(rows) == 4 and (tmp_path / "sparsity.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", [name for name in NAMES if name not in EMBEDDED])
def test_data_that_are_missing_are_named(name, tmp_path, call):
    path, file = tmp_path / "nowhere.npz", r"nowhere\.npz"
    if name == "shd":  # a folder
        path, file = tmp_path, r"shd_train\.h5"
    status, out, err = call(name, "--data", str(path))
    assert status == 1 and not out
    assert re.search(rf"^error: .*there is no .*{file}\. ", err, re.M), err


@pytest.mark.nightly
def test_an_error_of_an_example_is_one_line_and_no_traceback(tmp_path):
    done = run("mnist_rows", "--data", str(tmp_path / "nowhere.npz"))
    assert done.returncode == 1 and not done.stdout
    assert re.fullmatch(r"error: there is no .*nowhere\.npz\. .*\n", done.stderr), done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_to_type(name, call):
    status, out, _ = call(name, "--help")
    assert not status
    assert f"python examples/{name}.py" in out and "--seed" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "--data must name a file"),
        (("--smoke", "--compare", "LIB", "--seeds", "1"), "--compare needs --seeds of 2 or more"),
        (("--smoke", "--hold-out", "1"), "--hold-out must be a share between 0 and 1; got 1.0."),
        (
            ("--smoke", "--groups", "who"),
            r"--groups must be one of \['length', 'x', 'y'\]; got who.",
        ),
        (
            ("--smoke", "--groups", "y", "--only", "3"),
            "--only must be one of the groups 0 1 2; got 3.",
        ),
        (("--smoke", "--only", "3"), "--only needs --groups."),
    ],
)
def test_series_says_what_it_needs(args, message, call):
    status, out, err = call("series", *args)
    assert status == 1 and not out
    assert re.search(f"^error: {message}", err, re.M), err
