// The frame over the input of the interactive page, in which one draws with a pointer or with keys.
(function (tracetorch) {
  "use strict";

  const { neuron, controls } = tracetorch;

  const KEYS =
    "Keys in the input's frame: left and right move along time, Home and End to its ends; up and " +
    "down change the input there; Shift makes it ten times as much; Delete sets 0; Enter carries " +
    "the input on.";

  /** The frame, and the text about its keys. */
  function make() {
    const { el } = controls;
    const pen = el("div", {
      class: "tt-pen", tabindex: 0, role: "slider", "aria-orientation": "vertical",
      "aria-label": "input, drawn step by step", "aria-describedby": "tt-keys",
    });
    return { pen, keys: el("p", { class: "tt-keys", id: "tt-keys" }, KEYS) };
  }

  /** Put the frame where the input is, and say which values it may have. */
  function place(pen, { left, right, panels }) {
    const { top, height, limit } = panels[0];
    pen.style.left = `${left}px`;
    pen.style.top = `${top}px`;
    pen.style.width = `${right - left}px`;
    pen.style.height = `${height}px`;
    pen.setAttribute("aria-valuemin", -limit);
    pen.setAttribute("aria-valuemax", limit);
  }

  /** Points of a straight line from one step to another. */
  function line(from, to) {
    const distance = Math.abs(to.step - from.step);
    return Array.from({ length: distance + 1 }, (_, i) => {
      const part = distance ? i / distance : 1;
      const step = from.step + Math.sign(to.step - from.step) * i;
      return { step, value: from.value + part * (to.value - from.value) };
    });
  }

  /** What a pointer does in the frame, and over the whole picture.
   *
   * `page` has `at`, where things are; `paint`, which takes points of the input; `look`, which takes
   * a step; and `hold`, which keeps the axis of the input as it is, or frees it.
   */
  function listenToPointer(pen, svg, page) {
    let last = null; // while something is being drawn
    const place = (event) => {
      const box = svg.getBoundingClientRect();
      const { top, height, limit } = page.at.panels[0];
      const share = 1 - (2 * (event.clientY - box.top - top)) / height;
      const value = (Math.round(20 * Math.min(1, Math.max(-1, share))) / 20) * limit;
      return { step: page.at.stepAt(event.clientX - box.left), value };
    };
    pen.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      pen.setPointerCapture(event.pointerId);
      page.hold(true);
      last = place(event);
      page.paint(line(last, last));
    });
    pen.addEventListener("pointermove", (event) => {
      const now = place(event);
      if (!last) return page.look(now.step);
      page.paint(line(last, now));
      last = now;
    });
    for (const name of ["pointerup", "pointercancel"])
      pen.addEventListener(name, () => {
        last = null;
        page.hold(false);
      });
    for (const name of ["pointermove", "pointerdown"])
      svg.addEventListener(name, (event) => page.look(place(event).step));
  }

  /** What each key does in the frame, `far` steps or twentieths at once. */
  function actions(page, far) {
    const values = neuron.inputOf(page.model);
    const last = values.length - 1;
    const step = Math.min(page.step ?? 0, last);
    const here = { step, value: values[step] };
    const unit = 0.05 * far;
    const set = (value) => page.paint([{ step, value }]);
    return {
      ArrowLeft: () => page.look(step - far),
      ArrowRight: () => page.look(step + far),
      Home: () => page.look(0),
      End: () => page.look(last),
      ArrowUp: () => set(here.value + unit),
      ArrowDown: () => set(here.value - unit),
      Delete: () => set(0),
      Backspace: () => set(0),
      Enter: () => page.paint(line(here, { ...here, step: Math.min(step + far, last) })),
    };
  }

  function listenToKeys(pen, page) {
    pen.addEventListener("focus", () => page.look(page.step ?? 0));
    pen.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const action = actions(page, event.shiftKey ? 10 : 1)[event.key];
      if (!action) return;
      event.preventDefault();
      action();
    });
  }

  tracetorch.pen = { make, place, listenToPointer, listenToKeys };
})(globalThis.tracetorch);
