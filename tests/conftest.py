"""Every test runs under JAX's strictest rules; random trials have two profiles."""

import pathlib

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# Compilation dominates the suite, so most tests compile quickly rather than well.
jax.config.update("jax_disable_most_optimizations", True)


def pytest_addoption(parser):
    parser.addoption(
        "--long",
        action="store_true",
        help="many random trials, drawn anew, rather than a few; and the tests marked long",
    )


def pytest_configure(config):
    """Random trials: the same few every day, other and many more ones with `--long`."""
    try:
        from hypothesis import HealthCheck, Phase, settings
    except ImportError:  # the environments with other packages do without
        return
    common = {
        "deadline": None,  # how long an example takes is the machine's affair
        "database": None,
        "phases": [Phase.explicit, Phase.generate, Phase.shrink],
        "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    }
    settings.register_profile("daily", derandomize=True, max_examples=20, **common)
    settings.register_profile("long", max_examples=500, print_blob=True, **common)
    settings.load_profile("long" if config.getoption("--long") else "daily")


def pytest_collection_modifyitems(config, items):
    """Leave out what only `--long` is for."""
    if not config.getoption("--long"):
        config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]


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
def free_programs():
    """Drop compiled programs before they use up the memory maps that a process may have.

    Well before, since Python's garbage collector slows down with every program that is kept. It is
    done after every test, and whenever a test that compiles many of them calls this.
    """

    def free():
        maps = pathlib.Path("/proc/self/maps")
        if maps.exists() and maps.read_bytes().count(b"\n") > 6_000:
            jax.clear_caches()

    yield free
    free()
