// What the interactive page is built of: elements, the choice of a layer, numbers with sliders,
// tables of values.
(function (tracetorch) {
  "use strict";

  const { layers, neuron, halfLife, prefixes, suffixes, resets } = tracetorch;

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

  /** The choice of a layer, from a list or by the parts that its name is made of, and its reset. */
  function chooser(choose, chooseReset) {
    const said = ([word, about]) => `${word}: ${about}`;
    const groups = Object.entries(suffixes).map(([suffix, words]) => {
      const names = Object.keys(layers).filter((name) => layers[name].letters[1] === suffix);
      return [said(words), names.map((name) => [name, name])];
    });
    const all = list("tt-layer", "Layer", groups, choose);
    // The layer with these letters, or with as many of them as a layer with this suffix has.
    const spell = () => {
      const suffix = spikes.inputs.find((input) => input.checked).value;
      const chosen = traces.inputs.filter((input) => input.checked).map((input) => input.value);
      const fitting = Object.keys(layers).filter((name) => {
        const [letters, end] = layers[name].letters;
        return end === suffix && [...letters].every((letter) => chosen.includes(letter));
      });
      choose(fitting.reduce((best, name) => (name.length > best.length ? name : best)));
    };
    const ofPrefix = ([p, word]) => [p, [`${p} ${word}`, word]];
    const ofSuffix = ([s, words]) => [s, [s || "none", said(words)]];
    const texts = (entries, make) => Object.fromEntries(Object.entries(entries).map(make));
    const traces = chips(
      "checkbox", "traces", "traces besides the membrane", texts(prefixes, ofPrefix), spell,
    );
    const spikes = chips("radio", "spikes", "spikes", texts(suffixes, ofSuffix), spell);
    const after = chips(
      "radio", "reset", "what a spike does to the membrane",
      texts(resets, ([, reset]) => [reset, [reset, reset]]),
      (event) => chooseReset(event.target.value),
    );
    const show = ({ layer, reset }) => {
      const [letters, suffix] = layers[layer].letters;
      all.select.value = layer;
      traces.inputs.forEach((input) => (input.checked = letters.includes(input.value)));
      spikes.inputs.forEach((input) => (input.checked = input.value === suffix));
      for (const input of after.inputs) {
        input.checked = input.value === reset;
        input.disabled = !reset;
      }
      for (const input of traces.inputs) {
        const other = Object.keys(prefixes)
          .filter((letter) => letters.includes(letter) !== (letter === input.value))
          .join("");
        input.disabled = !(`${other}LI${suffix}` in layers);
      }
    };
    const children = [all.element, traces.element, spikes.element, after.element];
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

  /** Name and label of every series worth a number, in the order in which a step has them. */
  function columns(series, layer) {
    const { traces, states, thresholds } = layers[layer];
    const names = Object.keys(traces).flatMap((trace) => [
      ...(trace === "mem" && thresholds.some(Boolean) ? ["membrane"] : []),
      ...["pos", "neg"].map((sign) => `${sign}_${trace}`).filter((name) => states.includes(name)),
      trace,
    ]);
    const label = (name) => (name === "membrane" ? "mem before reset" : name);
    return ["x", ...names, "out"].map((name) => [name, label(name)]);
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
