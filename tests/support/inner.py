"""Tests that need a process of their own, which pytest runs from within a test."""

import os
import re
import subprocess
import sys

import pages


def run(tier, *args, **environment):
    """Run pytest with a tier and other arguments; it must pass tests and skip none.

    Args:
        tier: of the tests.
        args: of pytest.
        environment: variables that differ; None for one that is removed.
    """
    changed = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         "--tier", tier, *args],
        capture_output=True,
        text=True,
        cwd=pages.ROOT,
        env={name: value for name, value in changed.items() if value is not None},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout
