"""Time a case on all sides, round by round."""

from __future__ import annotations

import dataclasses
from typing import Any

import table
from cases import Case
from check import check
from team import Team, WorkerError

WARM_UP_SECONDS = 0.5


@dataclasses.dataclass(kw_only=True)
class Plan:
    """How to measure.

    Attributes:
        rounds: over all sides.
        seconds: for each side in each round.
        batch: seconds of runs that are started without waiting for one another; 0 for one run.
        reference: the side that others are compared with; None to compare nothing.
        together: build on all sides at the same time, which is quick, but tells nothing about the
            time that it takes.
    """

    rounds: int
    seconds: float
    batch: float = 0.0
    reference: str | None = None
    together: bool = False


def measure(case: Case, team: Team, plan: Plan) -> tuple[list[table.Row], list[str]]:
    """Compare and time one case on every side that has it.

    Returns:
        A row for each side, and what was found wrong.
    """
    built: dict[str, dict[str, Any]] = {}
    answers: dict[str, list[dict[str, Any]]] = {}
    failures: dict[str, str] = {}
    refusals: dict[str, str] = {}
    build = {
        "case": case.message(),
        "seconds": min(plan.seconds, WARM_UP_SECONDS),
        "settle": not plan.together,
    }
    for worker in team.workers.values() if plan.together else ():
        worker.send("build", **build)
    for side, worker in team.workers.items():
        try:
            answer = worker.reply() if plan.together else worker.ask("build", **build)
        except WorkerError as error:
            failures[side] = f"failed: {error}"
            continue
        if "nothing" not in answer:
            built[side], answers[side] = answer, []
        elif answer["nothing"]:
            refusals[side] = f"not possible: {answer['nothing']}"
    wrong = []
    if plan.reference:
        wrong = check(case, {side: team.workers[side] for side in built}, plan.reference)
    for turn in range(plan.rounds):
        order = [side for side in built if side not in failures]
        start = turn % max(1, len(order))
        for side in order[start:] + order[:start]:
            try:
                answer = team.workers[side].ask("time", seconds=plan.seconds, batch=plan.batch)
                answers[side].append(answer)
            except WorkerError as error:
                failures[side] = f"failed: {error}"
    rows = []
    for side, worker in team.workers.items():
        reason = failures.get(side) or refusals.get(side)
        if reason:
            rows.append(table.Row(case=case.name, side=side, failure=reason))
        elif side in built:
            rows.append(table.make_row(case.name, side, built[side], answers[side]))
            worker.ask("drop")
    if plan.reference:
        wrong += [f"{case.name} {side}: {failure}" for side, failure in failures.items()]
    return rows, wrong
