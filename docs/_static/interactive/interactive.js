// The interactive page: what is on it, and the address that describes it.
(function (tracetorch) {
  "use strict";

  const { layers, neuron, picture, controls, values, python, saving, presets } = tracetorch;
  const { el } = controls;
  const { panel, rows } = tracetorch.panel;

  const LEAST = 300; // pixels of height for the picture
  const PHONE = 0.5; // of the screen for the picture above the controls

  class Page {
    constructor(root) {
      this.root = root;
      this.model = neuron.initial();
      this.step = null; // the step that is looked at, if any
      this.build();
      tracetorch.pen.listenToPointer(this.pen, this.svg, this);
      tracetorch.pen.listenToKeys(this.pen, this);
      // Sphinx turns the page with left and right.
      root.addEventListener("keydown", (event) => {
        if (event.key.startsWith("Arrow")) event.stopPropagation();
      });
      this.readAddress();
      window.addEventListener("hashchange", () => this.readAddress());
      window.addEventListener("resize", () => this.changed());
      new ResizeObserver(() => {
        if (this.picture.clientWidth !== this.at?.width) this.draw();
      }).observe(this.picture);
    }

    // What is on the page.

    build() {
      const changed = () => this.changed();
      const { family } = this.root.dataset;
      this.message = el("div", { class: "tt-message", role: "alert" });
      this.inputs = el("div", { class: "tt-rows" });
      this.duration = controls.duration((dt) => this.set({ dt }));
      this.first = panel("A", family, (change) => this.set(change(this.model)), changed);
      this.second = panel("B", family, (change) => {
        this.set({ other: change(this.model.other) });
      }, changed);
      this.controls = el("div", { class: "tt-controls", focusin: () => this.showPicture() },
        el("fieldset", {}, el("legend", {}, "Input"), this.inputs, this.duration.element),
        this.first.element,
      );
      this.main = el("div", { class: "tt-main" }, this.buildView(), this.controls);
      this.root.replaceChildren(this.buildTop(), this.message, this.main, this.buildBelow());
    }

    /** Presets with what there is to see, and whether there is a second neuron. */
    buildTop() {
      const named = presets.map(({ name, fragment }) => [fragment, name]);
      this.preset = controls.list("tt-preset", "preset", [["", "none"], ...named], (chosen) => {
        const { dt, other } = this.model; // which no preset is about
        this.set({ ...neuron.fromFragment(chosen).model, dt, other });
      });
      this.preset.select.options[0].disabled = true;
      this.see = el("p", { class: "tt-see", "aria-live": "polite" });
      this.compare = el("input", {
        type: "checkbox",
        change: () => this.set(neuron.compared(this.model, this.compare.checked)),
      });
      const chip = el("label", { class: "tt-chip" }, this.compare, el("span", {}, "compare two neurons"));
      return el("div", { class: "tt-top" }, this.preset.element, chip, this.see);
    }

    /** The picture, with a frame over its input to draw in, and the values at one step. */
    buildView() {
      const { pen, keys } = tracetorch.pen.make();
      this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      this.svg.setAttribute("role", "img");
      this.pen = pen;
      this.picture = el("div", { class: "tt-picture" }, this.svg, this.pen);
      this.readout = el("dl", { class: "tt-readout", "aria-label": "values at one step" });
      this.status = el("span", { role: "status" });
      const save = () => saving.savePicture(this.model);
      const actions = el("div", { class: "tt-actions" },
        el("button", { type: "button", click: () => this.copyScript() }, "Copy as a script"),
        el("button", { type: "button", click: save }, "Save picture (SVG)"),
        this.status,
      );
      return el("div", { class: "tt-view" }, this.picture, this.readout, actions, keys);
    }

    buildBelow() {
      const scrolls = (label) => ({ tabindex: 0, role: "region", "aria-label": label });
      const heading = (text) => el("p", { class: "tt-heading" }, text);
      this.equations = el("pre", scrolls("equations"));
      this.code = el("pre", scrolls("Python"));
      this.script = el("pre", scrolls("script"));
      this.scripted = el("details", {},
        el("summary", {}, "The script, which prints and draws the same values"), this.script);
      this.table = el("div", { class: "tt-table", ...scrolls("values at every step") });
      this.tabled = el("details", { toggle: () => this.fillTable() },
        el("summary", {}, "All values as a table"), this.table);
      return el("div", { class: "tt-below" },
        el("div", {}, heading("One step, in order"), this.equations),
        el("div", {}, heading("In Python"), this.code),
        this.scripted,
        this.tabled,
      );
    }

    // What it shows of the model.

    /** Everything that depends on more than numbers, anew. */
    renew() {
      const { dt, other } = this.model;
      const both = Boolean(other);
      this.message.textContent = "";
      this.compare.checked = both;
      this.duration.show(dt);
      this.first.show(this.model, { both, dt });
      if (both) {
        this.controls.append(this.second.element);
        this.second.show(other, { both, dt });
      } else this.second.element.remove();
      this.equations.textContent = this.equationsOf();
      this.renewInputs();
      this.changed();
    }

    equationsOf() {
      const { other } = this.model;
      const lines = ({ layer, reset }) => {
        const { equations, resets } = layers[layer];
        return [...equations, ...(resets[reset] ?? [])];
      };
      if (!other) return lines(this.model).join("\n");
      const [a, b] = [this.model, other].map((one) => lines(one).join("\n"));
      return `# A: ${this.model.layer}\n${a}\n\n# B: ${other.layer}\n${b}`;
    }

    renewInputs() {
      const { input, options, dt } = this.model;
      const kinds = Object.entries(neuron.INPUTS).map(([name, { label }]) => [name, label]);
      const kind = controls.list("tt-input", "shape", kinds, (chosen) => {
        this.set(neuron.withInput(this.model, chosen));
        document.getElementById("tt-input").focus();
      });
      kind.select.value = input;
      const clear = el("button", {
        type: "button", id: "tt-clear",
        click: () => {
          this.set({ ...neuron.withInput(this.model, "drawn"), drawn: [] });
          document.getElementById("tt-clear").focus(); // which is new
        },
      }, "Clear input");
      const numbers = rows(neuron.optionsOf(input), options, () => this.changed(), { dt });
      kind.element.append(clear);
      this.inputs.replaceChildren(kind.element, ...numbers);
    }

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
      const { model } = this;
      const width = this.picture.clientWidth;
      if (!width) return;
      this.runs = neuron.runs(model);
      if (this.step !== null) this.step = Math.min(this.step, model.options.steps - 1);
      const { step, inputLimit, space } = this;
      this.at = picture.draw(this.svg, this.runs, { width, space, step, inputLimit, dt: model.dt });
      this.root.style.setProperty("--tt-space", `${space}px`);
      this.root.style.setProperty("--tt-covered", `${this.picture.offsetHeight}px`);
      tracetorch.pen.place(this.pen, this.at);
      this.read();
      this.code.textContent = python.snippet(model);
      this.script.textContent = python.script(model);
      this.showPreset();
      this.fillTable();
    }

    /** The preset that is shown, if it is one, and what to see. */
    showPreset() {
      const fragment = neuron.toFragment({ ...this.model, dt: null, other: null });
      const preset = presets.find((one) => one.fragment === fragment);
      this.preset.select.value = preset?.fragment ?? "";
      const see = preset?.see ?? "";
      if (this.see.textContent !== see) this.see.textContent = see;
    }

    get beside() {
      return getComputedStyle(this.main).display === "grid";
    }

    /** How high the picture may be, to be in sight as a whole. */
    get space() {
      const { clientHeight } = document.documentElement;
      const above = Math.min(this.main.getBoundingClientRect().top + window.scrollY, 280);
      return Math.max(LEAST, this.beside ? clientHeight - above - 8 : PHONE * clientHeight);
    }

    /** Scroll as far as it takes to see the picture beside a control that one comes to. */
    showPicture() {
      if (this.beside) this.picture.scrollIntoView({ block: "nearest", behavior: "instant" });
    }

    /** Names and values at one step, to be seen and to be heard. */
    read() {
      const { runs, model } = this;
      const step = this.step ?? model.options.steps - 1;
      const found = values.at(runs, model.dt, step);
      const pairs = found.map(([name, label, value]) =>
        el("div", {}, el("dt", {}, label), el("dd", { "data-name": name }, value)),
      );
      this.readout.replaceChildren(...pairs);
      this.pen.setAttribute("aria-valuenow", runs[0].series.x[step]);
      const spoken = found.slice(1).map(([, label, value]) => `${label} ${value}`).join(", ");
      this.pen.setAttribute("aria-valuetext", `step ${step}: ${spoken}`);
    }

    fillTable() {
      const { tabled, runs, model } = this;
      if (tabled.open && runs) this.table.replaceChildren(values.table(runs, model.dt));
    }

    // What can be done with it.

    /** Change the model, and show it. */
    set(change) {
      this.model = { ...this.model, ...change };
      this.renew();
    }

    /** Set the input at some steps. */
    paint(points) {
      if (this.model.input !== "drawn") {
        this.model = neuron.withInput(this.model, "drawn");
        this.renewInputs();
      }
      for (const { step, value } of points) this.model.drawn[step] = Number(value.toFixed(3));
      this.look(points[points.length - 1].step);
    }

    /** Keep the axis of the input while one draws. */
    hold(still) {
      this.inputLimit = still ? this.at.panels[0].limit : undefined;
      this.changed();
    }

    look(step) {
      this.step = Math.max(0, Math.min(step, this.model.options.steps - 1));
      this.changed();
    }

    async copyScript() {
      const copied = await saving.copy(python.script(this.model));
      this.status.textContent = copied
        ? "Copied."
        : "This browser did not allow it. The script is selected below: copy it there.";
      if (copied) return;
      this.scripted.open = true;
      this.script.focus();
      window.getSelection().selectAllChildren(this.script);
    }

    // The address.

    readAddress() {
      const { hash } = window.location;
      const found = neuron.fromFragment(hash.slice(1));
      if (!found) {
        if (!hash) this.model = neuron.initial(); // as after the button that goes back
        if (!hash || !this.runs) this.renew();
        return;
      }
      this.model = found.model;
      this.renew();
      this.message.textContent = found.errors.join(" ");
      // In a frame of another page, that page stays where it is.
      if (window.parent === window) this.root.scrollIntoView({ block: "start" });
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
