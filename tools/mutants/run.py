"""Seed faults, one at a time, and print which test finds each: see README.md next to this file."""

import argparse
import contextlib
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

HERE = pathlib.Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of mutants (default: all)")
    parser.add_argument("--at", default="HEAD", help="revision to seed them into (default: HEAD)")
    parser.add_argument("--pytest", default="", help='further options of pytest: "--tier quick"')
    parser.add_argument("--named", action="store_true", help="run the files of the patch alone")
    parser.add_argument("--together", action="store_true", help="seed all at once; list what fails")
    arguments = parser.parse_args()
    options = shlex.split(arguments.pytest)
    patches = [HERE / f"{name}.patch" for name in arguments.names] or sorted(HERE.glob("*.patch"))
    with worktree(arguments.at) as folder:
        if arguments.together:
            return together(folder, patches, options)
        bad = 0
        for patch in patches:
            start, test = time.monotonic(), killer(folder, patch, options, arguments.named)
            bad += not test or test.startswith("the patch")
            said = f"killed by {test}" if test else "SURVIVED"
            print(f"{patch.stem}: {said}  ({time.monotonic() - start:.0f} s)", flush=True)
        print(f"{len(patches) - bad} of {len(patches)} killed")
    return int(bad > 0)


def killer(folder: pathlib.Path, patch: pathlib.Path, options: list[str], named: bool) -> str:
    """The first test that fails, or nothing."""
    reset(folder)
    if not apply(folder, patch):
        return "the patch itself, which does not apply"
    (line,) = (line for line in patch.read_text().splitlines() if line.startswith("Tests: "))
    failed = pytest(folder, ["-x", *line.split()[1:], *options])
    if not (failed or named):
        failed = pytest(folder, ["-x", *options])
    return failed[0] if failed else ""


def together(folder: pathlib.Path, patches: list[pathlib.Path], options: list[str]) -> int:
    """Seed all patches and run the suite to its end; if nothing fails, all of them survive."""
    lost = [patch.stem for patch in patches if not apply(folder, patch)]
    failed = pytest(folder, options)
    print("\n".join([*(f"{name} does not apply" for name in lost), *failed]))
    print(f"{len(failed)} tests fail with {len(patches) - len(lost)} mutants at once")
    return int(not failed or bool(lost))


def pytest(folder: pathlib.Path, options: list[str]) -> list[str]:
    """The tests that fail."""
    # Processes that tests start inherit the path.
    env = os.environ | {"PYTHONPATH": str(folder)}
    found = "import importlib.util as u; print(u.find_spec('tracetorch_jax').origin)"
    where = run(folder, [sys.executable, "-c", found], env).stdout
    if not where.startswith(str(folder)):
        sys.exit(f"The package would be imported from elsewhere: {where}")
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
    # A patch that is applied does not apply once more.
    command += ["--deselect", "tests/test_project.py::test_mutants_apply_and_name_tests_that_exist"]
    done = run(folder, [*command, *options], env)
    lines = done.stdout.splitlines()
    failed = [s[7:].split(" - ")[0] for s in lines if s.startswith("FAILED ")]
    failed += [f"an error at {s[6:].split(' - ')[0]}" for s in lines if s.startswith("ERROR ")]
    if not failed and done.returncode not in (0, 5):  # 5: no test was selected
        failed = [
            f"pytest's end with status {done.returncode}: {(done.stdout + done.stderr)[-300:]}"
        ]
    return failed


@contextlib.contextmanager
def worktree(revision: str) -> Iterator[pathlib.Path]:
    """A checkout of its own, removed in the end."""
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place).resolve() / "mutant"
        git(HERE, "worktree", "add", "--quiet", "--detach", str(folder), revision)
        try:
            yield folder
        finally:
            git(HERE, "worktree", "remove", "--force", str(folder))


def reset(folder: pathlib.Path) -> None:
    git(folder, "reset", "--quiet", "--hard")
    git(folder, "clean", "--quiet", "-fdx")  # compiled bytecode as well


def apply(folder: pathlib.Path, patch: pathlib.Path) -> bool:
    return not run(folder, ["git", "apply", str(patch)]).returncode


def git(folder: pathlib.Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True)


def run(
    folder: pathlib.Path, command: list[str], env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main())
