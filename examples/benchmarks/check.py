"""Whether the sides compute the same, or at least something sensible."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterable, Mapping

import numpy as np
from cases import Case
from team import Worker, WorkerError

# Of float32 sums in different order: relative to a value, and to the root mean square of its array.
RTOL, RMS_TOL = 2e-4, 1e-4
BFLOAT16_RTOL = 2**-7
# A membrane so close to its threshold that rounding decides flips a spike, and with it some that
# follow and gradients before and after. Among millions a few do. These shares of an array may.
FLIPPED = {"y": 1e-5, "x": 1e-4}
FLIPPED_PARAMETERS = 0.02
SILENT, BUSY = 0.01, 0.5  # share of spikes between which a layer counts as firing


def check(case: Case, workers: Mapping[str, Worker], reference: str) -> list[str]:
    """Compare what the sides make of a case that they have built, and print a line for each.

    Args:
        case: what they have built.
        workers: the sides.
        reference: the one that others are compared with.

    Returns:
        What is wrong, one line each.
    """
    wrong: list[str] = []
    expected: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in sorted(workers, key=lambda side: side != reference):
            worker = workers[side]
            path = pathlib.Path(folder) / f"{side}.npz"
            try:
                equal = worker.ask("check", path=str(path))["equal"]
            except WorkerError as error:
                wrong.append(f"{case.name} {side}: {error}")
                continue
            with np.load(path) as file:
                results = dict(file)
            path.unlink()
            problems = list(_sanity(case, results))
            facts = list(_facts(results))
            if side == reference:
                expected = results
            elif equal:
                found, different = _compare(case, results, expected, equal)
                problems += different
                facts.append(f"equal to {reference}: {found}")
            wrong += [f"{case.name} {side}: {problem}" for problem in problems]
            if problems:
                facts.append("WRONG")
            print(f"{case.name} {side}: {'; '.join(facts) or 'nothing to compare'}")
    return wrong


def _sanity(case: Case, results: dict[str, np.ndarray]) -> Iterable[str]:
    for name, array in results.items():
        if not np.isfinite(array).all():
            yield f"`{name}` is not finite"
        if not case.network:
            allowed = [case.shape] if name in ("x", "y") else [(), (case.neurons,)]
            if array.shape not in allowed:
                yield f"`{name}` has shape {array.shape}"
        if name not in ("y", "loss") and not array.any():
            yield f"the gradient of `{name}` is zero"
    if "y" in results and not SILENT < _rate(results["y"]) < BUSY:
        yield f"fires in {_rate(results['y']):.1%} of the steps"


def _rate(y: np.ndarray) -> float:
    """Share of spikes; of probabilities, those above a half count."""
    return float((np.abs(y) > 0.5).mean())


def _compare(
    case: Case,
    results: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    equal: list[str],
) -> tuple[str, list[str]]:
    """Which of the results that should be equal are, and what is wrong with the others."""
    same, wrong = [], []
    for name in equal:
        if name not in expected:
            wrong.append(f"there is no `{name}` to compare with")
            continue
        share = float(_apart(case, name, results[name], expected[name]).mean())
        flipped = FLIPPED.get(name, FLIPPED_PARAMETERS) if not case.network else 0.0
        if share > flipped:
            distance = np.abs(results[name] - expected[name]).max()
            wrong.append(f"{share:.1e} of `{name}` differ, by up to {distance:.1e}")
        else:
            same.append(f"{name} but for {share:.1e} of it" if share else name)
    return "all" if set(same) == results.keys() else ", ".join(same) or "nothing", wrong


def _apart(case: Case, name: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where values differ by more than rounding."""
    rms = np.linalg.norm(b.ravel()) / np.sqrt(b.size)
    rounded = case.dtype == "bfloat16" and name in ("x", "y")
    allowed = (BFLOAT16_RTOL if rounded else RTOL) * np.abs(b) + RMS_TOL * rms
    return ~(np.abs(a - b) <= allowed)


def _facts(results: dict[str, np.ndarray]) -> Iterable[str]:
    if "y" in results:
        y = results["y"]
        yield f"sum of spikes {y.sum():.0f}, firing rate {_rate(y):.1%}"
    if "loss" in results:
        yield f"loss {results['loss']:.5f}"
    gradients = results.keys() - {"y", "loss"}
    if gradients:
        yield f"{len(gradients)} gradients"
