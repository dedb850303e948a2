"""How the neurons of other libraries differ, as rows that compute.

Each row describes a neuron class by the columns of the table in docs/coming-from/index.md, and
`peer_neurons.simulate` runs that description. The tests hold it against what the class itself
gives, stored by tools/make_peer_vectors.py. ``python tools/write_tables.py peers`` puts the tables
into the page; the tests check that they are there.
"""

import numpy as np
import pages
from peer_neurons import (
    AFTER,
    BEFORE,
    NEXT,
    SAME,
    SIGMOID,
    SMOOTH,
    STEPS,
    SUPERSPIKE_1,
    SUPERSPIKE_25,
    TWICE,
    Neuron,
)

PAGE = pages.DOCS / "coming-from" / "index.md"
FOLDER = pages.DATA / "peers"
TABLES = ("neurons", "surrogates")

DETERMINISTIC = ", quant_fn=round_ste()"


COLUMNS = (
    "neuron", "here", "current `i`", "arrives", "decay", "input", "fires", "adaptation `a`",
    "decided", "reset", "when",
    "gradient of the reset", "derivative of a spike at `u`", "state", "sequences",
)  # fmt: skip
UPDATE = ("here", "current `i`", "arrives", "decay", "input", "fires", "state", "sequences")
SPIKES = (
    "adaptation `a`",
    "decided",
    "reset",
    "when",
    "gradient of the reset",
    "derivative of a spike at `u`",
)


def _rows(defaults, *rows):
    return tuple(Neuron(**{**defaults, **row}) for row in rows)


def _with(arguments, **more):
    return {**arguments, **more}


LIF = {"beta": 0.75, "threshold": 1.5}
CUBA = {"alpha": 0.5, **LIF}
OURS = _rows(
    {"package": "tracetorch_jax", "sequences": "[B, T, N]", "here": "itself", "counterpart": ""},
    {"name": "LIB", "make": "snn.LIB(N, beta=beta, threshold=threshold)", "arguments": LIF},
    {
        "name": "SLIB",
        "make": "snn.SLIB(N, alpha=alpha, beta=beta, threshold=threshold)",
        "arguments": CUBA,
        "current": "alpha * i + (1 - alpha) * x",
    },
    {
        "name": "LI",
        "make": "snn.LI(N, beta=beta)",
        "arguments": {"beta": 0.75},
        "factor": "1 - beta",
        "fires": None,
    },
    {
        "name": "LI(ema=False)",
        "make": "snn.LI(N, beta=beta, ema=False)",
        "arguments": {"beta": 0.75},
        "fires": None,
    },
    {
        "name": "SLI",
        "make": "snn.SLI(N, alpha=alpha, beta=beta)",
        "arguments": {"alpha": 0.5, "beta": 0.75},
        "current": "alpha * i + (1 - alpha) * x",
        "factor": "1 - beta",
        "fires": None,
    },
)
TRACETORCH = _rows(
    {"package": "tracetorch", "state": "layer", "surrogate": SIGMOID},
    {
        "name": "LIB",
        "make": "snn.LIB(N, beta=beta, threshold=threshold)",
        "arguments": LIF,
        "fires": "smooth",
        "surrogate": SMOOTH,
        "here": "lib_smooth",
        "counterpart": "`LIB`",
    },
    {
        "name": "LIB(quant_fn=round_ste())",
        "make": f"snn.LIB(N, beta=beta, threshold=threshold{DETERMINISTIC})",
        "arguments": LIF,
        "here": "lib",
        "counterpart": "`LIB`",
    },
    {
        "name": "SLIB(quant_fn=round_ste())",
        "make": f"snn.SLIB(N, alpha=alpha, beta=beta, threshold=threshold{DETERMINISTIC})",
        "arguments": CUBA,
        "current": "alpha * i + (1 - alpha) * x",
        "here": "slib",
        "counterpart": "`SLIB`",
    },
    {
        "name": "LI",
        "make": "snn.LI(N, beta=beta)",
        "arguments": {"beta": 0.75},
        "fires": None,
        "here": "li",
        "counterpart": "`LI(ema=False)`",
    },
    {
        "name": "LIEMA",
        "make": "snn.LIEMA(N, beta=beta)",
        "arguments": {"beta": 0.75},
        "factor": "1 - beta",
        "fires": None,
        "here": "liema",
        "counterpart": "`LI`",
    },
)
SNNTORCH = _rows(
    {
        "package": "snntorch",
        "arguments": LIF,
        "when": AFTER,
        "gradient": "detached",
        "state": "layer",
    },
    {
        "name": "Leaky",
        "make": "snntorch.Leaky(beta=beta, threshold=threshold)",
        "here": "leaky",
        "counterpart": "`RLIB`, outputs only",
        "same": "outputs",
    },
    {
        "name": "Leaky(reset_delay=False)",
        "make": "snntorch.Leaky(beta=beta, threshold=threshold, reset_delay=False)",
        "when": TWICE,
        "gradient": "through",
        "here": "leaky_at_once",
        "counterpart": "`LIB`, up to a membrane of `2 * threshold`",
        "unless": "u > threshold",
    },
    {
        "name": 'Leaky(reset_mechanism="zero")',
        "make": 'snntorch.Leaky(beta=beta, threshold=threshold, reset_mechanism="zero")',
        "reset": "to 0",
        "when": BEFORE,
        "here": "leaky_zero",
        "counterpart": '`LIB(reset="zero", detach_reset=True)`',
    },
    {
        "name": 'Leaky(reset_mechanism="zero", reset_delay=False)',
        "make": "snntorch.Leaky(beta=beta, threshold=threshold, "
        'reset_mechanism="zero", reset_delay=False)',
        "reset": "to 0",
        "when": SAME,
        "gradient": "through",
        "here": "leaky_zero_at_once",
        "counterpart": '`LIB(reset="zero")`',
    },
    {
        "name": 'Leaky(reset_mechanism="none")',
        "make": 'snntorch.Leaky(beta=beta, threshold=threshold, reset_mechanism="none")',
        "reset": "none",
        "here": "leaky_none",
        "counterpart": '`LIB(reset="none")`; its membrane: `LI(ema=False)`',
    },
    {
        "name": "Synaptic",
        "make": "snntorch.Synaptic(alpha=alpha, beta=beta, threshold=threshold)",
        "arguments": CUBA,
        "current": "alpha * i + x",
        "here": "synaptic",
        "counterpart": "`flex.LeakyIntegrator`, outputs only",
        "same": "outputs",
    },
    {
        "name": "Synaptic(reset_delay=False)",
        "make": "snntorch.Synaptic(alpha=alpha, beta=beta, threshold=threshold, reset_delay=False)",
        "arguments": CUBA,
        "current": "alpha * i + x",
        "when": TWICE,
        "gradient": "through",
        "here": "synaptic_at_once",
        "counterpart": "`flex.LeakyIntegrator`, up to a membrane of `2 * threshold`",
        "unless": "u > threshold",
    },
    {
        "name": 'Synaptic(reset_mechanism="zero")',
        "make": "snntorch.Synaptic(alpha=alpha, beta=beta, threshold=threshold, "
        'reset_mechanism="zero")',
        "arguments": CUBA,
        "current": "alpha * i + x",
        "reset": "to 0",
        "counterpart": "none: the input of the next step is lost too",
    },
)
SPYX = _rows(
    {
        "package": "spyx",
        "arguments": LIF,
        "decided": "before the update",
        "when": AFTER,
        "surrogate": SUPERSPIKE_25,
        "sequences": "[T, B, N]",
        "late": 1,
    },
    {
        "name": "LIF",
        "make": "spyx.nn.LIF((N,), beta=beta, threshold=threshold, rngs=rngs)",
        "here": "lif",
        "counterpart": "`RLIB`, one step earlier",
    },
    {
        "name": "IF",
        "make": "spyx.nn.IF((N,), threshold=threshold, rngs=rngs)",
        "arguments": {"threshold": 1.5},
        "decay": "1",
        "here": "integrate_and_fire",
        "counterpart": "`LIB`, one step earlier",
    },
    {
        "name": "CuBaLIF",
        "make": "spyx.nn.CuBaLIF((N,), alpha=alpha, beta=beta, threshold=threshold, rngs=rngs)",
        "arguments": CUBA,
        "current": "alpha * i + x",
        "when": BEFORE,
        "here": "cuba_lif",
        "counterpart": "`flex.LeakyIntegrator`, one step earlier",
    },
    {
        "name": "ALIF",
        "make": "spyx.nn.ALIF((N,), beta=beta, gamma=gamma, threshold=threshold, rngs=rngs)",
        "arguments": {**LIF, "gamma": 0.5},
        "threshold": "threshold + a",
        "adapts": "gamma * a + (1 - gamma) * y",
        "counterpart": "none: the reset comes off after the decay; with `beta=1` the next row",
    },
    {
        "name": "ALIF(beta=1)",
        "make": "spyx.nn.ALIF((N,), beta=1.0, gamma=gamma, threshold=threshold, rngs=rngs)",
        "arguments": {"threshold": 1.5, "gamma": 0.5},
        "decay": "1",
        "threshold": "threshold + a",
        "adapts": "gamma * a + (1 - gamma) * y",
        "here": "alif",
        "counterpart": "`ALIB`, one step earlier",
    },
    {
        "name": "PSU_LIF",
        "make": "spyx.nn.PSU_LIF((N,), beta=beta, threshold=threshold, rngs=rngs)",
        "decided": "after the update",
        "reset": "none",
        "here": "psu_lif",
        "counterpart": '`LIB(reset="none")`',
        "late": 0,
    },
    {
        "name": "LI",
        "make": "spyx.nn.LI((N,), beta=beta, rngs=rngs)",
        "arguments": {"beta": 0.75},
        "fires": None,
        "here": "li",
        "counterpart": "`LI(ema=False)`",
        "late": 0,
    },
)
JELLY = {"tau": 4.0, "v_threshold": 1.5}
PLIF = {"w": float(np.float32(-np.log(3.0))), "v_threshold": 1.5}
SPIKINGJELLY = _rows(
    {
        "package": "spikingjelly",
        "arguments": JELLY,
        "decay": "1 - 1 / tau",
        "factor": "1 / tau",
        "threshold": "v_threshold",
        "fires": ">=",
        "reset": "to 0",
        "surrogate": SIGMOID,
        "state": "layer",
        "sequences": "[T, B, N]",
        "unless": "u == 0",
    },
    {
        "name": "LIFNode",
        "make": "neuron.LIFNode(tau, v_threshold=v_threshold, **SEQUENCE)",
        "here": "lif_node_zero_averaging",
        "counterpart": "`flex.LeakyIntegrator`, off the threshold",
    },
    {
        "name": "LIFNode(detach_reset=True)",
        "make": "neuron.LIFNode(tau, v_threshold=v_threshold, detach_reset=True, **SEQUENCE)",
        "gradient": "detached",
        "here": "lif_node_zero_detached",
        "counterpart": "`flex.LeakyIntegrator`, off the threshold",
    },
    {
        "name": "LIFNode(decay_input=False)",
        "make": "neuron.LIFNode(tau, False, v_threshold, **SEQUENCE)",
        "factor": "1",
        "here": "lif_node_zero",
        "counterpart": '`LIB(reset="zero")`, off the threshold',
    },
    {
        "name": "LIFNode(v_reset=None)",
        "make": "neuron.LIFNode(tau, True, v_threshold, None, **SEQUENCE)",
        "reset": "minus threshold",
        "here": "lif_node_averaging",
        "counterpart": "`flex.LeakyIntegrator`, off the threshold",
    },
    {
        "name": "LIFNode(decay_input=False, v_reset=None)",
        "make": "neuron.LIFNode(tau, False, v_threshold, None, **SEQUENCE)",
        "factor": "1",
        "reset": "minus threshold",
        "here": "lif_node",
        "counterpart": "`LIB`, off the threshold",
    },
    {
        "name": "ParametricLIFNode(decay_input=False, v_reset=None)",
        "make": "neuron.ParametricLIFNode(1 + exp(-w), False, v_threshold, None, **SEQUENCE)",
        "arguments": PLIF,
        "decay": "sigmoid(-w)",
        "factor": "1",
        "reset": "minus threshold",
        "here": "parametric_lif_node",
        "counterpart": "`LIB`, off the threshold",
    },
    {
        "name": "IFNode(v_reset=None)",
        "make": "neuron.IFNode(v_threshold, None, **SEQUENCE)",
        "arguments": {"v_threshold": 1.5},
        "decay": "1",
        "factor": "1",
        "reset": "minus threshold",
        "here": "if_node",
        "counterpart": "`LIB`, off the threshold",
    },
    {
        "name": "NonSpikingLIFNode",
        "make": "neuron.NonSpikingLIFNode(tau)",
        "arguments": {"tau": 4.0},
        "state": "none",
        "unless": "False",
        "fires": None,
        "here": "non_spiking_lif_node",
        "counterpart": "`LI`",
    },
)
BOX = {"dt": 2.0**-10, "tau_mem_inv": 256.0, "v_th": 1.5}
NORSE = _rows(
    {
        "package": "norse",
        "arguments": BOX,
        "decay": "1 - dt * tau_mem_inv",
        "factor": "dt * tau_mem_inv",
        "threshold": "v_th",
        "reset": "to 0",
        "surrogate": SUPERSPIKE_1,
        "sequences": "[T, B, N]",
    },
    {
        "name": "LIF",
        "make": "norse.LIF(norse.LIFParameters(*map(tensor, (tau_syn_inv, tau_mem_inv, 0, v_th))), "
        "dt=dt, record_states=True)",
        "arguments": _with(BOX, tau_syn_inv=512.0),
        "current": "(1 - dt * tau_syn_inv) * i + x",
        "here": "lif",
        "counterpart": "`flex.LeakyIntegrator`",
    },
    {
        "name": "LIFRecurrent",
        "make": "norse.LIFRecurrent(N, N, norse.LIFParameters(*map(tensor, (tau_syn_inv, "
        "tau_mem_inv, 0, v_th))), dt=dt, record_states=True, "
        "input_weights=torch.eye(N), recurrent_weights=torch.zeros(N, N))",
        "arguments": _with(BOX, tau_syn_inv=512.0),
        "current": "(1 - dt * tau_syn_inv) * i + x",
        "gradient": "detached",
        "here": "lif_recurrent",
        "counterpart": "`flex.LeakyIntegrator`, with recurrent weights of 0",
    },
    {
        "name": "LIFBoxCell",
        "make": "norse.LIFBoxCell(LIFBoxParameters(tensor(tau_mem_inv), v_th=tensor(v_th)), dt)",
        "sequences": STEPS,
        "here": "lif_box_zero",
        "counterpart": "`flex.LeakyIntegrator`",
    },
    {
        "name": "LIFBoxCell(reset_method=reset_subtract)",
        "make": "norse.LIFBoxCell(LIFBoxParameters(tensor(tau_mem_inv), v_th=tensor(v_th), "
        "reset_method=reset_subtract), dt)",
        "sequences": STEPS,
        "reset": "minus threshold",
        "here": "lif_box",
        "counterpart": "`flex.LeakyIntegrator`",
    },
    {
        "name": "LSNNCell",
        "make": "norse.LSNNCell(norse.LSNNParameters(*map(tensor, (tau_syn_inv, tau_mem_inv, "
        "tau_adapt_inv, 0.0, v_th, 0.0, beta))), dt=dt)",
        "arguments": _with(BOX, tau_syn_inv=512.0, tau_adapt_inv=128.0, beta=0.5),
        "current": "(1 - dt * tau_syn_inv) * i + x",
        "arrives": NEXT,
        "threshold": "v_th + (1 - dt * tau_adapt_inv) * a",
        "adapts": "(1 - dt * tau_adapt_inv) * a + beta * y",
        "sequences": STEPS,
        "here": "lsnn_cell",
        "counterpart": "`flex.LeakyIntegrator`, one step earlier",
        "late": 1,
    },
    {
        "name": "LI",
        "make": "norse.LI(norse.LIParameters(tensor(tau_syn_inv), tensor(tau_mem_inv)), dt=dt, "
        "record_states=True)",
        "arguments": {"dt": 2.0**-10, "tau_mem_inv": 256.0, "tau_syn_inv": 512.0},
        "current": "(1 - dt * tau_syn_inv) * i + x",
        "fires": None,
        "here": "li",
        "counterpart": "`flex.LeakyIntegrator`",
    },
    {
        "name": "LIBoxCell",
        "make": "norse.LIBoxCell(LIBoxParameters(tensor(tau_mem_inv)), dt=dt)",
        "arguments": {"dt": 2.0**-10, "tau_mem_inv": 256.0},
        "sequences": STEPS,
        "fires": None,
        "here": "li_box",
        "counterpart": "`LI`",
    },
)
# Of these tau and dt = 1, exp(-dt / tau) is exactly 0.75 and 0.5, in float32 and in float64.
PIKE = {"tau": 3.4760594967822063, "threshold": 1.5}
ADAPTIVE_PIKE = {**PIKE, "tau_a": 1.4426950408889634, "beta": 0.5}
JAXPIKE = _rows(
    {
        "package": "jaxpike",
        "arguments": PIKE,
        "decay": "exp(-1 / tau)",
        "factor": "1 - exp(-1 / tau)",
        "surrogate": SUPERSPIKE_25,
        "sequences": "[T, B, N]",
    },
    {
        "name": "LIF",
        "make": "jaxpike.LIF(tau, threshold=threshold)",
        "here": "lif",
        "counterpart": "`flex.LeakyIntegrator`",
    },
    {
        "name": 'LIF(reset="zero")',
        "make": 'jaxpike.LIF(tau, threshold=threshold, reset="zero")',
        "reset": "to 0",
        "here": "lif_zero",
        "counterpart": "`flex.LeakyIntegrator`",
    },
    {
        "name": "LinearLIF",
        "make": "jaxpike.LinearLIF(tau, threshold=threshold)",
        "reset": "none",
        "here": "linear_lif",
        "counterpart": "`flex.LeakyIntegrator`",
    },
    {
        "name": "ALIF",
        "make": "jaxpike.ALIF(tau, tau_a, beta=beta, threshold=threshold)",
        "arguments": ADAPTIVE_PIKE,
        "threshold": "threshold + beta * a",
        "adapts": "exp(-1 / tau_a) * a + y",
        "here": "alif",
        "counterpart": "`flex.LeakyIntegrator`",
    },
    {
        "name": 'ALIF(reset="zero")',
        "make": 'jaxpike.ALIF(tau, tau_a, beta=beta, threshold=threshold, reset="zero")',
        "arguments": ADAPTIVE_PIKE,
        "threshold": "threshold + beta * a",
        "adapts": "exp(-1 / tau_a) * a + y",
        "reset": "to 0",
        "here": "alif_zero",
        "counterpart": "`flex.LeakyIntegrator`",
    },
    {
        "name": "LeakyIntegrator",
        "make": "jaxpike.LeakyIntegrator(tau)",
        "arguments": {"tau": PIKE["tau"]},
        "fires": None,
        "here": "leaky_integrator",
        "counterpart": "`LI`",
    },
)
# In float32 and in float64 the decays of these time constants are 0.75 and 0.5.
TAU = {"tau": 3.476059496782207}
TAUS = {"tau_synapse": 1.4426950408889634, **TAU}
SPARX = _rows(
    {
        "package": "sparx",
        "arguments": _with(TAU, threshold=1.5),
        "decay": "exp(-1 / tau)",
        "fires": ">=",
        "sequences": "[T, B, N]",
        "unless": "u == 0",
    },
    {
        "name": "LIF",
        "make": "sparx.nn.LIF(tau, threshold)",
        "here": "lif",
        "counterpart": "`LIB`, off the threshold",
    },
    {
        "name": "LIF(detach_reset=True)",
        "make": "sparx.nn.LIF(tau, threshold, detach_reset=True)",
        "gradient": "detached",
        "here": "lif_detached",
        "counterpart": "`LIB(detach_reset=True)`, off the threshold",
    },
    {
        "name": 'LIF(reset="zero")',
        "make": 'sparx.nn.LIF(tau, threshold, reset="zero")',
        "reset": "to 0",
        "here": "lif_zero",
        "counterpart": '`LIB(reset="zero")`, off the threshold',
    },
    {
        "name": 'LIF(reset="none")',
        "make": 'sparx.nn.LIF(tau, threshold, reset="none")',
        "reset": "none",
        "here": "lif_none",
        "counterpart": '`LIB(reset="none")`, off the threshold',
    },
    {
        "name": "IF",
        "make": "sparx.nn.IF(threshold)",
        "arguments": {"threshold": 1.5},
        "decay": "1",
        "here": "integrate_and_fire",
        "counterpart": "`LIB`, off the threshold",
    },
    {
        "name": "Synaptic",
        "make": "sparx.nn.Synaptic(tau, tau_synapse, threshold)",
        "arguments": _with(TAUS, threshold=1.5),
        "current": "exp(-1 / tau_synapse) * i + x",
        "here": "synaptic",
        "counterpart": "`flex.LeakyIntegrator`, off the threshold",
    },
    {
        "name": "LI",
        "make": "sparx.nn.LI(tau)",
        "arguments": TAU,
        "fires": None,
        "unless": "False",
        "here": "li",
        "counterpart": "`LI(ema=False)`",
    },
)
RECURRENT = "sparx.nn.Recurrent(sparx.nn.LIF(tau, threshold))"
_ALL = (*OURS, *TRACETORCH, *SNNTORCH, *SPYX, *JAXPIKE, *SPARX, *SPIKINGJELLY, *NORSE)
ROWS = {row.key: row for row in _ALL}
LIBRARIES = {
    "tracetorch_jax": "tracetorch_jax",
    "tracetorch": "traceTorch 0.19.2",
    "snntorch": "snnTorch 1.0.0",
    "spyx": "Spyx 1.0.0",
    "jaxpike": "jaxpike 0.1.4",
    "sparx": "sparx 0.1.1",
    "spikingjelly": "SpikingJelly 2.0.0",
    "norse": "norse 1.1.0",
}


# By library: how a user asks for it there, the expression that makes it, if that is another, and
# what has the same derivative here, if anything has.
SURROGATES = {
    "tracetorch": (
        ("sigmoid4x", None, "smooth(4.0)"),
        ("sigmoid4x, quant_fn=round_ste()", "lambda u: round_ste()(sigmoid4x(u))", "sigmoid(4.0)"),
    ),
    "snntorch": (
        ("surrogate.atan(alpha=3)", None, "atan(3.0)"),
        ("surrogate.fast_sigmoid(slope=5)", None, "fast_sigmoid(5.0)"),
        ("surrogate.sigmoid(slope=5)", None, "sigmoid(5.0)"),
        ("surrogate.triangular()", None, None),
        ("surrogate.straight_through_estimator()", None, None),
    ),
    "spyx": (
        ("axn.superspike(5)", None, "fast_sigmoid(5.0)"),
        ("axn.boxcar(2, 0.5)", None, "straight_through(2.0)"),
        ("axn.tanh(2)", None, "sigmoid(4.0)"),
        ("axn.triangular(1)", None, "triangular(1.0)"),
        ("axn.arctan(2)", None, None),
    ),
    "jaxpike": (
        ("FastSigmoid(5.0)", "jaxpike.FastSigmoid(5.0)", "fast_sigmoid(5.0)"),
        ("ATan(3.0)", "jaxpike.ATan(3.0)", "atan(3.0)"),
        ("Triangular(2.0)", "jaxpike.Triangular(2.0)", "triangular(2.0)"),
        ("Boxcar(2.0)", "jaxpike.Boxcar(2.0)", "straight_through(2.0)"),
    ),
    "sparx": (
        ("surrogate.ATan(3.0)", "sparx.surrogate.ATan(3.0)", "atan(3.0)"),
        ("surrogate.Sigmoid(5.0)", "sparx.surrogate.Sigmoid(5.0)", "sigmoid(5.0)"),
        ("surrogate.FastSigmoid(5.0)", "sparx.surrogate.FastSigmoid(5.0)", "fast_sigmoid(5.0)"),
        ("surrogate.Triangle(1.0)", "sparx.surrogate.Triangle(1.0)", "triangular(1.0)"),
        ("surrogate.Rectangle(0.5)", "sparx.surrogate.Rectangle(0.5)", "straight_through(0.5)"),
        ("surrogate.Gaussian(0.5)", "sparx.surrogate.Gaussian(0.5)", "gaussian(0.5)"),
        ("surrogate.StraightThrough()", "sparx.surrogate.StraightThrough()", None),
    ),
    "spikingjelly": (
        ("surrogate.Sigmoid(5.0)", None, "sigmoid(5.0)"),
        ("surrogate.ATan(3.0)", None, "atan(3.0)"),
        ("surrogate.PiecewiseQuadratic(2.0)", None, "triangular(0.5)"),
        ("surrogate.Rect(2.0)", None, "straight_through(0.5)"),
        ("surrogate.SuperSpike(1.0)", None, "fast_sigmoid(1.0)"),
        ("surrogate.SoftSign(2.0)", None, "fast_sigmoid(2.0)"),
        ("surrogate.Erf(2.0)", None, "gaussian(8**-0.5)"),
    ),
    "norse": (
        ('method="super", alpha=100', 'spike("super", 100.0)', "fast_sigmoid(1.0)"),
        ('method="super", alpha=1', 'spike("super", 1.0)', "fast_sigmoid(1.0)"),
        ('method="triangle", alpha=1', 'spike("triangle", 1.0)', "triangular(1.0)"),
        ('method="tanh", alpha=2', 'spike("tanh", 2.0)', "sigmoid(4.0)"),
        ('method="circ", alpha=1', 'spike("circ", 1.0)', None),
    ),
}


def neurons():
    """Of each library, what is so in all rows, and tables of the rest: update, then spikes."""
    return "\n\n".join(_library(library) for library in LIBRARIES)


def _library(library):
    rows = [row for row in ROWS.values() if row.package == library]
    columns = dict(zip(COLUMNS, zip(*(row.cells for row in rows), strict=True), strict=True))
    firing = [i for i, row in enumerate(rows) if row.fires]
    alike, tables = [], []
    for names, where in ((UPDATE, range(len(rows))), (SPIKES, firing)):
        shown = {name: [columns[name][i] for i in where] for name in ("neuron", *names)}
        for name in names:
            if set(shown[name]) == {""}:
                del shown[name]
            elif name != "here" and len(set(shown[name])) == 1:
                alike.append((COLUMNS.index(name), f"**{name}**: {shown.pop(name)[0]}"))
        if len(shown) > 1:
            lines = [shown, ("---",) * len(shown), *zip(*shown.values(), strict=True)]
            tables.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    same = "; ".join(words for _, words in sorted(alike))
    return "\n\n".join([f"### {LIBRARIES[library]}", f"The same in all: {same}.", *tables])


def surrogates():
    """The table of surrogate derivatives."""
    lines = ["| library | there | here |", "|---|---|---|"]
    for library, rows in SURROGATES.items():
        for there, _, here in rows:
            cell = f"`{here}`" if here else "none"
            lines.append(f"| {LIBRARIES[library]} | `{there}` | {cell} |")
    return "\n".join(lines)


def marks(name):
    """What stands before and after a table in the page."""
    return f"<!-- {name}: written by tools/write_tables.py -->\n\n", f"\n\n<!-- end of {name} -->"


def written(name, page):
    """What the page has between them."""
    begin, end = marks(name)
    return page.split(begin)[1].split(end)[0]


def write():
    """Put the tables into the page."""
    page = PAGE.read_text()
    for name in TABLES:
        begin, end = marks(name)
        page = page.replace(begin + written(name, page) + end, begin + globals()[name]() + end)
    PAGE.write_text(page)
