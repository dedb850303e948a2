"""The tests of what depends on how XLA compiles, in processes that compile as users do."""

import os
import pathlib
import re

import inner
import pytest
from conftest import FLAGS

FILES = [
    path
    for path in sorted(pathlib.Path(__file__).parent.glob("test_*.py"))
    if re.search(r"^ *@pytest\.mark\.optimised$", path.read_text(), re.M)
]


@pytest.mark.slow
def test_as_users_compile(request):
    """XLA reads its flags once in a process, and the suite has some to compile quickly."""
    flags = os.environ.get("XLA_FLAGS", "").replace(FLAGS, "").strip()
    inner.run(
        request.config.getoption("--tier"), "--optimised", *FILES,
        XLA_FLAGS=flags or None, JAX_DISABLE_MOST_OPTIMIZATIONS="false",
    )  # fmt: skip
