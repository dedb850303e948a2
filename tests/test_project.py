"""Files about the project agree: version, Python versions, workflows, forms, the address."""

import itertools
import pathlib
import re
import shlex
import subprocess
import tomllib

import pytest
import release
import yaml

import tracetorch_jax

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in (ROOT / ".github" / "workflows").glob("*.yml")
}
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_version_and_date_are_the_same_everywhere():
    assert release.agreed(release.VERSIONS) == tracetorch_jax.__version__
    date = release.agreed(release.DATES)
    year = release.agreed({"README.md": r"^  year = \{(.+)\},$"})
    assert date.startswith(year)


def test_a_version_that_differs_is_named(tmp_path):
    (tmp_path / "a").write_text("version: 1\nversion: 2\n")
    (tmp_path / "b").write_text("version: 2\n")
    pattern = r"^version: (.+)$"
    with pytest.raises(ValueError, match="a has 1, b has 2"):
        release.agreed({"a": pattern, "b": pattern}, tmp_path)
    with pytest.raises(ValueError, match="b has None"):
        release.agreed({"b": "nothing"}, tmp_path)


@pytest.mark.parametrize("entry", ["- A change.", "### Corrections\n\n- A change."])
def test_changes_without_a_version_stop_a_release(entry):
    release.check_changelog("## Unreleased\n\n## 0.1.0 (2026-01-01)\n\n- A change.\n")
    release.check_changelog("## 0.1.0 (2026-01-01)\n")
    with pytest.raises(ValueError, match="under Unreleased"):
        release.check_changelog(f"## Unreleased\n\n{entry}\n\n## 0.1.0 (2026-01-01)\n")


def test_a_tag_is_new_or_that_of_this_commit():
    release.check_tag("v2", ["v1"], [])
    release.check_tag("v2", ["v1", "v2"], ["v2"])
    with pytest.raises(ValueError, match="v2 is another commit"):
        release.check_tag("v2", ["v1", "v2"], [])
    with pytest.raises(ValueError, match="tagged v1"):
        release.check_tag("v2", ["v1"], ["v1"])


def test_workflows_run_targets_of_the_makefile():
    """What a workflow runs, a person can run."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for name, workflow in WORKFLOWS.items():
        for job in workflow["jobs"].values():
            matrix = job.get("strategy", {}).get("matrix", {})
            lines = [step["run"] for step in job["steps"] if "run" in step]
            for line, choice in itertools.product(lines, itertools.product(*matrix.values())):
                for key, value in zip(matrix, choice, strict=True):
                    line = line.replace(f"${{{{ matrix.{key} }}}}", value)
                command, *words = shlex.split(line)
                named = {word for word in words if "=" not in word}
                assert command == "make" and named and named <= targets, (name, line)


def test_python_versions_are_those_that_are_tested():
    declared = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert WORKFLOWS["test"]["jobs"]["test"]["strategy"]["matrix"]["python"] == declared
    assert PROJECT["requires-python"] == f">={declared[0]}"


def test_forms_ask_for_versions_with_a_command_that_runs(capsys):
    asked = {re.search('^ +python -c "(.+)"$', f.read_text(), re.M)[1] for f in FORMS}
    assert len(asked) == 1
    exec(asked.pop(), {})
    assert capsys.readouterr().out.startswith(f"tracetorch_jax {tracetorch_jax.__version__} jax ")


def test_the_address_stands_in_one_place():
    hosts = {re.match(r"https://[^/]+/[^/]+", url)[0] for url in PROJECT["urls"].values()}
    assert len(hosts) == 1
    folders = ("tracetorch_jax", "docs", "examples", "tests", "tools", ".github")
    paths = [*ROOT.glob("*.*"), *(p for folder in folders for p in (ROOT / folder).rglob("*.*"))]
    text = {".py", ".md", ".yml", ".yaml", ".cff", ".toml"}
    for path in paths:
        if path.suffix in text and path.name != "pyproject.toml" and path.is_file():
            assert not any(host in path.read_text() for host in hosts), path


MUTANTS = sorted((ROOT / "tools" / "mutants").glob("*.patch"))


def test_mutants_apply_and_name_tests_that_exist():
    for path in MUTANTS:
        subprocess.run(["git", "apply", "--check", path], cwd=ROOT, check=True)
        (line,) = (s for s in path.read_text().splitlines() if s.startswith("Tests: "))
        assert all((ROOT / name.partition("::")[0]).is_file() for name in line.split()[1:]), path
