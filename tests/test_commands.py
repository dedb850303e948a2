"""The command line: what it prints, what it writes, and how it says no."""

import json
import re
import shlex
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pages
import pytest
import reference

from tracetorch_jax import __main__, __version__, checkpoint, export, functional, snn
from tracetorch_jax.functional.engines import policy

COMMANDS = ("layers", "info", "export", "bench")
KEY = jax.random.key(0)

pytestmark = pytest.mark.usefixtures("standard")


@pytest.fixture
def call(capsys):
    """Run a command; gives its exit status and what it printed and complained."""

    def run(*argv):
        try:
            status = __main__.main(list(map(str, argv)))
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


def model():
    return snn.Unroll(
        snn.Sequential(
            [
                nn.Dense(4),
                snn.SLIB(4, beta=functional.halflife_to_decay(jnp.array([1.0, 2.0, 4.0, 10.0]))),
                nn.BatchNorm(use_running_average=True),
                snn.LI(4, beta_rank=0),
                snn.SRLIT(4, pos_threshold_learnable=False),
            ]
        )
    )


def state():
    variables = model().init(KEY, jnp.ones((2, 3, 5)))
    return {
        **variables,
        "optimiser": optax.adam(1e-3).init(variables["params"]),
        "key": KEY,
        "step": 7,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, and the code of its model."""
    path = tmp_path_factory.mktemp("commands")
    with jax.numpy_dtype_promotion("standard"):
        checkpoint.save(path / "run", state())
        checkpoint.save(path / "nested", {"state": {"model": state()}, "best": 0.5})
        checkpoint.save(path / "bare", state()["params"])
    (path / "network_of_test.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(reference.DATA.parent)!r})\n"
        "from test_commands import model as make\n"
        "model = make()\n"
        "number = 3\n"
        "def fail(): raise KeyError('gone')\n"
    )
    return path


def test_help_of_everything(call):
    status, out, _ = call("--help")
    assert status == 0
    for name in COMMANDS:
        assert re.search(rf"^    {name} ", out, re.M)
        status, own, _ = call(name, "--help")
        assert status == 0
        assert "exit status: 0 if all went well, 1 if" in own
        assert max(map(len, own.splitlines())) <= 100
    assert call("--version")[:2] == (0, f"{__version__}\n")


def test_layers_is_a_table_of_all(call):
    status, out, _ = call("layers")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 100
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    for name, layer in snn.ALL_LAYERS.items():
        spec = layer(1).spec
        found = re.fullmatch(rf"{name} +(\d+)  (mem|0 1|-1 0 1|-q 0 p) +(.*)", rows[name])
        assert int(found[1]) == len(spec.parameters)
        assert found[3].split() == list(spec.states)
    assert rows["LI"].split()[2] == "mem"
    assert "-q 0 p" in rows["RLITS"] and "-1 0 1" in rows["RLIT"] and " 0 1" in rows["RLIB"]


def test_layers_by_name(call):
    status, out, _ = call("layers", "rlit", "LI")
    assert status == 0
    one, two = out.split("\n\nLI: ")
    for line in functional.equations.equations(snn.RLIT(1).spec):
        assert f"    {line}\n" in one
    assert re.search(r"beta +0.9 +lie strictly between 0 and 1", one)
    assert re.search(r"rec_weight +0 +be finite", one)
    assert "states: rec mem prev_output" in one
    assert two.startswith("Leaky integrator: the membrane itself is the output, nothing fires.")
    status, _, complaint = call("layers", "SRLIBS")
    assert status == 2 and "there is no layer 'SRLIBS'; did you mean SRLI" in complaint
    assert "they are LI, DLI, " in call("layers", "xyz")[2]
    for name in ("Recurrent", "delayeddense"):
        status, _, complaint = call("layers", name)
        cell = {"recurrent": "Recurrent", "delayeddense": "DelayedDense"}[name.lower()]
        assert status == 2 and f"{cell} is no trace layer" in complaint
        assert " ".join(getattr(snn, cell).__doc__.splitlines()[0].split()) in " ".join(
            complaint.split()
        )


@pytest.mark.slow
def test_info_of_a_checkpoint(call, folder):
    status, out, _ = call("info", folder / "run")
    assert status == 0
    count = sum(leaf.size for leaf in jax.tree.leaves(state()["params"]))
    assert f"{count} parameters" in out.splitlines()[0]
    groups = {block.splitlines()[0]: block for block in out.split("\n\n")}
    layer = groups["params/cell/layers_1: SLIB"]
    assert re.search(r"raw_beta +float32\[4\]  half-life 1 to 10$", layer, re.M)
    assert re.search(r"raw_alpha +float32\[4\]  half-life 1$", layer, re.M)
    assert re.search(r"raw_threshold +float32\[4\]  1$", layer, re.M)
    assert re.search(r"kernel +float32\[5, 4\]$", groups["params/cell/layers_0"], re.M)
    assert "raw_beta  float32[]  half-life 6.58" in groups["params/cell/layers_3: LI"]
    assert "params/cell/layers_4: SRLIT, with pos_threshold as constants" in groups
    moments = groups["optimiser/0/mu/cell/layers_1"]
    assert "raw_beta" in moments and "half-life" not in moments
    assert re.search(r"mean +float32\[4\]", groups["batch_stats/cell/layers_2"])
    assert re.search(r"step +int 7", groups["at the top"])
    assert out.index("params/cell/layers_0") < out.index("optimiser/0")


@pytest.mark.parametrize("name", reference.EACH)
def test_info_recognises_every_layer(name, tmp_path, call):
    variables = snn.ALL_LAYERS[name](2).init(KEY, None, jnp.ones((1, 2)))
    checkpoint.save(tmp_path / "it", variables)
    assert f"\nparams: {name}\n" in call("info", tmp_path / "it")[1]


def test_info_without_a_folder_of_parameters(call, folder):
    status, out, _ = call("info", folder / "bare")
    assert status == 0 and "\ncell/layers_1: SLIB\n" in out


def test_info_of_an_optimiser_of_all_variables(call, tmp_path):
    variables = snn.LI(2).init(KEY, None, jnp.ones((1, 2)))
    checkpoint.save(tmp_path / "it", {**variables, "optimiser": {"mu": variables}})
    out = call("info", tmp_path / "it")[1]
    assert "2 arrays and numbers, 2 parameters" in out
    assert "\nparams: LI\n" in out and "\noptimiser/mu/params\n" in out


@pytest.mark.slow
def test_export_makes_what_the_package_makes(call, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    unrolled, own = model(), {name: state()[name] for name in ("params", "batch_stats")}
    xs = jax.random.normal(KEY, (2, 3, 5))
    whole, one = tmp_path / "whole", tmp_path / "one"
    status, out, _ = call(
        "export", "network_of_test:model", "run", whole, "--shape", "b, t, 5", "--seq-lengths", "b"
    )
    assert status == 0
    assert re.fullmatch(rf"{whole}: sequence for cpu, cuda, rocm, tpu, [\d,]+ bytes\n", out)
    lengths = jnp.array([3, 1], jnp.int32)
    np.testing.assert_array_equal(
        export.load(whole).call(xs, seq_lengths=lengths),
        jax.jit(lambda xs: unrolled.apply(own, xs, seq_lengths=lengths))(xs),
    )
    status, out, _ = call(
        "export", "network_of_test:make", "nested", one, "--shape", "b, 5",
        "--form", "step", "--at", "state/model", "--platforms", "cpu", "tpu",
    )  # fmt: skip
    assert status == 0 and ": step for cpu, tpu, " in out
    program = export.load(one)
    _, y = program.call(export.initial_carry(program, xs[:, 0]), xs[:, 0])
    want = export.step(unrolled, own, "b, 5", platforms=["cpu"])
    np.testing.assert_array_equal(y, want.call(export.initial_carry(want, xs[:, 0]), xs[:, 0])[1])

    status, out, _ = call("info", whole)
    assert status == 0
    assert "program: sequence, " in out and "runs on: cpu, cuda, rocm, tpu\n" in out
    assert "cannot be differentiated" in out
    takes, gives = out.split("\ntakes\n")[1].split("\ngives\n")
    assert re.search(r"^  xs +float32\[b, t, 5\]$", takes, re.M)
    assert re.search(r"^  seq_lengths +int32\[b\]$", takes, re.M)
    assert gives == "  ys  float32[b, t, 4]\n"
    takes, gives = call("info", one)[1].split("\ntakes\n")[1].split("\ngives\n")
    assert re.search(r"^  carry/layers_4/prev_output +float32\[b, 4\]$", takes, re.M)
    assert re.search(r"^  x +float32\[b, 5\]$", takes, re.M)
    assert re.search(r"^  y +float32\[b, 4\]$", gives, re.M)


MAKE = "network_of_test:make"
REFUSED = {
    "no colon": (["network_of_test"], "MODULE:NAME must have both, such as network:make; got 'net"),
    "no module": (["networks:make"], "there is no Python module 'networks' here"),
    "no name": (["network_of_test:build"], "network_of_test has no 'build'"),
    "no model": (["network_of_test:number"], "must be or make a Flax module; got int"),
    "a broken model": (["network_of_test:fail"], "network_of_test:fail raised KeyError: 'gone'"),
    "no checkpoint": ([MAKE, "nowhere"], "`path` must be a checkpoint; there is none at"),
    "no parameters": ([MAKE, "nested"], "must have 'params' there (see --at); it has best, state"),
    "no such place": ([MAKE, "nested", "--at", "stat"], "--at stat: the checkpoint has no 'stat'"),
    "wrong shape": ([MAKE, "run", "--shape", "b, t, 6"], "`variables` must be those of `model`"),
    "no device": ([MAKE, "run", "--platforms", "gpu"], "`platforms` must be one of 'cpu', 'cuda'"),
    "no type": ([MAKE, "run", "--dtype", "float33"], "`dtype` must be a type of numbers"),
    "lengths of steps": (
        [MAKE, "run", "--form", "step", "--seq-lengths", "b"],
        "--seq-lengths is for whole sequences",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_export_says_what_is_wrong(case, call, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    (spec, *rest), message = REFUSED[case]
    if not rest or rest[0].startswith("-"):
        rest = ["run", *rest]
    if "--shape" not in rest:
        rest += ["--shape", "b, t, 5"]
    status, out, complaint = call("export", spec, rest[0], tmp_path / "it", *rest[1:])
    assert (status, out) == (1, "")
    assert complaint.startswith("error: ") and message in complaint
    assert not (tmp_path / "it").exists()


@pytest.mark.nightly
def test_the_page_on_deployment_runs(call, tmp_path, monkeypatch):
    """Its commands, with its model."""
    section = (
        pages.read("how-to/deployment")
        .partition("## From the command line")[2]
        .partition("\n## ")[0]
    )
    (code,) = pages.blocks(section)
    (commands,) = re.findall(r"^```bash\n(.*?)^```", section, re.S | re.M)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.py").write_text(code)
    names: dict = {}
    exec(code, names)
    checkpoint.save("runs/best", names["make"]().init(KEY, jnp.ones((1, 1, 20))))
    lines = commands.splitlines()
    assert {shlex.split(line)[3] for line in lines} == set(COMMANDS)
    for line in lines:
        status, out, complaint = call(*shlex.split(line)[3:])
        assert (status, complaint) == (0, "") and out, line


def test_nothing_is_overwritten_unasked(call, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    (tmp_path / "it").write_text("precious")
    command = ["export", MAKE, "run", tmp_path / "it", "--shape", "b, t, 5", "--platforms", "cpu"]
    status, _, complaint = call(*command)
    assert status == 1 and "`path` exists" in complaint
    assert (tmp_path / "it").read_text() == "precious"
    assert call(*command, "--overwrite")[0] == 0


def test_info_of_nothing(call, tmp_path):
    status, out, complaint = call("info", tmp_path / "nowhere")
    assert (status, out) == (1, "") and "error: there is nothing at" in complaint
    status, _, complaint = call("info", tmp_path)
    assert status == 1 and "`path` must be a checkpoint; there is none at" in complaint
    status, _, complaint = call("info", __file__)
    assert status == 1 and "`path` must hold an exported program" in complaint


@pytest.mark.slow
def test_bench_measures(call):
    small = ["--steps", "5", "--batch", "2", "--neurons", "3", "--repeats", "2"]
    status, out, _ = call("bench", "LI", "srlit", *small)
    assert status == 0
    assert f"jax: {jax.__version__}\n" in out and "shape [B, T, N]: [2, 5, 3]" in out
    number = r" +[\d.e+]+ ms"
    for name in ("LI", "SRLIT"):
        rows = re.findall(rf"^{name}(?:{number}{number} +x [\d.]+){{2}}$", out, re.M)
        first, run = (float(row.split()[1]) for row in rows)
        assert first > run  # which does not include compilation
    status, out, _ = call("bench", "LIB", *small, "--json")
    report = json.loads(out)
    assert status == 0 and report["shape [B, T, N]"] == [2, 5, 3]
    for key, number in (("first_milliseconds", 1), ("milliseconds", 2)):
        times = report[key]["LIB"]
        assert set(times) == {
            "forward", "forward, plain scan", "gradient", "gradient, plain scan",
        }  # fmt: skip
        assert all(len(values) == number and min(values) > 0 for values in times.values())


@pytest.mark.slow
@pytest.mark.parametrize("lacking", [None, "the package llvmlite"])
def test_bench_names_the_engine(lacking, call, monkeypatch):
    monkeypatch.setattr(policy, "why_no_kernel", lambda: lacking)
    _, out, _ = call("bench", "LI", "--steps", "2", "--batch", "1", "--neurons", "2")
    engine = "a kernel" if lacking is None else "scan; a kernel needs the package llvmlite"
    assert f"\nengine: {engine}\n" in out


@pytest.mark.slow
def test_what_bench_compares_is_equal():
    from tracetorch_jax._commands import bench

    for name in ("LI", "DSRLITS"):
        runs = bench._runs(name, (2, 6, 3))
        assert all(runs[what]().shape == (6, 2, 3) for what in runs if "forward" in what)
        for what in ("forward", "gradient"):
            for a, b in zip(
                jax.tree.leaves(runs[what]()),
                jax.tree.leaves(runs[f"{what}, plain scan"]()),
                strict=True,
            ):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["train"],
        ["info"],
        ["export", MAKE],
        ["bench", "--steps", "0"],
        ["bench", "--steps", "x"],
    ],
)
def test_a_wrong_command_line_is_status_2(argv, call):
    status, out, complaint = call(*argv)
    assert (status, out) == (2, "") and complaint.startswith("usage: python -m tracetorch_jax")


@pytest.mark.slow
def test_as_a_process():
    """Statuses reach the shell, no traceback does, and a reader may stop reading."""

    def run(command):
        return subprocess.run(
            f"{sys.executable} -m tracetorch_jax {command}",
            shell=True, capture_output=True, text=True,
        )  # fmt: skip

    done = run("layers LIB")
    assert done.returncode == 0 and "out = spike(mem - threshold)" in done.stdout
    done = run("info /nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: there is nothing at /nowhere.\n"
    done = run("layers | true")
    assert done.stderr == ""
