// What the interactive page is built of: elements, the choice of a layer, numbers with sliders,
// tables of values.
(function (tracetorch) {
  "use strict";

  const { layers, neuron, halfLife } = tracetorch;

  const PREFIXES = { D: "dual", S: "synaptic", R: "recurrent" };
  const SUFFIXES = {
    "": "no spikes: the membrane is the output",
    B: "binary spikes: 0, 1",
    T: "ternary spikes: -1, 0, 1",
    TS: "ternary spikes, scaled by sign",
  };

  /** An element with attributes and children; attributes that are functions are listeners. */
  function el(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  /** A list to choose from, with its label. `groups` maps labels to options, or is one of them. */
  function list(id, label, options, choose) {
    const option = ([value, text]) => el("option", { value }, text);
    const children = options.map(([group, inside]) =>
      Array.isArray(inside)
        ? el("optgroup", { label: group }, ...inside.map(option))
        : option([group, inside]),
    );
    const select = el("select", { id, change: () => choose(select.value) }, ...children);
    const element = el("div", { class: "tt-pick" }, el("label", { for: id }, label), select);
    return { element, select };
  }

  /** D, S and R as one has them, and the suffix. */
  const partsOf = (layer) => /^(D?)(S?)(R?)LI(B|TS|T|)$/.exec(layer).slice(1);

  /** A choice of several that are on or off, or of one. */
  function chips(type, name, label, texts, change) {
    const inputs = Object.entries(texts).map(([value, [, title]]) =>
      el("input", { type, name, value, "aria-label": title, change }),
    );
    const labels = Object.values(texts).map(([text, title], i) => {
      const face = el("span", { "aria-hidden": true }, text);
      return el("label", { class: "tt-chip", title }, inputs[i], face);
    });
    const caption = el("span", { class: "tt-caption", "aria-hidden": true }, name);
    const role = type === "radio" ? "radiogroup" : "group";
    const element = el("div", { class: "tt-parts", role, "aria-label": label }, caption, ...labels);
    return { element, inputs };
  }

  /** The choice of a layer: from a list, or by the parts that its name is made of. */
  function chooser(choose) {
    const groups = Object.entries(SUFFIXES).map(([suffix, label]) => {
      const names = Object.keys(layers).filter((name) => partsOf(name)[3] === suffix);
      return [label, names.map((name) => [name, name])];
    });
    const all = list("tt-layer", "Layer", groups, choose);
    // What never fires has no recurrent trace.
    const spell = () => {
      const suffix = spikes.inputs.find((input) => input.checked).value;
      const letters = traces.inputs.filter((input) => input.checked).map((input) => input.value);
      choose(`${letters.filter((letter) => suffix || letter !== "R").join("")}LI${suffix}`);
    };
    const prefixes = Object.entries(PREFIXES).map(([p, word]) => [p, [`${p} ${word}`, word]]);
    const suffixes = Object.entries(SUFFIXES).map(([s, words]) => [s, [s || "none", words]]);
    const traces = chips(
      "checkbox", "traces", "traces besides the membrane", Object.fromEntries(prefixes), spell,
    );
    const spikes = chips("radio", "spikes", "spikes", Object.fromEntries(suffixes), spell);
    const show = (layer) => {
      const parts = partsOf(layer);
      all.select.value = layer;
      traces.inputs.forEach((input, i) => (input.checked = parts[i] !== ""));
      spikes.inputs.forEach((input) => (input.checked = input.value === parts[3]));
      traces.inputs[2].disabled = parts[3] === "";
    };
    const children = [all.element, traces.element, spikes.element];
    return { element: el("div", { class: "tt-chooser" }, ...children), show };
  }

  /** How long a decay lasts. */
  function lasting(decay) {
    const steps = Number(halfLife(decay).toPrecision(3));
    return `half-life ${steps} step${steps === 1 ? "" : "s"}`;
  }

  /** A labelled number with its slider. `set` is called with every value that the rule allows. */
  function control(field, value, set) {
    const { name, about, slider, constraint } = field;
    const id = `tt-${name}`;
    const note = el("span", { class: "tt-note", id: `${id}-note` });
    const message = el("div", { class: "tt-message", role: "alert", id: `${id}-message` });
    const number = el("input", {
      id, class: "tt-number", type: "text", inputmode: "decimal", autocomplete: "off", title: about,
      value, "aria-describedby": `${note.id} ${message.id}`,
      input: () => {
        try {
          const now = neuron.parse(field, number.value);
          range.value = slider.place(now);
          take(now);
        } catch (error) {
          number.setAttribute("aria-invalid", true);
          message.textContent = error.message;
        }
      },
    });
    const range = el("input", {
      type: "range", min: slider.from, max: slider.to, step: slider.step, title: about,
      "aria-label": `${name} slider`,
      input: () => {
        const now = slider.read(Number(range.value));
        number.value = now;
        take(now);
      },
    });
    const show = (now) => {
      note.textContent = constraint === "sigmoid" ? lasting(now) : "";
      range.setAttribute("aria-valuetext", [now, note.textContent].filter(String).join(", "));
    };
    const take = (now) => {
      number.removeAttribute("aria-invalid");
      message.textContent = "";
      show(now);
      set(now);
    };
    range.value = slider.place(value);
    show(value);
    const label = el("label", { for: id }, name);
    return el("div", { class: "tt-control" }, label, note, number, message, range);
  }

  const ORDER = [
    "x", "pos_syn", "neg_syn", "syn", "pos_rec", "neg_rec", "rec",
    "membrane", "pos_mem", "neg_mem", "mem", "out",
  ];

  /** Name and label of every series worth a number, in the order in which a step has them. */
  function columns(series, layer) {
    const fires = layers[layer].thresholds.some(Boolean);
    const names = ORDER.filter((name) => series[name] && (name !== "membrane" || fires));
    return names.map((name) => [name, name === "membrane" ? "mem before reset" : name]);
  }

  /** A value to four decimals. */
  const shown = (value) => String(Number(value.toFixed(4)));

  /** Names, labels and values at one step. */
  function valuesAt(series, layer, step) {
    return columns(series, layer).map(([name, label]) => [name, label, shown(series[name][step])]);
  }

  /** All values as a table, a row for each step. */
  function table(series, layer) {
    const named = columns(series, layer);
    const head = ["step", ...named.map(([, label]) => label)];
    const row = (t) => [
      el("th", { scope: "row" }, String(t)),
      ...named.map(([name]) => el("td", {}, shown(series[name][t]))),
    ];
    return el("table", {},
      el("thead", {}, el("tr", {}, ...head.map((label) => el("th", { scope: "col" }, label)))),
      el("tbody", {}, ...series.x.map((_, t) => el("tr", {}, ...row(t)))),
    );
  }

  tracetorch.controls = { el, list, chooser, control, valuesAt, table };
})(globalThis.tracetorch);
