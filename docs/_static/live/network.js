// A trained network, and how a drawing becomes its input, without the page. The numbers of the network
// and the steps of its layers are in digits.js.
(function (tracetorch) {
  "use strict";

  const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

  /** Bytes of base64 text. */
  function bytes(text) {
    const found = new Uint8Array(Math.floor((text.replace(/=+$/, "").length * 3) / 4));
    let bits = 0, held = 0, at = 0;
    for (const letter of text) {
      if (letter === "=") break;
      held = (held << 6) | ALPHABET.indexOf(letter);
      bits += 6;
      if (bits >= 8) {
        bits -= 8;
        found[at++] = (held >> bits) & 255;
      }
    }
    return found;
  }

  const floats = (text) => new Float32Array(bytes(text).buffer);

  function read({ kind, size, states, params }) {
    const arrays = Object.fromEntries(
      Object.entries(params).map(([name, text]) => [name, floats(text)]),
    );
    return { kind, size, states, arrays };
  }

  function dense({ size, arrays: { kernel, bias } }, x) {
    const y = Array.from(bias);
    for (let i = 0; i < x.length; i++)
      if (x[i]) for (let j = 0; j < size; j++) y[j] += x[i] * kernel[i * size + j];
    return y;
  }

  /** A network that can run: `run(pixels, factor)`. */
  function network(described) {
    const layers = described.layers.map(read);

    /** Parameters of each neuron of a layer, with thresholds times a factor. */
    function neurons({ size, arrays }, factor) {
      return Array.from({ length: size }, (_, i) =>
        Object.fromEntries(
          Object.entries(arrays).map(([name, values]) => [
            name,
            name.endsWith("threshold") ? factor * values[i] : values[i],
          ]),
        ),
      );
    }

    /**
     * Everything at every step of an image.
     *
     * `pixels` are 64 numbers from 0 to 16; `factor` multiplies all thresholds. Each trace layer has
     * `out`, `signals` (arrays over steps and neurons) and `params` (one for each neuron).
     */
    function run(pixels, factor = 1) {
      const traces = layers
        .filter(({ states }) => states.length)
        .map((layer) => ({
          ...layer,
          step: tracetorch.layers[layer.kind].step,
          params: neurons(layer, factor),
          fires: "pos_threshold" in layer.arrays,
          state: Array.from({ length: layer.size }, () =>
            Object.fromEntries(layer.states.map((name) => [name, 0])),
          ),
          out: [],
          signals: [],
        }));
      const input = Array.from(pixels, (value) => value / 16);
      const first = dense(layers[0], input); // the same at every step
      for (let t = 0; t < described.steps; t++) {
        let x = first;
        let next = 0;
        for (const layer of layers.slice(1)) {
          if (!layer.states.length) {
            x = dense(layer, x);
            continue;
          }
          const trace = traces[next++];
          const found = x.map((value, i) =>
            trace.step(trace.params[i], trace.state[i], value, "subtract"),
          );
          trace.state = found.map(({ state }) => state);
          trace.signals.push(found.map(({ signals }) => signals));
          x = found.map(({ out }) => out);
          trace.out.push(x);
        }
      }
      const readout = traces[traces.length - 1].out;
      const evidence = readout[0].map(
        (_, digit) => readout.reduce((sum, row) => sum + row[digit], 0) / readout.length,
      );
      const hidden = traces.filter(({ fires }) => fires);
      const fired = hidden.flatMap(({ out }) => out.flat()).filter((spike) => spike).length;
      const places = hidden.reduce((sum, { size }) => sum + size * described.steps, 0);
      return {
        hidden,
        readout,
        evidence,
        answer: evidence.indexOf(Math.max(...evidence)),
        rate: fired / places,
      };
    }

    const shown = bytes(described.test.pixels);
    const images = described.test.labels.map((label, i) => ({
      label,
      pixels: Array.from(shown.subarray(64 * i, 64 * (i + 1))),
    }));

    /** The share of the test images that are named right, and the firing rate for them. */
    function score(factor) {
      const found = images.map(({ pixels, label }) => ({ label, ...run(pixels, factor) }));
      const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
      return {
        accuracy: mean(found.map(({ answer, label }) => Number(answer === label))),
        rate: mean(found.map(({ rate }) => rate)),
      };
    }

    return { run, score, images, steps: described.steps };
  }

  const SIDE = 32; // of the bitmap, which is counted in blocks of 4 x 4
  const MARGIN = 1;
  const PEN = 2.5; // radius, in cells of the bitmap

  /**
   * The 64 pixels of a drawing: strokes of points [x, y], in any unit.
   *
   * As the digits of the data set were made: a drawing is scaled to fill a bitmap of 32 x 32 cells,
   * and each pixel is the number of inked cells, 0 to 16, in its block.
   */
  function pixelsOf(strokes) {
    const points = strokes.flat();
    const pixels = new Array(64).fill(0);
    if (!points.length) return pixels;
    const xs = points.map(([x]) => x);
    const ys = points.map(([, y]) => y);
    const [left, right] = [Math.min(...xs), Math.max(...xs)];
    const [top, bottom] = [Math.min(...ys), Math.max(...ys)];
    const span = Math.max(right - left, bottom - top) || 1;
    const scale = (SIDE - 2 * (PEN + MARGIN)) / span;
    const place = ([x, y]) => [
      SIDE / 2 + (x - (left + right) / 2) * scale,
      SIDE / 2 + (y - (top + bottom) / 2) * scale,
    ];
    const ink = new Uint8Array(SIDE * SIDE);
    const stamp = ([x, y]) => {
      for (let row = Math.max(0, Math.floor(y - PEN)); row < Math.min(SIDE, y + PEN); row++)
        for (let col = Math.max(0, Math.floor(x - PEN)); col < Math.min(SIDE, x + PEN); col++)
          if ((col + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2 <= PEN ** 2) ink[row * SIDE + col] = 1;
    };
    for (const stroke of strokes) {
      const path = stroke.map(place);
      path.forEach((point, i) => {
        const [x, y] = path[Math.max(i - 1, 0)];
        const parts = Math.ceil(Math.hypot(point[0] - x, point[1] - y)) || 1;
        for (let part = 1; part <= parts; part++)
          stamp([x + ((point[0] - x) * part) / parts, y + ((point[1] - y) * part) / parts]);
      });
    }
    ink.forEach((inked, i) => {
      const row = Math.floor(i / SIDE / 4);
      const col = Math.floor((i % SIDE) / 4);
      pixels[8 * row + col] += inked;
    });
    return pixels;
  }

  Object.assign(tracetorch, { network, pixelsOf });
})(globalThis.tracetorch ??= {});
