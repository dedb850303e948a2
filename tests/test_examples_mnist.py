"""The examples on MNIST and MNIST-1D as a user starts them."""

import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def run(name, *args):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *args], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "command",
    ["mnist_1d.py", "mnist_rows.py", "mnist_rows.py --mode pixels", "mnist_conv.py"],
)
def test_it_runs(command):
    done = run(*command.split(), "--smoke")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^test accuracy 0\.\d{3}$", done.stdout.strip().splitlines()[-1])
    assert "2/2" in done.stderr  # the progress bar


@pytest.mark.parametrize("name", ["mnist_1d.py", "mnist_rows.py", "mnist_conv.py"])
def test_missing_data_are_told(name, tmp_path):
    done = run(name, "--data", str(tmp_path / "none.npz"))
    assert done.returncode == 1
    assert re.search(r"^error: there is no .*none\.npz\. Leave out --data to ", done.stderr)
    assert "Traceback" not in done.stderr
