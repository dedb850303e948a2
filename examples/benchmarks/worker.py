"""One side in a process of its own, which does what it is told line by line.

    PYTHON worker.py SIDE

Requests and replies are JSON, one a line, on standard input and output. A command starts a worker
for every side, in whichever environment the side's library is installed.

| request | reply |
|---|---|
| ``hello`` | versions, layout and notes of the side |
| ``build``, `case`, `seconds`, `settle` | warms up; first call, memory, or ``nothing``: why not |
| ``time``, `seconds`, `batch` | ``times``: seconds of each run; page ``faults`` per run |
| ``check``, `path` | writes the results to an .npz file; what must ``equal`` those of `ours` |
| ``drop`` | frees the case |
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import importlib.metadata
import itertools
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np
import sides
from cases import Case

LONG_ENOUGH = 5.0  # seconds, to warm up with one run rather than two


class Worker:
    """A side, and the case that it is at."""

    def __init__(self, name: str) -> None:
        self.side = sides.load(name)
        gc.freeze()  # what is imported stays, and need not be looked through before every timing
        self.case: Case | None = None
        self.job: sides.Job | None = None
        self.run_s = 0.0
        self.fresh = True

    def hello(self) -> dict[str, Any]:
        versions = {"python": platform.python_version()}
        versions |= {name: importlib.metadata.version(name) for name in self.side.packages}
        return {
            "versions": versions,
            "layout": self.side.layout,
            "notes": self.side.notes,
            "details": dict(self.side.details()),
        }

    def build(self, case: dict[str, Any], seconds: float, settle: bool) -> dict[str, Any]:
        """With `settle`, the first case waits until the process is past what it does once."""
        self.case = Case(**case)
        try:
            if settle and self.fresh:
                self._settle()
            self.job = self.side.build(self.case)
        except sides.Unsupported as reason:
            return {"nothing": str(reason)}
        if self.job is None:
            return {"nothing": None}
        start = time.perf_counter()
        first_s = None
        for runs in itertools.count(1):
            self.run_s = self._run()
            first_s = first_s or (self.job.compile_s or 0.0) + self.run_s
            passed = time.perf_counter() - start
            if passed > LONG_ENOUGH or (runs > 1 and passed > seconds):
                break
        return {
            "first_s": first_s,
            "compile_s": self.job.compile_s,
            "temp_bytes": self.job.temp_bytes,
        }

    def _settle(self) -> None:
        """Run the case with two steps: that starts threads and loads kernels."""
        self.job = self.side.build(dataclasses.replace(self.case, steps=2))
        if self.job is not None:
            self._run()
            self.fresh = False

    def _run(self, times: int = 1) -> float:
        """Seconds of each run."""
        start = time.perf_counter()
        self.job.run(times)
        return (time.perf_counter() - start) / times

    def time(self, seconds: float, batch: float) -> dict[str, Any]:
        """With a `batch` of so many seconds, runs are started one after another without waiting."""
        gc.collect()
        count = max(1, round(batch / self.run_s))
        times: list[float] = []
        faults = page_faults()
        while not times or count * sum(times) < seconds:
            times.append(self._run(count))
        return {"times": times, "faults": (page_faults() - faults) / (count * len(times))}

    def check(self, path: str) -> dict[str, Any]:
        results = self.job.result()
        np.savez(path, **results)
        equal = self.side.equals_ours(self.case)
        return {"equal": sorted(results if "*" in equal else equal & set(results))}

    def drop(self) -> dict[str, Any]:
        self.case = self.job = None
        gc.collect()
        give_memory_back()
        return {}


def page_faults() -> int:
    """Pages of memory that the system had to hand to this process so far."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def give_memory_back() -> None:
    """Ask glibc to return freed memory, which its settings make it keep for the next run."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim:
        trim(0)


def serve(name: str, requests: TextIO, reply: Callable[[dict[str, Any]], None]) -> None:
    """Answer every request until there are no more."""
    try:
        worker = Worker(name)
    except Exception as error:
        reply({"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()})
        return
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:
            answer = {
                "error": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc(),
            }
        reply(answer)


def main() -> None:
    # What libraries print goes to standard error; the coordinator alone reads standard output.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin, lambda answer: print(json.dumps(answer), file=channel))
    sys.stderr.flush()
    os._exit(0)  # taking a library apart takes a while, and all that matters has been said


if __name__ == "__main__":
    main()
