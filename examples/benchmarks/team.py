"""The workers as the coordinator sees them."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

HERE = pathlib.Path(__file__).parent

ENVIRONMENT = {
    # glibc returns large buffers to the system as soon as they are freed, and the next call pays
    # for every page again. With these it keeps them.
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(1 << 30),
    # Threads otherwise allocate from arenas of at most 64 MiB, and what does not fit is mapped
    # anew every time, whatever the settings above say. JAX allocates from its own threads.
    "MALLOC_ARENA_MAX": "1",
}
CPU = ENVIRONMENT | {"JAX_PLATFORMS": "cpu"}
# JAX otherwise takes most of a GPU's memory at once, and every side is a process of its own.
GPU = ENVIRONMENT | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
# A program that an earlier run has left on disk would make a first call look short.
UNCACHED = {"JAX_ENABLE_COMPILATION_CACHE": "false"}


class WorkerError(Exception):
    """A side that could not do what it was asked."""


class Worker:
    """One side's process.

    Args:
        side: name of the side.
        python: interpreter of the environment that holds its library.
        environment: variables to set for it.
    """

    def __init__(self, side: str, python: str, environment: Mapping[str, str]) -> None:
        self.side = side
        self.stderr = tempfile.TemporaryFile()
        try:
            self.process = subprocess.Popen(
                [python, str(HERE / "worker.py"), side],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.stderr,
                text=True,
                env=os.environ | environment,
            )
        except OSError as error:
            raise WorkerError(f"cannot start its interpreter: {error.strerror}") from None

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the reply.

        Raises:
            WorkerError: the side says so, or its process has ended.
        """
        self.send(do, **arguments)
        return self.reply()

    def send(self, do: str, **arguments: Any) -> None:
        """Send a request; `reply` fetches the answer."""
        try:
            print(json.dumps({"do": do} | arguments), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # it may have said why before it ended

    def reply(self) -> dict[str, Any]:
        """Wait for the reply to the oldest request.

        Raises:
            WorkerError: the side says so, or its process has ended.
        """
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            raise WorkerError(f"its process ended with status {status}; {self._tail()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _tail(self) -> str:
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def dismiss(self) -> None:
        """Let the process end."""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass

    def stop(self) -> None:
        """End the process."""
        self.dismiss()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.stderr.close()


class Team:
    """All workers that could be started, and why the others could not.

    A side that is there a second time, in another environment, goes by its name and its jax, as in
    ``ours-jax-0.11.2``.

    Args:
        members: sides, each with its interpreter.
        environment: variables to set for all.
    """

    def __init__(self, members: Iterable[tuple[str, str]], environment: Mapping[str, str]) -> None:
        self.workers: dict[str, Worker] = {}
        self.about: dict[str, dict[str, Any]] = {}
        self.absent: dict[str, str] = {}
        self.environment = environment
        self.add(members)

    def add(self, members: Iterable[tuple[str, str]]) -> None:
        """Start more workers."""
        new, failed = [], []
        for side, python in members:
            try:
                new.append(Worker(side, python, self.environment))
            except WorkerError as error:
                failed.append((side, error))
        for worker in new:  # they import at the same time, and answer in turn
            name = worker.side
            try:
                about = worker.ask("hello")
                if name in self.workers:
                    name += f"-jax-{about['versions']['jax']}"
                if name in self.workers:
                    raise WorkerError(f"{name} is there already")
            except WorkerError as error:
                failed.append((worker.side, error))
                worker.stop()
            else:
                self.workers[name], self.about[name] = worker, about
        for side, error in failed:
            again = " (in another environment)" if side in self.workers else ""
            self.absent[side + again] = str(error)

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self.workers.values():
            worker.dismiss()
        for worker in self.workers.values():
            worker.stop()
