"""Every example as a user runs it, on tiny data."""

import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
RESULTS = {
    "ecg_segmentation": r"test accuracy 0\.\d{3}",
    "byte_lm": r"validation nats per byte \d\.\d{3}",
}


def run(name, *args):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *args],
        capture_output=True,
        text=True,
        cwd=EXAMPLES.parent,
    )


@pytest.mark.parametrize("name", RESULTS)
def test_runs_and_ends_with_its_result(name):
    done = run(name, "--smoke")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(RESULTS[name], done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", RESULTS)
def test_data_that_are_missing_are_named(name, tmp_path):
    done = run(name, "--data", str(tmp_path / "nowhere.npz"))
    assert done.returncode == 1 and not done.stdout
    assert re.search(r"^error: there is no .*nowhere\.npz\. ", done.stderr, re.M), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", RESULTS)
def test_help_says_what_to_type(name):
    done = run(name, "--help")
    assert done.returncode == 0
    assert f"python examples/{name}.py" in done.stdout and "--seed" in done.stdout
