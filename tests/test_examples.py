"""Every example as a user runs it, on tiny data."""

import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
RESULTS = {
    "ecg_segmentation": "test accuracy",
    "spoken_digits": "test accuracy",
    "mnist_rows": "test accuracy",
    "mnist_rows --mode pixels": "test accuracy",
    "mnist_conv": "test accuracy",
    "mnist_1d": "test accuracy",
    "shd": "test accuracy",
    "byte_lm": "validation nats per byte",
    "distributed": "test accuracy",
    "population": "test accuracy",
}
NAMES = sorted({command.split()[0] for command in RESULTS})
EMBEDDED = ("distributed", "population")  # data that come with scikit-learn


def run(name, *args):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *args],
        capture_output=True,
        text=True,
        cwd=EXAMPLES.parent,
    )


def test_every_example_is_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"digits", "harness", *NAMES}


@pytest.mark.parametrize("command", RESULTS)
def test_runs_and_ends_with_its_result(command):
    done = run(*command.split(), "--smoke")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"{RESULTS[command]} \d\.\d{{3}}", done.stdout.splitlines()[-1])
    assert re.search(r"100%.*2/2", done.stderr)  # the progress bar


@pytest.mark.parametrize("name", [name for name in NAMES if name not in EMBEDDED])
def test_data_that_are_missing_are_named(name, tmp_path):
    path, file = tmp_path / "nowhere.npz", r"nowhere\.npz"
    if name == "shd":  # a folder
        path, file = tmp_path, r"shd_train\.h5"
    done = run(name, "--data", str(path))
    assert done.returncode == 1 and not done.stdout
    assert re.search(rf"^error: there is no .*{file}\. ", done.stderr, re.M), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_to_type(name):
    done = run(name, "--help")
    assert done.returncode == 0
    assert f"python examples/{name}.py" in done.stdout and "--seed" in done.stdout
