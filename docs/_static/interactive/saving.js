// The picture of the interactive page as a file, and texts on the clipboard.
(function (tracetorch) {
  "use strict";

  const { neuron, picture, controls } = tracetorch;
  const { el } = controls;

  const WIDTH = 720;
  // What style sheets say of the picture's parts, and what needs no saying.
  const STYLES = {
    "fill": "rgb(0, 0, 0)", "stroke": "none", "stroke-width": "1px", "stroke-dasharray": "none",
    "stroke-linejoin": "miter", "text-anchor": "start", "paint-order": "normal",
  };

  const svgElement = (tag) => document.createElementNS("http://www.w3.org/2000/svg", tag);

  /** Write styles into the elements themselves, since a file has no style sheet. */
  function inline(svg) {
    for (const part of svg.querySelectorAll("text, line, polyline, path, circle")) {
      const style = getComputedStyle(part);
      const found = Object.keys(STYLES).map((name) => [name, style.getPropertyValue(name)]);
      if (part.tagName === "text") found.push(["font-size", style.fontSize]);
      part.removeAttribute("class"); // after which `style` has other values
      for (const [name, value] of found)
        if (value === STYLES[name]) part.removeAttribute(name);
        else part.setAttribute(name, value);
    }
  }

  /** The picture as the text of an SVG file, in light colours on white. */
  function svgOf(model) {
    const svg = svgElement("svg");
    const hidden = el("div", { class: "tt-neuron tt-picture tt-light" }, svg);
    hidden.style.cssText = "position: fixed; visibility: hidden";
    document.body.append(hidden);
    try {
      picture.draw(svg, neuron.runs(model), {
        width: WIDTH, step: null, dt: model.dt, fixed: true,
      });
      inline(svg);
    } finally {
      hidden.remove();
    }
    const title = svgElement("title");
    title.textContent = svg.getAttribute("aria-label");
    const about = svgElement("desc"); // with which the page shows it again
    about.textContent = `#${neuron.toFragment(model)}`;
    const paper = svgElement("rect");
    paper.setAttribute("width", "100%");
    paper.setAttribute("height", "100%");
    paper.setAttribute("fill", "#fff");
    svg.prepend(title, about, paper);
    svg.setAttribute("font-family", "Helvetica, Arial, sans-serif");
    return new XMLSerializer().serializeToString(svg);
  }

  /** Give a text to the reader as a file. */
  function download(name, type, text) {
    const href = URL.createObjectURL(new Blob([text], { type }));
    el("a", { href, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10_000);
  }

  function savePicture(model) {
    const name = [model, model.other].filter(Boolean).map(({ layer }) => layer).join("-");
    download(`${name}.svg`, "image/svg+xml", svgOf(model));
  }

  /** Whether a text is on the clipboard now: a browser may refuse. */
  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return false;
    }
  }

  tracetorch.saving = { savePicture, copy };
})(globalThis.tracetorch);
