// What a neuron of the interactive page is set with: its layer, its reset and its parameters.
(function (tracetorch) {
  "use strict";

  const { layers, neuron, controls, prefixes, suffixes, resets } = tracetorch;
  const { el, list, chips } = controls;

  /** The choice of a layer, from a list or by the parts that its name is made of, and its reset. */
  function chooser(id, choose, chooseReset) {
    const said = ([word, about]) => `${word}: ${about}`;
    const groups = Object.entries(suffixes).map(([suffix, words]) => {
      const names = Object.keys(layers).filter((name) => layers[name].letters[1] === suffix);
      return [said(words), names.map((name) => [name, name])];
    });
    const all = list(`${id}layer`, "layer", groups, choose);
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
      "checkbox", `${id}traces`, "traces", "traces besides the membrane",
      texts(prefixes, ofPrefix), spell,
    );
    const spikes = chips(
      "radio", `${id}spikes`, "spikes", "spikes", texts(suffixes, ofSuffix), spell,
    );
    const after = chips(
      "radio", `${id}reset`, "reset", "what a spike does to the membrane",
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
    return { element: el("div", { class: "tt-chooser" }, ...children), first: all.element, show };
  }

  /** A group of numbers with sliders; each writes into `values`. */
  function rows(fields, values, changed, options) {
    return fields.map((field) =>
      controls.control(field, values[field.name], (value) => {
        values[field.name] = value;
        changed();
      }, options),
    );
  }

  /** All of one neuron. `replace` is called with another neuron, `changed` after a number has been
   * written; `family` is where the pages of layers are. */
  function panel(mark, family, replace, changed) {
    const choice = chooser(
      mark === "B" ? "tt-b-" : "tt-",
      (layer) => replace((one) => neuron.withLayer(one, layer)),
      (reset) => replace((one) => ({ ...one, reset })),
    );
    const legend = el("legend");
    const summary = el("p", { class: "tt-summary", "aria-live": "polite" });
    const numbers = el("div", { class: "tt-rows" });
    const click = () => replace((one) => ({ ...one, params: neuron.initial(one.layer).params }));
    choice.first.append(el("button", { type: "button", click }, "Reset parameters"));
    const element = el("fieldset", { "data-neuron": mark },
      legend, choice.element, summary, numbers);
    const show = (one, { both, dt }) => {
      const { layer, params } = one;
      const said = `${layer}: ${layers[layer].summary} `;
      const more = el("a", { href: `${family}${layer}.html` }, `All about ${layer}`);
      legend.textContent = both ? `Neuron ${mark}` : "Neuron";
      choice.show(one);
      if (!summary.textContent.startsWith(said)) // or it would be read aloud again
        summary.replaceChildren(said, family ? more : "");
      const options = { mark: both ? mark : "", dt };
      numbers.replaceChildren(...rows(neuron.fieldsOf(layer), params, changed, options));
    };
    return { element, show };
  }

  tracetorch.panel = { panel, rows };
})(globalThis.tracetorch);
