// The interactive page: what is on it, what can be done with it, and the address that describes it.
(function (tracetorch) {
  "use strict";

  const { layers, neuron, picture, controls } = tracetorch;
  const { el } = controls;

  const KEYS =
    "Keys in the input's frame: left and right move along time, Home and End to its ends; up and " +
    "down change the input there; Shift makes it ten times as much; Delete sets 0; Enter carries " +
    "the input on.";

  class Page {
    constructor(root) {
      this.root = root;
      this.model = neuron.initial();
      this.step = null; // the step that is looked at, if any
      this.build();
      this.listenToPointer();
      this.listenToKeys();
      this.readAddress();
      window.addEventListener("hashchange", () => this.readAddress());
      new ResizeObserver(() => {
        if (this.picture.clientWidth !== this.at?.width) this.draw();
      }).observe(this.picture);
    }

    // What is on the page.

    build() {
      this.chooser = controls.chooser(
        (layer) => {
          this.model = neuron.withLayer(this.model, layer);
          this.renew();
        },
        (reset) => {
          this.model.reset = reset;
          this.renew();
        },
      );
      this.summary = el("p", { class: "tt-summary", "aria-live": "polite" });
      this.message = el("div", { class: "tt-message", role: "alert" });
      this.inputs = el("fieldset");
      this.parameters = el("fieldset");
      this.root.replaceChildren(
        this.chooser.element,
        this.summary,
        this.message,
        el("div", { class: "tt-main" },
          this.buildView(),
          el("div", { class: "tt-controls" }, this.inputs, this.parameters),
        ),
        this.buildBelow(),
      );
    }

    /** The picture, with a frame over its input to draw in, and the values at one step. */
    buildView() {
      this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      this.svg.setAttribute("role", "img");
      this.pen = el("div", {
        class: "tt-pen", tabindex: 0, role: "slider", "aria-orientation": "vertical",
        "aria-label": "input, drawn step by step", "aria-describedby": "tt-keys",
      });
      this.picture = el("div", { class: "tt-picture" }, this.svg, this.pen);
      this.readout = el("dl", { class: "tt-readout", "aria-label": "values at one step" });
      const keys = el("p", { class: "tt-keys", id: "tt-keys" }, KEYS);
      return el("div", { class: "tt-view" }, this.picture, this.readout, keys);
    }

    buildBelow() {
      const scrolls = (label) => ({ tabindex: 0, role: "region", "aria-label": label });
      this.equations = el("pre", scrolls("equations"));
      this.code = el("pre", scrolls("Python"));
      this.table = el("div", { class: "tt-table", ...scrolls("values at every step") });
      const heading = (text) => el("p", { class: "tt-heading" }, text);
      this.details = el("details", { toggle: () => this.fillTable() },
        el("summary", {}, "All values as a table"), this.table);
      return el("div", { class: "tt-below" },
        el("div", {}, heading("One step, in order"), this.equations),
        el("div", {}, heading("In Python"), this.code),
        this.details,
      );
    }

    /** Everything that depends on the layer or the kind of input, anew. */
    renew() {
      const { layer, reset, params } = this.model;
      const { equations, resets, summary } = layers[layer];
      const { family } = this.root.dataset;
      const more = el("a", { href: `${family}${layer}.html` }, `All about ${layer}`);
      this.chooser.show(this.model);
      this.message.textContent = "";
      this.summary.replaceChildren(`${layer}: ${summary} `, family ? more : "");
      this.equations.textContent = [...equations, ...(resets[reset] ?? [])].join("\n");
      this.fill(this.parameters, "Parameters", neuron.fieldsOf(layer), params);
      this.parameters.append(this.button("Reset parameters", () => {
        this.model.params = neuron.initial(layer).params;
      }));
      this.renewInputs();
      this.changed();
    }

    renewInputs() {
      const { input, options } = this.model;
      const kinds = Object.entries(neuron.INPUTS).map(([name, { label }]) => [name, label]);
      const kind = controls.list("tt-input", "shape", kinds, (chosen) => {
        this.model = neuron.withInput(this.model, chosen);
        this.renew();
        document.getElementById("tt-input").focus();
      });
      kind.select.value = input;
      this.fill(this.inputs, "Input", neuron.optionsOf(input), options, kind.element);
      this.inputs.append(this.button("Clear input", () => {
        this.model = { ...neuron.withInput(this.model, "drawn"), drawn: [] };
      }));
    }

    /** A group of numbers with sliders; each writes into `values`. */
    fill(group, legend, fields, values, ...before) {
      const rows = fields.map((field) =>
        controls.control(field, values[field.name], (value) => {
          values[field.name] = value;
          this.changed();
        }),
      );
      group.replaceChildren(el("legend", {}, legend), ...before, ...rows);
    }

    /** A button that changes the model; its successor on the renewed page keeps the focus. */
    button(text, change) {
      const click = (event) => {
        const group = event.target.parentElement;
        change();
        this.renew();
        group.querySelector("button").focus();
      };
      return el("button", { type: "button", click }, text);
    }

    // What is done with the input.

    /** Set it from one step to another, in a straight line. */
    paint(from, to) {
      if (this.model.input !== "drawn") {
        this.model = neuron.withInput(this.model, "drawn");
        this.renewInputs();
      }
      const distance = Math.abs(to.step - from.step);
      for (let i = 0; i <= distance; i++) {
        const part = distance ? i / distance : 1;
        const step = from.step + Math.sign(to.step - from.step) * i;
        const value = from.value + part * (to.value - from.value);
        this.model.drawn[step] = Number(value.toFixed(3));
      }
      this.look(to.step);
    }

    listenToPointer() {
      const { pen, svg } = this;
      let last = null; // while something is being drawn
      const place = (event) => {
        const box = svg.getBoundingClientRect();
        const { top, height, limit } = this.at.panels[0];
        const share = 1 - (2 * (event.clientY - box.top - top)) / height;
        const value = (Math.round(20 * Math.min(1, Math.max(-1, share))) / 20) * limit;
        return { step: this.at.stepAt(event.clientX - box.left), value };
      };
      pen.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        pen.setPointerCapture(event.pointerId);
        this.inputLimit = this.at.panels[0].limit; // the axis stays while one draws
        last = place(event);
        this.paint(last, last);
      });
      pen.addEventListener("pointermove", (event) => {
        const now = place(event);
        if (!last) return this.look(now.step);
        this.paint(last, now);
        last = now;
      });
      for (const name of ["pointerup", "pointercancel"])
        pen.addEventListener(name, () => {
          last = this.inputLimit = null;
          this.changed();
        });
      for (const name of ["pointermove", "pointerdown"])
        svg.addEventListener(name, (event) => this.look(place(event).step));
    }

    listenToKeys() {
      this.pen.addEventListener("focus", () => this.look(this.step ?? 0));
      this.pen.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const action = this.actions(event.shiftKey ? 10 : 1)[event.key];
        if (!action) return;
        event.preventDefault();
        action();
      });
      // Sphinx turns the page with left and right.
      this.root.addEventListener("keydown", (event) => {
        if (event.key.startsWith("Arrow")) event.stopPropagation();
      });
    }

    /** What each key does in the input's frame, `far` steps or twentieths at once. */
    actions(far) {
      const values = neuron.inputOf(this.model);
      const last = values.length - 1;
      const step = Math.min(this.step ?? 0, last);
      const here = { step, value: values[step] };
      const unit = 0.05 * far;
      const set = (value) => this.paint({ step, value }, { step, value });
      return {
        ArrowLeft: () => this.look(step - far),
        ArrowRight: () => this.look(step + far),
        Home: () => this.look(0),
        End: () => this.look(last),
        ArrowUp: () => set(here.value + unit),
        ArrowDown: () => set(here.value - unit),
        Delete: () => set(0),
        Backspace: () => set(0),
        Enter: () => this.paint(here, { ...here, step: Math.min(step + far, last) }),
      };
    }

    look(step) {
      this.step = Math.max(0, Math.min(step, this.model.options.steps - 1));
      this.changed();
    }

    // What follows from it.

    /** Draw once before the next frame, and soon after write the address, whatever has changed. */
    changed() {
      this.frame ??= requestAnimationFrame(() => {
        this.frame = null;
        this.draw();
      });
      this.timer ??= setTimeout(() => {
        this.timer = null;
        this.writeAddress();
      }, 400); // some browsers allow no more than 100 in half a minute
    }

    draw() {
      const { model, pen } = this;
      const width = this.picture.clientWidth;
      if (!width) return;
      this.series = neuron.run(model);
      if (this.step !== null) this.step = Math.min(this.step, model.options.steps - 1);
      const view = { width, step: this.step, inputLimit: this.inputLimit ?? undefined };
      this.at = picture.draw(this.svg, model, this.series, view);
      const { top, height, limit } = this.at.panels[0];
      pen.style.left = `${this.at.left}px`;
      pen.style.top = `${top}px`;
      pen.style.width = `${this.at.right - this.at.left}px`;
      pen.style.height = `${height}px`;
      pen.setAttribute("aria-valuemin", -limit);
      pen.setAttribute("aria-valuemax", limit);
      this.read();
      this.code.textContent = this.python();
      this.fillTable();
    }

    /** Names and values at one step, to be seen and to be heard. */
    read() {
      const step = this.step ?? this.series.x.length - 1;
      const values = controls.valuesAt(this.series, this.model.layer, step);
      const pairs = [["step", "step", String(step)], ...values].map(([name, label, value]) =>
        el("div", {}, el("dt", {}, label), el("dd", { "data-name": name }, value)),
      );
      this.readout.replaceChildren(...pairs);
      this.pen.setAttribute("aria-valuenow", this.series.x[step]);
      const spoken = values.map(([, label, value]) => `${label} ${value}`).join(", ");
      this.pen.setAttribute("aria-valuetext", `step ${step}: ${spoken}`);
    }

    fillTable() {
      const { details, series, model } = this;
      if (details.open && series) this.table.replaceChildren(controls.table(series, model.layer));
    }

    /** The layer as the library makes it. */
    python() {
      const { layer, reset, params } = this.model;
      const given = neuron.fieldsOf(layer).filter(({ name, value }) => params[name] !== value);
      const options = given.map(({ name }) => `, ${name}=${params[name]}`);
      if (reset !== layers[layer].reset) options.push(`, reset="${reset}"`);
      return `from tracetorch_jax import snn\n\nlayer = snn.${layer}(1${options.join("")})`;
    }

    // The address.

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

    /** The first change is what gives a page without a fragment one. */
    writeAddress() {
      const fragment = `#${neuron.toFragment(this.model)}`;
      const { hash } = window.location;
      if (hash === fragment) return;
      if (!hash && fragment === `#${neuron.toFragment(neuron.initial())}`) return;
      window.history.replaceState(null, "", fragment);
    }
  }

  const root = document.getElementById("neuron");
  if (root) new Page(root);
})(globalThis.tracetorch);
