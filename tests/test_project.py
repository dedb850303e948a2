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


SOURCE = PROJECT["urls"]["Source"]
PAGES = [ROOT / "README.md", ROOT / "docs" / "install.md"]  # which tell how to clone


def test_the_address_is_the_same_everywhere():
    owner = re.match(r"https://[^/]+/[^/]+", SOURCE)[0]
    assert all(url.startswith(owner) for url in PROJECT["urls"].values())
    folders = ("tracetorch_jax", "docs", "examples", "tests", "tools", ".github")
    paths = [*ROOT.glob("*.*"), *(p for folder in folders for p in (ROOT / folder).rglob("*.*"))]
    text = {".py", ".md", ".yml", ".yaml", ".cff", ".toml"}
    for path in paths:
        if path.suffix in text and path.name != "pyproject.toml" and path.is_file():
            assert path in PAGES or owner not in path.read_text(), path


def test_readme_installs_as_the_page_does():
    commands = [re.search(r"^git clone \S+\npip install \S+$", p.read_text(), re.M) for p in PAGES]
    assert commands[0] and commands[0][0] == commands[1][0]
    assert commands[0][0].startswith(f"git clone {SOURCE}\n")


EXTRAS = PROJECT["optional-dependencies"]


def requirements(extra):
    """What an extra asks for, without other extras."""
    return [line for line in EXTRAS[extra] if not line.startswith("tracetorch_jax[")]


def test_the_page_lists_all_extras():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", (ROOT / "docs" / "install.md").read_text(), re.M)
    names = {e: [re.match(r"[\w-]+", line)[0] for line in requirements(e)] for e in EXTRAS}
    assert {extra: packages.split(", ") for extra, packages in rows} == names


def test_advice_installs_what_extras_do():
    """What an error says to install is what pyproject.toml declares."""
    declared = {line for extra in EXTRAS for line in requirements(extra)}
    advised = set()
    for path in (ROOT / "tracetorch_jax").rglob("*.py"):
        for line in re.findall("pip install ('.*)", path.read_text()):
            advised |= set(re.findall(r"'([^' {}]+)'", line))
    assert advised and advised <= declared
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.py")]
    for path in pages:  # which the package index does not know yet
        assert "install tracetorch_jax" not in path.read_text().replace("'", ""), path


QUOTED = {  # a row of the first screen, and the row of the results that it quotes
    "ECG,": "| [ECG]",
    "random order": "in one random order |",
    "MNIST-1D": "| MNIST-1D, without augmentation",
    "Shakespeare": "| [the next byte of Shakespeare]",
}


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_screen_quotes_the_results(page):
    results = (ROOT / "examples" / "README.md").read_text().splitlines()
    lines = (ROOT / page).read_text().splitlines()
    rows = [line.split("|") for line in lines if re.search(r"\| [01]\.\d", line)]
    for word, start in QUOTED.items():
        (row,) = (row for row in rows if word in row[1])
        (source,) = (line for line in results if start in line)
        for number in re.findall(r"\d\.\d\d+", re.sub(r"\(.*?\)", "", row[2] + row[3])):
            assert number in source or number.lstrip("0") in source, (word, number)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_screen_quotes_the_benchmarks(page):
    """Least and greatest ratio over all sizes, of libraries as they come."""
    table = (ROOT / "docs" / "benchmarks.md").read_text()
    table = table.partition("\n## Layers and networks\n")[2].partition("\n## ")[0]
    head, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("| ")
    )
    case, side, ratio = (head.index(name) for name in ("case", "side", "ours is x faster"))
    kinds = {"JAX": ("sparx", "spyx", "jaxpike")}
    kinds["PyTorch"] = ("snntorch", "spikingjelly", "norse", "sinabs", "tracetorch")

    def found(start, kind):
        return [
            float(row[ratio])
            for row in rows
            if row[case].startswith(start) and row[side] in kinds[kind]
        ]

    layer, network = found("LIB/gradient/", "JAX"), found("network-LIB/training/", "JAX")
    torch = [found(start, "PyTorch") for start in ("LIB/gradient/", "network-LIB/training/")]
    words = [
        f"JAX libraries took {min(layer):.0f} to {max(layer):.0f} times as long for the gradient",
        f"{min(network):.1f} to {max(network):.1f} times as long for a training step",
        f"PyTorch libraries took {int(min(torch[0]))} times as long or more",
        f"and {int(10 * min(torch[1])) / 10} times or more",
    ]
    text = " ".join((ROOT / page).read_text().split())
    assert [line for line in words if line not in text] == []


def test_links_of_markdown_hold_in_a_clone():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    files = {ROOT / name for name in listed.stdout.split("\n")}
    there = files | {folder for file in files for folder in file.parents}
    for page in (path for path in files if path.suffix == ".md" and "generate" not in path.parts):
        for link in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / link).resolve() in there, f"{page.relative_to(ROOT)}: {link}"


MUTANTS = sorted((ROOT / "tools" / "mutants").glob("*.patch"))


def test_mutants_apply_and_name_tests_that_exist():
    for path in MUTANTS:
        subprocess.run(["git", "apply", "--check", path], cwd=ROOT, check=True)
        (line,) = (s for s in path.read_text().splitlines() if s.startswith("Tests: "))
        assert all((ROOT / name.partition("::")[0]).is_file() for name in line.split()[1:]), path
