// What the interactive page is built of: elements, choices, and numbers with sliders.
(function (tracetorch) {
  "use strict";

  const { neuron, halfLife, timeConstant } = tracetorch;

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
  function chips(type, name, caption, label, texts, change) {
    const inputs = Object.entries(texts).map(([value, [, title]]) =>
      el("input", { type, name, value, "aria-label": title, change }),
    );
    const labels = Object.values(texts).map(([text, title], i) => {
      const face = el("span", { "aria-hidden": true }, text);
      return el("label", { class: "tt-chip", title }, inputs[i], face);
    });
    const above = el("span", { class: "tt-caption", "aria-hidden": true }, caption);
    const role = type === "radio" ? "radiogroup" : "group";
    const element = el("div", { class: "tt-parts", role, "aria-label": label }, above, ...labels);
    return { element, inputs };
  }

  const short = (value) => Number(value.toPrecision(3));

  /** What a value means in time: how long a decay lasts, or a number of steps in milliseconds. */
  function lasting({ constraint, name }, value, dt) {
    if (constraint === "sigmoid") {
      const [half, tau] = [halfLife(value), timeConstant(value)].map((t) => short(t * (dt ?? 1)));
      return `half-life ${half}, \u03c4 ${tau} ${dt ? "ms" : "steps"}`;
    }
    return dt && ["steps", "period"].includes(name) ? `${short(value * dt)} ms` : "";
  }

  /** A labelled number with its slider. `set` is called with every value that the rule allows.
   *
   * `mark` tells controls of two neurons apart; `dt` is the length of a step in milliseconds.
   */
  function control(field, value, set, { mark = "", dt = null } = {}) {
    const { name, about, slider } = field;
    const id = `tt-${mark === "B" ? "b-" : ""}${name}`;
    const note = el("span", { class: "tt-note", id: `${id}-note` });
    const message = el("div", { class: "tt-message", role: "alert", id: `${id}-message` });
    const number = el("input", {
      id, class: "tt-number", type: "text", inputmode: field.allows(-1) ? "text" : "decimal",
      autocomplete: "off", title: about, value, "aria-describedby": `${note.id} ${message.id}`,
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
      "aria-label": `${mark && `${mark} `}${name} slider`,
      input: () => {
        const now = slider.read(Number(range.value));
        number.value = now;
        take(now);
      },
    });
    const show = (now) => {
      note.textContent = lasting(field, now, dt);
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
    return el("div", { class: "tt-control" }, label, range, number, note, message);
  }

  /** The length of a step; with nothing in it, time is in steps. */
  function duration(set) {
    const { about, name } = neuron.DT;
    const message = el("div", { class: "tt-message", role: "alert", id: "tt-dt-message" });
    const number = el("input", {
      id: "tt-dt", class: "tt-number", type: "text", inputmode: "decimal", autocomplete: "off",
      title: about, "aria-describedby": "tt-dt-note tt-dt-message",
      input: () => {
        const empty = !number.value.trim();
        try {
          const value = empty ? null : neuron.parse(neuron.DT, number.value);
          show(value);
          set(value);
        } catch (error) {
          number.setAttribute("aria-invalid", true);
          message.textContent = error.message;
        }
      },
    });
    const show = (value) => {
      number.removeAttribute("aria-invalid");
      message.textContent = "";
      const text = number.value.trim();
      if ((text ? Number(text) : null) !== value) number.value = value ?? "";
    };
    const note = el("span", { class: "tt-unit", id: "tt-dt-note" }, "ms per step");
    const label = el("label", { for: "tt-dt" }, name);
    const element = el("div", { class: "tt-control" }, label, note, number, message);
    return { element, show };
  }

  tracetorch.controls = { el, list, chips, control, duration };
})(globalThis.tracetorch);
