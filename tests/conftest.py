"""Every test runs under JAX's strictest rules, and leaves no compiled programs behind."""

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Run a test with 64-bit types."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def _clear_caches():
    """Free the programs of one file before the next: LLVM's memory maps are limited."""
    yield
    jax.clear_caches()
