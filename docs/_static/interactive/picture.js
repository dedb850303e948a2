// The picture of the interactive page: panels over one time axis, drawn as SVG.
(function (tracetorch) {
  "use strict";

  const { layers } = tracetorch;

  const HEIGHTS = {
    wide: { x: 84, trace: 68, mem: 160, out: 64, gap: 28 },
    narrow: { x: 60, trace: 48, mem: 104, out: 46, gap: 23 },
  };
  const LEAST = 0.45; // of these heights, where there is little space
  const AXIS = 34; // below the panels
  const LABEL = 12;

  // Titles of traces by name, in their order: those of a layer that has them all.
  const TRACES = Object.values(layers)
    .map(({ traces }) => traces)
    .reduce((most, some) => (Object.keys(some).length > Object.keys(most).length ? some : most));

  const fires = ({ layer }) => layers[layer].thresholds.some(Boolean);

  /** Panels of one neuron or two, from the top: what each shows, as lines or bars.
   *
   * Of two neurons, panels of traces have a line for each, which is the sum of its channels.
   */
  function panelsOf(runs, { dt, narrow, fixed }) {
    const both = runs.length > 1;
    const panels = [{ key: "x", title: fixed ? "input x" : "input x: draw here", bars: runs[0].series.x }];
    for (const [key, title] of Object.entries(TRACES)) {
      const having = runs.filter(({ layer }) => key in layers[layer].traces);
      if (!having.length) continue;
      const lines = having
        .reverse() // the first neuron on top
        .flatMap((run) => [...(both ? [] : channels(run, key)), sum(run, key)]);
      const levels = key === "mem" ? [...runs].reverse().flatMap(levelsOf) : [];
      panels.push({ key, title, lines, levels });
    }
    const silent = runs.filter((run) => !fires(run));
    if (silent.length) {
      const of = both && silent.length < 2 ? ` of ${silent[0].mark}` : "";
      panels.find(({ key }) => key === "mem").title += `, which is the output${of}`;
    }
    for (const run of runs.filter(fires)) {
      const { mark, series } = run;
      const name = !both ? "output" : narrow ? mark : `output of ${mark}`;
      const often = `${narrow ? "" : "firing "}rate ${rate(series.out, dt)}`;
      const title = `${name}: ${count(series.out)}, ${often}`;
      panels.push({ key: "out", title, bars: series.out });
    }
    return panels;
  }

  function channels({ layer, series }, trace) {
    return ["pos", "neg"]
      .map((kind) => ({ name: `${kind}_${trace}`, kind }))
      .filter(({ name }) => layers[layer].states.includes(name))
      .map((line) => ({ ...line, values: series[line.name] }));
  }

  function sum(run, trace) {
    const { mark, series } = run;
    const before = trace === "mem" && fires(run) ? series.membrane : undefined;
    const kind = mark === "B" ? "second" : "sum";
    return { name: mark || trace, kind, values: series[trace], before };
  }

  /** Thresholds of a neuron as lines. */
  function levelsOf({ mark, layer, params, series }) {
    const { thresholds, raised } = layers[layer];
    const kind = mark === "B" ? "tt-second" : "";
    return thresholds.flatMap((name, side) => {
      if (!name) return [];
      const values = raised[side] ? series[raised[side]] : series.x.map(() => params[name]);
      const sign = side ? -1 : 1;
      const label = `${mark && `${mark}: `}${side ? "-" : ""}${name}`;
      return { name: label, kind, mark, values: values.map((v) => sign * v) };
    });
  }

  /** "3 spikes", or how many of each sign. */
  function count(out) {
    const spikes = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
    const negative = out.filter((v) => v < 0).length;
    const all = out.filter((v) => v !== 0).length;
    if (!negative) return spikes(all, "spike");
    return `${all - negative} positive, ${spikes(negative, "negative spike")}`;
  }

  /** The share of steps with a spike; with the length of a step, spikes per second. */
  function rate(out, dt) {
    const share = out.filter((v) => v !== 0).length / out.length;
    return dt ? `${round((1000 * share) / dt)} Hz` : `${round(share)}`;
  }

  const round = (value) => Number(value.toPrecision(3));

  /** The least of 1, 2 and 5 times a power of ten that reaches a value. */
  function roundUp(value) {
    const power = 10 ** Math.floor(Math.log10(value));
    return power * [1, 2, 5, 10].find((factor) => factor * power >= value * 0.999);
  }

  /** Ends of an axis that holds 0, and round numbers on it: about `most`, but more than 0 alone. */
  function axis(values, most) {
    const low = Math.min(0, ...values);
    const high = Math.max(0, ...values);
    // Without a range, or with one that has no round numbers.
    if (!(high - low > 1e-300 && high - low < 1e300)) return { low: 0, high: 1, ticks: [0, 1] };
    let ticks = [];
    for (; ticks.length < (low < 0 && high > 0 ? 3 : 2); most++) {
      const step = roundUp((high - low) / most);
      const first = Math.ceil(low / step - 1e-9);
      const last = Math.floor(high / step + 1e-9);
      const count = last - first + 1;
      ticks = Array.from({ length: count }, (_, i) => Number(((first + i) * step).toPrecision(12)));
    }
    const margin = 0.06 * (high - low);
    return { low: low < 0 ? low - margin : low, high: high > 0 ? high + margin : high, ticks };
  }

  /** The axis of the input: the same to both sides, and still while values change a little. */
  function inputAxis(values, least = 1) {
    const limit = roundUp(Math.max(least, ...values.map(Math.abs)));
    return { low: -limit, high: limit, ticks: [-limit, 0, limit], limit };
  }

  function valuesOf(panel) {
    const lines = panel.lines ?? [];
    return [
      ...(panel.bars ?? []),
      ...lines.flatMap((line) => [...line.values, ...(line.before ?? [])]),
      ...(panel.levels ?? []).flatMap((level) => level.values),
    ];
  }

  /** Where everything goes, in pixels. */
  function layout(panels, { width, narrow, steps, dt, inputLimit, space = Infinity }) {
    const heights = HEIGHTS[narrow ? "narrow" : "wide"];
    const natural = panels.map(({ key }) => heights[key] ?? heights.trace);
    const free = space - AXIS - panels.length * heights.gap;
    const total = natural.reduce((a, b) => a + b);
    const factor = Math.max(LEAST, Math.min(1, free / total));
    const left = narrow ? 38 : 46;
    const right = width - 64;
    let top = 0;
    const placed = panels.map((panel, i) => {
      const ticks = { mem: narrow ? 2 : 4, out: 1 }[panel.key] ?? 2;
      const scale =
        panel.key === "x" ? inputAxis(panel.bars, inputLimit) : axis(valuesOf(panel), ticks);
      const height = Math.floor(factor * natural[i]);
      const place = { ...panel, ...scale, top: top + heights.gap - 6, height };
      place.y = (v) => {
        const y = place.top + height * (1 - (v - scale.low) / (scale.high - scale.low));
        return Math.max(-1e4, Math.min(1e4, y || 0)); // what is beyond all numbers, too
      };
      top += height + heights.gap;
      return place;
    });
    const x = (t) => left + ((t + 0.5) * (right - left)) / steps;
    const stepAt = (position) => {
      const step = Math.floor(((position - left) / (right - left)) * steps);
      return Math.min(steps - 1, Math.max(0, step));
    };
    const [height, bottom] = [top + AXIS, top - 6];
    return { panels: placed, width, height, bottom, left, right, steps, dt, x, stepAt, narrow };
  }

  const px = (value) => value.toFixed(1);

  function text(x, y, content, cls) {
    return `<text x="${px(x)}" y="${px(y)}" class="${cls}">${content}</text>`;
  }

  function segment(x1, y1, x2, y2, cls) {
    return `<line x1="${px(x1)}" y1="${px(y1)}" x2="${px(x2)}" y2="${px(y2)}" class="${cls}"/>`;
  }

  const minus = (content) => String(content).replace("-", "\u2212");

  /** Ticks that have room for their labels: 0, then the outermost, then what fits between. */
  function roomy({ ticks, y }) {
    const kept = [];
    const rank = (tick) => (tick === 0 ? Infinity : Math.abs(tick));
    for (const tick of [...ticks].sort((a, b) => rank(b) - rank(a)))
      if (kept.every((other) => Math.abs(y(other) - y(tick)) >= LABEL)) kept.push(tick);
    return kept;
  }

  function frame(panel, at) {
    const marks = roomy(panel).map((tick) => {
      const y = panel.y(tick);
      return (
        segment(at.left, y, at.right, y, tick === 0 ? "tt-zero" : "tt-grid") +
        text(at.left - 6, y + 4, minus(tick), "tt-tick")
      );
    });
    return text(at.left, panel.top - 7, panel.title, "tt-title") + marks.join("");
  }

  function lines(panel, at) {
    return panel.lines.map((one) => line(one, panel, at)).join("");
  }

  /** A line; where the membrane is reset it goes on to its value before, and drops from there. */
  function line({ values, before, kind }, panel, at) {
    const points = values.map((value, t) => {
      const here = `${px(at.x(t))},${px(panel.y(value))}`;
      if (!before || before[t] === value) return here;
      return `${px(at.x(t))},${px(panel.y(before[t]))} ${here}`;
    });
    return `<polyline points="${points.join(" ")}" class="tt-line tt-${kind}"/>`;
  }

  /** Names at the ends of the lines, moved apart where they would meet. */
  function names(panel, at) {
    const labels = panel.lines.map(({ name, kind, values }) => {
      return { name, kind, y: panel.y(values.at(-1)) };
    });
    labels.sort((a, b) => a.y - b.y);
    labels.forEach((label, i) => {
      if (i) label.y = Math.max(label.y, labels[i - 1].y + LABEL);
    });
    let limit = panel.top + panel.height + 4;
    for (const label of labels.reverse()) {
      label.y = Math.min(label.y, limit);
      limit = label.y - LABEL;
    }
    return labels
      .map(({ name, kind, y }) => text(at.right + 5, y + 4, name, `tt-name tt-${kind}`))
      .join("");
  }

  function levels(panel, at) {
    const points = (values) =>
      [values[0], ...values, values.at(-1)].map((value, i) => {
        const x = i === 0 ? at.left : i > values.length ? at.right : at.x(i - 1);
        return `${px(x)},${px(panel.y(value))}`;
      });
    return panel.levels
      .map(({ values, kind }) => {
        return `<polyline points="${points(values).join(" ")}" class="tt-level ${kind}"/>`;
      })
      .join("");
  }

  /** Names of thresholds, at the end where fewer values are in the way; of two neurons, those of
   * the first to the left. */
  function levelNames(panel, at) {
    return panel.levels.map(({ name, kind, mark, values }) => {
      const above = (value) => panel.y(value) + (value < 0 ? 12 : -4);
      const [first, last] = [above(values[0]), above(values.at(-1))];
      const steps = Math.ceil((6.5 * name.length) / (at.x(1) - at.x(0)));
      const hidden = (y, from, to) =>
        panel.lines
          .flatMap(({ values, before = [] }) => [values, before])
          .flatMap((values) => values.slice(from, to))
          .filter((other) => Math.abs(panel.y(other) - y + 4) < 8).length;
      const left = mark ? mark === "A" : hidden(first, 0, steps) < hidden(last, -steps);
      return left
        ? text(at.left + 3, first, minus(name), `tt-level-name tt-left ${kind}`)
        : text(at.right - 2, last, minus(name), `tt-level-name ${kind}`);
    }).join("");
  }

  /** Stems from 0, round at the end: upwards and downwards in different colours. */
  function bars(panel, at) {
    const room = Math.max(1, Math.min(5, 0.6 * (at.x(1) - at.x(0))));
    const spikes = panel.key === "out";
    const radius = px(Math.max(2, Math.min(4, room)));
    const width = px(spikes ? Math.min(2, room) : room);
    const zero = px(panel.y(0));
    const bar = (value, t) => {
      if (value === 0) return "";
      const kind = value > 0 ? "tt-pos" : "tt-neg";
      const [x, y] = [px(at.x(t)), px(panel.y(value))];
      const stem = `<path d="M${x} ${zero}V${y}" class="${kind}" stroke-width="${width}"/>`;
      const head = `<circle cx="${x}" cy="${y}" r="${radius}" class="tt-head ${kind}"/>`;
      return spikes ? stem + head : stem;
    };
    return panel.bars.map(bar).join("");
  }

  function timeAxis(at) {
    const { dt } = at;
    const { ticks } = axis([0, (at.steps - 1) * (dt ?? 1)], at.narrow ? 4 : 8);
    const marks = ticks.map((time) => {
      const x = Math.min(at.right, at.x(time / (dt ?? 1)));
      return (
        segment(x, at.bottom, x, at.bottom + 4, "tt-grid") +
        text(x, at.bottom + 16, time, "tt-time")
      );
    });
    const name = dt ? "time in ms" : "time in steps";
    return marks.join("") + text((at.left + at.right) / 2, at.bottom + 31, name, "tt-time");
  }

  /** Which of two neurons is which, at the right of the title of the input. */
  function legend(runs, at) {
    if (runs.length < 2) return "";
    const y = at.panels[0].top - 11;
    let right = at.width - 4;
    return [...runs].reverse().map(({ mark, layer }) => {
      const kind = mark === "B" ? "tt-second" : "tt-sum";
      const name = text(right, y + 4, `${mark} ${layer}`, `tt-end tt-name ${kind}`);
      const line = right - 4 - 7.2 * (layer.length + 1.5);
      right = line - 32;
      return name + segment(line - 20, y, line, y, `tt-line ${kind}`);
    }).join("");
  }

  /** The step that is looked at, through all panels. */
  function cursor(at, t) {
    if (t === null) return "";
    const x = px(at.x(t));
    const dots = at.panels.flatMap(({ lines = [], y }) =>
      lines.map(({ kind, values }) => {
        return `<circle cx="${x}" cy="${px(y(values[t]))}" r="3.2" class="tt-dot tt-${kind}"/>`;
      }),
    );
    const top = at.panels[0].top;
    return segment(at.x(t), top, at.x(t), at.bottom, "tt-cursor") + dots.join("");
  }

  /** Draw into an SVG element.
   *
   * `view` has the width, the height that there is, the length of a step in milliseconds, the step
   * that is looked at, the end of the input's axis, and whether nobody can draw there. Returns where
   * things are: `stepAt` a position, and `panels` with `top`, `height` and `limit`.
   */
  function draw(svg, runs, view) {
    const steps = runs[0].series.x.length;
    const { width } = view;
    const narrow = width < 480;
    const at = layout(panelsOf(runs, { ...view, narrow }), { ...view, narrow, steps });
    svg.setAttribute("width", width);
    svg.setAttribute("height", at.height);
    svg.setAttribute("viewBox", `0 0 ${width} ${at.height}`);
    const content = (panel) =>
      frame(panel, at) +
      (panel.levels ? levels(panel, at) : "") +
      (panel.bars ? bars(panel, at) : "") +
      (panel.lines ? lines(panel, at) + names(panel, at) : "") +
      (panel.levels ? levelNames(panel, at) : "");
    const drawn = at.panels.map((panel) => `<g data-panel="${panel.key}">${content(panel)}</g>`);
    svg.innerHTML = drawn.join("") + legend(runs, at) + timeAxis(at) + cursor(at, view.step);
    svg.setAttribute("aria-label", describe(runs, at));
    return at;
  }

  /** The picture in words. */
  function describe(runs, { panels, steps, dt }) {
    const range = (values) => {
      const [low, high] = [Math.min(...values), Math.max(...values)].map((v) => v.toFixed(2));
      return `from ${low} to ${high}`;
    };
    const parts = panels.map(({ key, title, bars, lines }) => {
      if (key === "out") return title;
      const name = title.split(":")[0];
      if (bars) return `${name} ${range(bars)}`;
      if (runs.length < 2) return `${name} ${range(lines.at(-1).values)}`;
      const each = [...lines].reverse().map((line) => `of ${line.name} ${range(line.values)}`);
      return `${name} ${each.join(", ")}`;
    });
    const names = runs.map(({ mark, layer }) => (mark ? `${mark} ${layer}` : layer)).join(" and ");
    const long = dt ? ` (${round(steps * dt)} ms)` : "";
    return `${names} over ${steps} steps${long}: ${parts.join("; ")}.`;
  }

  tracetorch.picture = { draw };
})(globalThis.tracetorch);
