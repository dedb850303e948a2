// The values of the interactive page's neurons as numbers: those at one step, and all as a table.
(function (tracetorch) {
  "use strict";

  const { layers } = tracetorch;
  const { el } = tracetorch.controls;

  /** Name, label and values of every series of a neuron, in the order in which a step has them. */
  function seriesOf({ mark, layer, series }) {
    const { traces, states, thresholds } = layers[layer];
    const names = Object.keys(traces).flatMap((trace) => [
      ...(trace === "mem" && thresholds.some(Boolean) ? ["membrane"] : []),
      ...["pos", "neg"].map((sign) => `${sign}_${trace}`).filter((name) => states.includes(name)),
      trace,
    ]);
    return [...names, "out"].map((name) => ({
      name: mark === "B" ? `b.${name}` : name,
      label: `${mark && `${mark} `}${name === "membrane" ? "mem before reset" : name}`,
      values: series[name],
    }));
  }

  /** The step, with its length the time, the input, and what the neurons make of it. */
  function columns(runs, dt) {
    const { x } = runs[0].series;
    const time = x.map((_, t) => t * dt);
    return [
      { name: "step", label: "step", values: x.map((_, t) => t) },
      ...(dt ? [{ name: "time", label: "time in ms", values: time }] : []),
      { name: "x", label: "x", values: x },
      ...runs.flatMap(seriesOf),
    ];
  }

  /** A value to four decimals. */
  const shown = (value) => String(Number(value.toFixed(4)));

  /** Names, labels and values at one step. */
  function at(runs, dt, step) {
    return columns(runs, dt).map(({ name, label, values }) => [name, label, shown(values[step])]);
  }

  /** All values as a table, a row for each step. */
  function table(runs, dt) {
    const [steps, ...others] = columns(runs, dt);
    const head = [steps, ...others].map(({ label }) => el("th", { scope: "col" }, label));
    const row = (t) => [
      el("th", { scope: "row" }, String(t)),
      ...others.map(({ values }) => el("td", {}, shown(values[t]))),
    ];
    return el("table", {},
      el("thead", {}, el("tr", {}, ...head)),
      el("tbody", {}, ...steps.values.map((t) => el("tr", {}, ...row(t)))),
    );
  }

  tracetorch.values = { at, table };
})(globalThis.tracetorch);
