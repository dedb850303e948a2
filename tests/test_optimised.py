"""The tests of what depends on how XLA compiles, in a process that compiles as users do."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.mark.slow
def test_as_users_compile(request):
    """XLA reads its flags once in a process, and the suite has some to compile quickly."""
    files = [str(path) for path in HERE.glob("test_*.py") if ".mark.optimised" in path.read_text()]
    tier = request.config.getoption("--tier")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         "--optimised", "--tier", tier, *files],
        capture_output=True,
        text=True,
        cwd=HERE.parent,
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert len(files) >= 5 and re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout
