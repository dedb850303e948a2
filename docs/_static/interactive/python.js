// The neurons of the interactive page in Python: how they are made, and a script that runs them.
(function (tracetorch) {
  "use strict";

  const { layers, neuron } = tracetorch;

  /** A layer as the library makes it. */
  function made({ layer, reset, params }, ...more) {
    const options = neuron.fieldsOf(layer)
      .filter(({ name, value }) => params[name] !== value)
      .map(({ name }) => `${name}=${params[name]}`);
    if (reset !== layers[layer].reset) options.push(`reset="${reset}"`);
    return `snn.${layer}(${["1", ...options, ...more].join(", ")})`;
  }

  function snippet(model) {
    const { other } = model;
    const lines = other ? [`a = ${made(model)}`, `b = ${made(other)}`] : [`layer = ${made(model)}`];
    return ["from tracetorch_jax import snn", "", ...lines].join("\n");
  }

  /** Numbers as an array of NumPy: each value, and how often it comes in a row. */
  function array(values) {
    const repeats = neuron.repeats(values);
    const [once, times] = [0, 1].map((i) => repeats.map((pair) => pair[i]).join(", "));
    return repeats.length < values.length
      ? `np.repeat([${once}], [${times}])`
      : `np.array([${once}])`;
  }

  function inputLines(model) {
    const { input, options } = model;
    const { python } = neuron.INPUTS[input];
    const used = Object.keys(options).filter((name) => name !== "steps" && python?.includes(name));
    return [
      `steps = ${options.steps}`,
      "t = np.arange(steps)",
      ...used.map((name) => `${name} = ${options[name]}`),
      `x = ${python ?? array(neuron.inputOf(model))}`,
    ];
  }

  /** A script that prints and draws what the page shows. */
  function script(model) {
    const { dt, other } = model;
    const neurons = Object.entries(other ? { A: model, B: other } : { [model.layer]: model });
    const line = ([name, one]) => `    "${name}": ${made(one, "param_dtype=jnp.float64")},`;
    const rate = dt ? "{1000 * spikes / (steps * dt):.4g} Hz" : "{spikes / steps:.4g}";
    return `\
# One neuron of tracetorch_jax and its input, as the page "One neuron, by hand" shows them.
import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import tracetorch_jax as tt
from tracetorch_jax import snn

jax.config.update("jax_enable_x64", True)  # the page computes in float64

${inputLines(model).join("\n")}
neurons = {
${neurons.map(line).join("\n")}
}
${dt ? `dt = ${dt}  # ms\n` : ""}
values = {"x": x}
for name, layer in neurons.items():
    model, xs = snn.Unroll(layer), jnp.asarray(x, float)[:, None]  # [time, features]
    _, layers = tt.record(model, model.init(jax.random.key(0), xs), xs)
    seen = layers["cell"]
    found = seen.states | {"out": seen.outputs}
    if seen.thresholds:  # it fires
        found |= {"mem before reset": seen.membrane} | seen.thresholds
        spikes = np.count_nonzero(seen.outputs)
        print(f"{name}: {spikes} spikes, firing rate ${rate}")
    found.pop("prev_output", None)  # the output of one step before
    values |= {f"{name} {key}": np.asarray(v)[:, 0] for key, v in found.items()}

np.savetxt(sys.stdout, np.column_stack([t, *values.values()]), fmt="%.6g", delimiter="\\t",
           header="\\t".join(["step", *values]), comments="")

figure, axes = plt.subplots(len(values), figsize=(7, 1.2 * len(values)), sharex=True,
                            layout="constrained")
for ax, (name, value) in zip(axes, values.items()):
    ax.plot(${dt ? "dt * t" : "t"}, value)
    ax.set_title(name, loc="left", fontsize="small")
axes[-1].set_xlabel("${dt ? "time in ms" : "time in steps"}")
plt.show()
`;
  }

  tracetorch.python = { snippet, script };
})(globalThis.tracetorch);
