"""What a release uploads, built and checked: `make release`. Nothing is uploaded or tagged."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile

ROOT = pathlib.Path(__file__).parent.parent
DIST = ROOT / "dist"
PLACEHOLDER = "example.org"  # in [project.urls], until the project has an address

VERSIONS = {
    "tracetorch_jax/__init__.py": r'^__version__ = "(.+)"$',
    "CHANGELOG.md": r"^## (\d\S*) ",
    "CITATION.cff": r"^version: (.+)$",
    "README.md": r"^  version = \{(.+)\},$",
}
DATES = {
    "CHANGELOG.md": r"^## \d\S* \((\d{4}-\d\d-\d\d)\)$",
    "CITATION.cff": r"^date-released: (.+)$",
}


def agreed(patterns, root=ROOT):
    """What all files say that `patterns` names, each by its first match.

    Raises:
        ValueError: a file says nothing, or another thing than the rest.
    """
    said = {}
    for name, pattern in patterns.items():
        match = re.search(pattern, (root / name).read_text(), re.M)
        said[name] = match and match[1]
    if len(set(said.values())) != 1 or None in said.values():
        raise ValueError("these differ: " + ", ".join(f"{k} has {v}" for k, v in said.items()))
    return next(iter(said.values()))


def check_changelog(text):
    """Raise if a user's changes wait for a version."""
    waiting = re.search(r"^## Unreleased\n+(?!\n|## |\Z)", text, re.M)
    if waiting:
        raise ValueError("CHANGELOG.md has changes under Unreleased: give them a version")


def check_tag(tag, tags, here):
    """Raise unless `tag` is new, or that of this commit.

    Args:
        tag: of the version.
        tags: all tags of versions.
        here: those of this commit.
    """
    if here and here != [tag]:
        raise ValueError(f"this commit is tagged {' '.join(here)}, and its version says {tag}")
    if tag in tags and not here:
        raise ValueError(f"{tag} is another commit: raise the version")


def output(*command, **options):
    return subprocess.run(
        list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True, **options
    ).stdout


def run(*command, **options):
    print("$", shlex.join(map(str, command)), flush=True)
    subprocess.run(list(map(str, command)), check=True, **options)


def git(*arguments):
    return output("git", *arguments, cwd=ROOT).splitlines()


def build():
    """The sdist and the wheel that is built from it; both hold what git does."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    (sdist,), (wheel,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    tracked = set(git("ls-files"))
    with tarfile.open(sdist) as file:
        held = {name.partition("/")[2] for name in file.getnames()} - {"PKG-INFO"}
    check_held(sdist.name, held, tracked)
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
    check_held(wheel.name, held, {n for n in tracked if n.startswith("tracetorch_jax/")})
    return sdist, wheel


def check_held(archive, held, wanted):
    if held != wanted:
        missing, more = sorted(wanted - held), sorted(held - wanted)
        raise ValueError(f"{archive} lacks {missing or 'nothing'} and has {more or 'nothing'} more")


def try_wheel(wheel, version):
    """Install the wheel into an empty environment, import it, and run the demo with it.

    `-I` takes neither this clone nor PYTHONPATH for a place of modules.
    """
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = pathlib.Path(folder, "bin", "python")
        run(python, "-m", "pip", "install", "--quiet", wheel)
        code = "import tracetorch_jax as tt; print(tt.__version__, tt.__file__)"
        found, path = output(python, "-I", "-c", code, cwd=folder).strip().split(" ", 1)
        print(f"the wheel is {found}, imported from {path}")
        if found != version or not pathlib.Path(path).is_relative_to(folder):
            raise ValueError(f"the wheel was to be {version}, imported from {folder}")
        run(python, "-m", "pip", "install", "--quiet", f"{wheel}[examples]")
        run(python, "-I", ROOT / "examples" / "digits.py", cwd=folder)


def main():
    changed = git("status", "--porcelain")
    if changed:
        raise ValueError("commit these first, or remove them:\n" + "\n".join(changed))
    version, date = agreed(VERSIONS), agreed(DATES)
    check_changelog((ROOT / "CHANGELOG.md").read_text())
    if os.environ.get("PUBLISH") == "true" and PLACEHOLDER in (ROOT / "pyproject.toml").read_text():
        raise ValueError("[project.urls] of pyproject.toml has a placeholder for the address")
    tag = f"v{version}"
    here = git("tag", "--list", "v*", "--points-at", "HEAD")
    check_tag(tag, git("tag", "--list", "v*"), here)
    sdist, wheel = build()
    try_wheel(wheel, version)

    print(f"\n{sdist.name} and {wheel.name} are in dist, and nothing was uploaded.\nNext:")
    if PLACEHOLDER in (ROOT / "pyproject.toml").read_text():
        print("- put the project's address into [project.urls] of pyproject.toml, and commit it")
    print(f"- if {date} is not today: set it in CHANGELOG.md and CITATION.cff, and commit it")
    print("- make test-all")
    if not here:
        print(f"- git tag --annotate {tag} --message 'tracetorch_jax {version}'")
    print(f"- git push origin {tag}: .github/workflows/release.yml builds, checks and publishes it")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"make release: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"make release: this failed: {shlex.join(error.cmd)}")
