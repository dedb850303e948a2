"""The tiers of the suite, and JAX's strictest rules for every test."""

import os

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compilation dominates the suite, so tests compile quickly rather than well. A flag that XLA does
# not know ends the process: it knows these with jax 0.10, and no longer with 0.12.
FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

# What each tier leaves out.
TIERS = {"quick": {"slow", "nightly"}, "test": {"nightly"}, "all": set()}


@pytest.fixture
def standard():
    """JAX's rules as in a process of its own."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def browser():
    """A Chromium; skips the test where there is none."""
    import chromium

    with chromium.launch() as browser:
        yield browser


def pytest_addoption(parser):
    parser.addoption(
        "--tier",
        choices=TIERS,
        default="test",
        help="quick leaves out the tests marked slow or nightly, test leaves out those marked "
        "nightly; all runs every test, with many random trials that differ from run to run",
    )
    parser.addoption(
        "--optimised",
        action="store_true",
        help="run only the tests marked optimised, compiled as users compile",
    )


def pytest_configure(config):
    """Choose how programs are compiled, and how many random trials there are."""
    if not config.getoption("--optimised"):
        jax.config.update("jax_disable_most_optimizations", True)
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"  # of the processes that tests start
        if jax.__version_info__ < (0, 11) and FLAGS not in os.environ.get("XLA_FLAGS", ""):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
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
    settings.register_profile("nightly", max_examples=500, print_blob=True, **common)
    settings.load_profile("nightly" if config.getoption("--tier") == "all" else "daily")


def pytest_collection_modifyitems(config, items):
    """Leave out what does not belong to the tier or is compiled in another way."""
    out, optimised = TIERS[config.getoption("--tier")], config.getoption("--optimised")
    marks = {item: {mark.name for mark in item.iter_markers()} for item in items}
    left = {i for i, found in marks.items() if out & found or ("optimised" in found) != optimised}
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


@pytest.fixture
def x64():
    """Run a test with 64-bit types."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def free_programs():
    """Drop a file's compiled programs: each holds memory maps, of which a process may have few."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def interpreted():
    """Where there are no kernels for the CPU, Pallas interprets those of other devices."""
    from tracetorch_jax.functional.engines import fused, unroll
    from tracetorch_jax.functional.engines.native import build

    with pytest.MonkeyPatch.context() as patch:
        if build.why_not() is not None:
            patch.setattr(unroll, "_kernel", lambda: (fused.why_not, fused.scan_fused))
        yield


@pytest.fixture
def trials(request):
    """A function that picks how much is tried: its second argument in the last tier."""
    return lambda few, many: many if request.config.getoption("--tier") == "all" else few


@pytest.fixture
def full_disk():
    """A limit to the size of files, in bytes, which is noticed at the same place as a full disk."""
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
