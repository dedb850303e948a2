"""The tests of what depends on how XLA compiles, in processes that compile as users do."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import FLAGS

HERE = pathlib.Path(__file__).parent
FILES = [
    path.name
    for path in sorted(HERE.glob("test_*.py"))
    if re.search(r"^ *@pytest\.mark\.optimised$", path.read_text(), re.M)
]


@pytest.mark.slow
def test_as_users_compile(request):
    """XLA reads its flags once in a process, and the suite has some to compile quickly."""
    flags = os.environ.get("XLA_FLAGS", "").replace(FLAGS, "").strip()
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "false"}
    if not flags:
        environment.pop("XLA_FLAGS")
    tier = request.config.getoption("--tier")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         "--optimised", "--tier", tier, *(HERE / name for name in FILES)],
        capture_output=True,
        text=True,
        cwd=HERE.parent,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout
