"""Processes that write one path at the same time, or are killed while they write.

`test_files.py` and `test_checkpoint.py` run this as a script, since a process that has started JAX
should not fork.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback

ROOT = pathlib.Path(__file__).parents[2]
PARTS = 4


def run(*args):
    """What the script prints, from another process."""
    command = [sys.executable, "-W", "ignore", __file__, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def main(task, kind, folder, rounds, exchange):
    """Do a task and print what happened.

    Args:
        task: "race", in which every second round may replace what is there, or "kill".
        kind: what is written, a name in `KINDS`.
        folder: where.
        rounds: how often.
        exchange: "exchange", or "rename" to do without the system's exchange of folders.
    """
    write, files = KINDS[kind]()
    if exchange == "rename":
        files._exchange = lambda one, two: False
    folder = pathlib.Path(folder)
    if task == "kill":
        outcome = kill(write, folder, int(rounds))
    else:
        outcome = [race(write, folder / str(i), i % 2) for i in range(int(rounds))]
    print(json.dumps(outcome))


def race(write, path, overwrite, writers=3):
    """Several processes write one path at once; what became of each."""
    gate, start = os.pipe()
    children = []
    for value in range(writers):
        child = os.fork()
        if not child:
            os.close(start)
            os.read(gate, 1)  # until all are there
            leave(lambda value=value: write(path, value, overwrite))
        children.append(child)
    os.close(gate)
    os.close(start)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [{0: "written", 1: "exists"}.get(code, "failed") for code in codes]


def kill(write, folder, rounds):
    """Kill a process that replaces a folder again and again; after each, a copy of what is there.

    Gives for each kill the last value that was known to be written.
    """
    draw, outcome, path = random.Random(rounds), [], folder / "live" / "it"
    for i in range(rounds):
        progress, report = os.pipe()
        child = os.fork()
        if not child:
            leave(lambda first=1000 * i, report=report: replace(write, path, first, report))
        os.close(report)
        with os.fdopen(progress) as lines:
            took = float(lines.readline().split()[1])
            time.sleep(draw.uniform(0, 1.5 * min(took, 1.0)))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            done = [int(line.split()[0]) for line in lines]
        outcome.append(done[-1] if done else 1000 * i)
        shutil.copytree(path.parent, folder / str(i))
    return outcome


def replace(write, path, first, report):
    """Replace what is at a path by one value after another; say of each how long it took."""
    for value in range(first, first + 1000):
        began = time.perf_counter()
        write(path, value, True)
        os.write(report, f"{value} {time.perf_counter() - began}\n".encode())


def leave(act):
    """Act and end this process, without what its parent would have done at its end."""
    code = 2
    try:
        act()
        code = 0
    except FileExistsError:
        code = 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def of_files():
    """`_shared.files` without what else the package imports, so that starting is quick."""
    spec = importlib.util.spec_from_file_location("files", ROOT / "tracetorch_jax/_shared/files.py")
    files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(files)
    return files


def folders():
    files = of_files()

    def write(path, value, overwrite):
        with files.replacing(path, overwrite) as incoming:
            incoming.mkdir()
            for part in range(PARTS):
                (incoming / str(part)).write_text(str(value))

    return write, files


def single_files():
    files = of_files()

    def write(path, value, overwrite):
        with files.replacing(path, overwrite) as incoming, incoming.open("w") as file:
            for _ in range(PARTS):
                print(value, file=file, flush=True)

    return write, files


def checkpoints():
    import numpy as np

    from tracetorch_jax import checkpoint
    from tracetorch_jax._shared import files as _files

    checkpoint._orbax()  # imported before all start at once

    def write(path, value, overwrite):
        state = {f"part{i}": np.full(100, value, np.float32) for i in range(PARTS)}
        checkpoint.save(path, state, overwrite=overwrite)

    return write, _files


KINDS = {"folders": folders, "files": single_files, "checkpoints": checkpoints}


def values(path):
    """What is in a file, or the files of a folder."""
    with contextlib.suppress(IsADirectoryError):
        return [int(line) for line in path.read_text().split()]
    return [int(part.read_text()) for part in path.iterdir()]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(*sys.argv[1:])
