// The interactive page: controls, the input drawn by hand, and the address that describes them.
(function (tracetorch) {
  "use strict";

  const { layers, neuron, picture, halfLife } = tracetorch;
  const FAMILIES = [
    ["", "no spikes: the membrane is the output"],
    ["B", "binary spikes: 0, 1"],
    ["T", "ternary spikes: -1, 0, 1"],
    ["TS", "ternary spikes, scaled by sign"],
  ];
  const PREFIXES = [["D", "dual"], ["S", "synaptic"], ["R", "recurrent"]];
  const partsOf = (layer) => /^(D?)(S?)(R?)LI(B|TS|T|)$/.exec(layer).slice(1);

  /** An element with attributes and children; attributes that are functions are listeners. */
  function el(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  const KEYS =
    "Keys in the input's frame: left and right move along time, Home and End to its ends; up and down " +
    "change the input there; Shift makes it ten times as much; Delete sets 0; Enter carries the input on.";

  const shown = (value) => String(Number(value.toFixed(4)));

  /** How long a decay lasts. */
  function lasting(decay) {
    const steps = Number(halfLife(decay).toPrecision(3));
    return `half-life ${steps} step${steps === 1 ? "" : "s"}`;
  }

  class Page {
    constructor(root) {
      this.root = root;
      this.model = neuron.initial();
      this.step = null;
      this.frame = this.timer = 0;
      this.build();
      this.readAddress();
      window.addEventListener("hashchange", () => this.readAddress());
      new ResizeObserver(() => this.draw()).observe(this.picture);
      root.classList.add("tt-ready");
    }

    // What is on the page.

    build() {
      this.summary = el("p", { class: "tt-summary", "aria-live": "polite" });
      this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      this.svg.setAttribute("role", "img");
      this.pen = el("div", {
        class: "tt-pen", role: "slider", tabindex: 0, "aria-label": "input, drawn step by step", "aria-orientation": "vertical",
        "aria-describedby": "tt-keys",
      });
      this.picture = el("div", { class: "tt-picture" }, this.svg, this.pen);
      this.readout = el("dl", { class: "tt-readout", "aria-label": "values at one step" });
      this.message = el("div", { class: "tt-message", role: "alert" });
      this.inputControls = el("fieldset");
      this.parameterControls = el("fieldset");
      this.equations = el("pre", { class: "tt-equations", tabindex: 0, "aria-label": "equations" });
      this.code = el("code", { class: "tt-code" });
      this.table = el("div", { class: "tt-table", tabindex: 0, role: "region", "aria-label": "values at every step" });
      this.details = el("details", { toggle: () => this.fillTable() }, el("summary", {}, "All values as a table"), this.table);
      this.root.replaceChildren(
        this.chooser(),
        this.summary,
        this.message,
        el("div", { class: "tt-main" },
          el("div", { class: "tt-view" }, this.picture, this.readout, el("p", { id: "tt-keys", class: "tt-keys" }, KEYS)),
          el("div", { class: "tt-controls" }, this.inputControls, this.parameterControls),
        ),
        el("div", { class: "tt-below" },
          el("div", {}, el("p", { class: "tt-heading" }, "One step, in order"), this.equations),
          el("div", {}, el("p", { class: "tt-heading" }, "In Python"), el("pre", { tabindex: 0 }, this.code)),
          this.details,
        ),
      );
      this.listen();
    }

    /** A list of all layers, and the parts that a name is made of. */
    chooser() {
      const groups = FAMILIES.map(([suffix, label]) => {
        const names = Object.keys(layers).filter((name) => partsOf(name)[3] === suffix);
        return el("optgroup", { label }, ...names.map((name) => el("option", { value: name }, name)));
      });
      this.select = el("select", { id: "tt-layer", change: () => this.choose(this.select.value) }, ...groups);
      this.prefixes = PREFIXES.map(([letter, label]) =>
        el("input", { type: "checkbox", value: letter, "aria-label": label, change: () => this.choose(this.spelt()) }));
      this.suffixes = FAMILIES.map(([suffix, label]) =>
        el("input", { type: "radio", name: "tt-family", value: suffix, "aria-label": label, change: () => this.choose(this.spelt()) }));
      const chip = (input, text, title) => el("label", { class: "tt-chip", title }, input, el("span", { "aria-hidden": "true" }, text));
      const family = ["none", "B", "T", "TS"];
      return el("div", { class: "tt-chooser" },
        el("div", { class: "tt-pick" }, el("label", { for: "tt-layer" }, "Layer"), this.select),
        el("div", { class: "tt-parts", role: "group", "aria-label": "traces besides the membrane" },
          el("span", { class: "tt-caption" }, "traces"),
          ...this.prefixes.map((input, i) => chip(input, `${PREFIXES[i][0]} ${PREFIXES[i][1]}`, PREFIXES[i][1]))),
        el("div", { class: "tt-parts", role: "radiogroup", "aria-label": "spikes" },
          el("span", { class: "tt-caption" }, "spikes"),
          ...this.suffixes.map((input, i) => chip(input, family[i], FAMILIES[i][1]))),
      );
    }

    /** The name that the parts spell; what never fires has no recurrent trace. */
    spelt() {
      const suffix = this.suffixes.find((input) => input.checked).value;
      const prefixes = this.prefixes.filter((input) => input.checked && (suffix || input.value !== "R"));
      return `${prefixes.map((input) => input.value).join("")}LI${suffix}`;
    }

    /** A labelled number with its slider. `set` is called with every valid value. */
    control(field, value, set) {
      const id = `tt-${field.name}`;
      const { slider } = field;
      const number = el("input", {
        type: "text", inputmode: "decimal", autocomplete: "off", id, value: shown(value), title: field.about, class: "tt-number",
        "aria-describedby": `${id}-note ${id}-message`,
      });
      const note = el("span", { class: "tt-note", id: `${id}-note` });
      const range = el("input", {
        type: "range", min: slider.from, max: slider.to, step: slider.step, "aria-label": `${field.name} slider`, title: field.about,
      });
      const show = (now) => {
        note.textContent = field.constraint === "sigmoid" ? lasting(now) : "";
        range.setAttribute("aria-valuetext", [shown(now), note.textContent].filter(Boolean).join(", "));
      };
      const message = el("div", { class: "tt-message", role: "alert", id: `${id}-message` });
      const take = (now) => {
        number.removeAttribute("aria-invalid");
        message.textContent = "";
        show(now);
        set(now);
      };
      number.addEventListener("input", () => {
        try {
          const now = neuron.parse(field, number.value);
          range.value = slider.place(now);
          take(now);
        } catch (error) {
          number.setAttribute("aria-invalid", "true");
          message.textContent = error.message;
        }
      });
      range.addEventListener("input", () => {
        const now = slider.read(Number(range.value));
        number.value = shown(now);
        take(now);
      });
      range.value = slider.place(value);
      show(value);
      return el("div", { class: "tt-control" }, el("label", { for: id }, field.name), note, number, message, range);
    }

    /** All controls anew, after the layer or the kind of input has changed. */
    renew() {
      const { layer, params, input, options } = this.model;
      this.message.textContent = "";
      this.select.value = layer;
      const parts = partsOf(layer);
      this.prefixes.forEach((box, i) => (box.checked = parts[i] !== ""));
      this.suffixes.forEach((radio) => (radio.checked = radio.value === parts[3]));
      this.prefixes[2].disabled = parts[3] === "";
      const { family } = this.root.dataset;
      const more = family ? [" ", el("a", { href: `${family}${layer}.html` }, `All about ${layer}`)] : [];
      this.summary.replaceChildren(`${layer}: ${layers[layer].summary}`, ...more);
      this.equations.textContent = layers[layer].equations.join("\n");
      this.renewInput(input, options);
      this.parameterControls.replaceChildren(
        el("legend", {}, "Parameters"),
        ...neuron.fieldsOf(layer).map((field) =>
          this.control(field, params[field.name], (value) => {
            params[field.name] = value;
            this.changed();
          })),
        el("button", { type: "button", click: () => this.reset() }, "Reset parameters"),
      );
      this.changed();
    }

    renewInput(input, options) {
      const kinds = Object.entries(neuron.INPUTS).map(([value, { label }]) =>
        el("option", { value, selected: value === input }, label));
      const select = el("select", { id: "tt-input", change: () => this.chooseInput(select.value) }, ...kinds);
      this.inputControls.replaceChildren(
        el("legend", {}, "Input"),
        el("div", { class: "tt-pick" }, el("label", { for: "tt-input" }, "shape"), select),
        ...neuron.optionsOf(input).map((field) =>
          this.control(field, options[field.name], (value) => {
            options[field.name] = value;
            this.changed();
          })),
        el("button", { type: "button", click: () => this.clear() }, "Clear input"),
      );
      this.inputSelect = select;
    }

    // What is done with it.

    choose(layer) {
      this.model = neuron.withLayer(this.model, layer);
      this.renew();
    }

    chooseInput(input) {
      const focused = document.activeElement === this.inputSelect;
      this.model = neuron.withInput(this.model, input);
      this.renew();
      if (focused) this.inputSelect.focus();
    }

    reset() {
      this.model.params = neuron.initial(this.model.layer).params;
      this.renew();
      this.parameterControls.querySelector("button").focus();
    }

    clear() {
      this.model = { ...neuron.withInput(this.model, "drawn"), drawn: [] };
      this.renew();
      this.inputControls.querySelector("button").focus();
    }

    /** Set the input from one step to another, in a straight line. */
    paint(from, to) {
      if (this.model.input !== "drawn") {
        this.model = neuron.withInput(this.model, "drawn");
        this.renewInput("drawn", this.model.options);
      }
      const { drawn } = this.model;
      const last = Math.abs(to.step - from.step);
      for (let i = 0; i <= last; i++) {
        const part = last ? i / last : 1;
        const step = from.step + Math.sign(to.step - from.step) * i;
        drawn[step] = Number((from.value + part * (to.value - from.value)).toFixed(3));
      }
      this.step = to.step;
      this.changed();
    }

    listen() {
      const { pen, svg } = this;
      let last = null;
      const place = (event) => {
        const box = svg.getBoundingClientRect();
        const { top, height, limit } = this.at.panels[0];
        const share = 1 - (event.clientY - box.top - top) / height;
        const value = Math.round(20 * Math.min(1, Math.max(-1, 2 * share - 1))) / 20;
        return { step: this.at.stepAt(event.clientX - box.left), value: value * limit };
      };
      pen.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        pen.setPointerCapture(event.pointerId);
        this.inputLimit = this.at.panels[0].limit;
        last = place(event);
        this.paint(last, last);
      });
      pen.addEventListener("pointermove", (event) => {
        const now = place(event);
        if (last) this.paint(last, now);
        else this.look(now.step);
        if (last) last = now;
      });
      for (const name of ["pointerup", "pointercancel"])
        pen.addEventListener(name, () => {
          last = null;
          this.inputLimit = undefined;
          this.draw();
        });
      for (const name of ["pointermove", "pointerdown"])
        svg.addEventListener(name, (event) => this.look(place(event).step));
      pen.addEventListener("keydown", (event) => this.key(event));
      pen.addEventListener("focus", () => this.look(this.step ?? 0));
      // Sphinx turns the page with left and right.
      this.root.addEventListener("keydown", (event) => {
        if (event.key.startsWith("Arrow")) event.stopPropagation();
      });
    }

    /** Along time, up and down, and what else the keyboard does with the input. */
    key(event) {
      const { series, at } = this;
      const step = Math.min(this.step ?? 0, series.x.length - 1);
      const value = series.x[step];
      const far = event.shiftKey ? 10 : 1;
      const unit = (at.panels[0].limit / 20) * far;
      const set = (next) => this.paint({ step, value: next }, { step, value: next });
      const actions = {
        ArrowLeft: () => this.look(step - far),
        ArrowRight: () => this.look(step + far),
        Home: () => this.look(0),
        End: () => this.look(series.x.length - 1),
        ArrowUp: () => set(value + unit),
        ArrowDown: () => set(value - unit),
        Delete: () => set(0),
        Backspace: () => set(0),
        Enter: () => step + 1 < series.x.length && this.paint({ step, value }, { step: step + 1, value }),
      };
      if (!actions[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      actions[event.key]();
    }

    look(step) {
      this.step = Math.max(0, Math.min(step, this.model.options.steps - 1));
      this.changed();
    }

    // What follows from it.

    /** Draw once before the next frame, however much has changed until then. */
    changed() {
      cancelAnimationFrame(this.frame);
      this.frame = requestAnimationFrame(() => this.draw());
      if (this.timer) return;
      this.timer = setTimeout(() => {
        this.timer = 0;
        this.writeAddress();
      }, 250);
    }

    draw() {
      const width = Math.floor(this.picture.clientWidth);
      if (width < 100) return;
      const { model } = this;
      this.series = neuron.run(model);
      if (this.step !== null) this.step = Math.min(this.step, model.options.steps - 1);
      this.at = picture.draw(this.svg, model, this.series, { width, step: this.step, inputLimit: this.inputLimit });
      const { top, height, limit } = this.at.panels[0];
      Object.assign(this.pen.style, {
        left: `${this.at.left}px`, top: `${top}px`, width: `${this.at.right - this.at.left}px`, height: `${height}px`,
      });
      this.pen.setAttribute("aria-valuemin", -limit);
      this.pen.setAttribute("aria-valuemax", limit);
      this.read();
      this.code.textContent = this.python();
      if (this.details.open) this.fillTable();
    }

    /** Names and values at one step. */
    read() {
      const step = this.step ?? this.series.x.length - 1;
      const values = columns(this.series).map(([name, label]) => [name, label, shown(this.series[name][step])]);
      const pair = (name, label, value) =>
        el("div", {}, el("dt", {}, label), el("dd", { "data-name": name }, value.replace("-", "\u2212")));
      this.readout.replaceChildren(pair("step", "step", String(step)), ...values.map((v) => pair(...v)));
      this.pen.setAttribute("aria-valuenow", this.series.x[step]);
      const spoken = values.map(([, label, value]) => `${label} ${value}`).join(", ");
      this.pen.setAttribute("aria-valuetext", `step ${step}: ${spoken}`);
    }

    fillTable() {
      if (!this.details.open) return;
      const { series } = this;
      const names = columns(series);
      const head = el("tr", {}, ...["step", ...names.map(([, label]) => label)].map((name) => el("th", { scope: "col" }, name)));
      const rows = series.x.map((_, t) =>
        el("tr", {}, el("th", { scope: "row" }, String(t)), ...names.map(([name]) => el("td", {}, shown(series[name][t])))));
      this.table.replaceChildren(el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)));
    }

    /** The layer as the library makes it. */
    python() {
      const { layer, params } = this.model;
      const given = neuron.fieldsOf(layer).filter(({ name, value }) => params[name] !== value);
      const options = given.map(({ name }) => `, ${name}=${params[name]}`).join("");
      return `from tracetorch_jax import snn\n\nlayer = snn.${layer}(1${options})`;
    }

    readAddress() {
      const found = neuron.fromFragment(window.location.hash.slice(1));
      if (!found) {
        if (!this.series) this.renew();
        return;
      }
      this.model = found.model;
      this.renew();
      this.message.textContent = found.errors.join(" ");
      this.root.scrollIntoView({ block: "start" });
    }

    writeAddress() {
      const fragment = `#${neuron.toFragment(this.model)}`;
      const untouched = !window.location.hash && fragment === `#${neuron.toFragment(neuron.initial())}`;
      if (!untouched && window.location.hash !== fragment) window.history.replaceState(null, "", fragment);
    }
  }

  /** Name and label of every series worth a number, in the order of the panels. */
  function columns(series) {
    const order = ["x", "pos_syn", "neg_syn", "syn", "pos_rec", "neg_rec", "rec", "membrane", "pos_mem", "neg_mem", "mem", "out"];
    const resets = series.membrane.some((value, t) => value !== series.mem[t]);
    const named = order.filter((name) => series[name] && (name !== "membrane" || resets));
    return named.map((name) => [name, name === "membrane" ? "mem before reset" : name]);
  }

  const root = document.getElementById("neuron");
  if (root) new Page(root);
})(globalThis.tracetorch);
