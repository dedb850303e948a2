"""Every test runs under JAX's strictest rules."""

import pathlib

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# Scripts that are run by hand, with packages that the tests do not have.
collect_ignore_glob = ["make_*.py"]

# Compilation dominates the suite, so most tests compile quickly rather than well.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def optimised():
    """Compile as users do: with all optimisations."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def x64():
    """Run a test with 64-bit types."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def _free_programs():
    """Drop compiled programs before they use up the memory maps that a process may have.

    Well before, since Python's garbage collector slows down with every program that is kept.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 6_000:
        jax.clear_caches()
