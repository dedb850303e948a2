// The page that runs a trained network: a pad to draw on, and pictures of what the network does.
(function (tracetorch) {
  "use strict";

  const STEP = 50; // milliseconds
  const mount = document.getElementById("live");
  const net = tracetorch.network(tracetorch.digits);
  const find = (name) => mount.querySelector(`[data-part="${name}"]`);
  const color = (name) => getComputedStyle(mount).getPropertyValue(`--tt-${name}`).trim();
  const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;

  mount.innerHTML = `
    <div class="tt-live-row">
      <div class="tt-live-pad">
        <canvas data-part="pad" width="224" height="224" tabindex="0" role="application"
          aria-label="Pad: draw a digit from 0 to 9. Keys: arrows move the pen, space lowers and lifts it."></canvas>
        <div class="tt-live-buttons">
          <button type="button" data-part="clear">Clear</button>
          <button type="button" data-part="next">Next test image</button>
        </div>
        <p data-part="answer" role="status" class="tt-live-answer"></p>
      </div>
      <figure><canvas data-part="pixels" width="128" height="128" role="img"
        aria-label="The 8 x 8 pixels that the network gets"></canvas>
        <figcaption>what the network gets: 8 x 8 pixels</figcaption></figure>
      <figure class="tt-live-grow"><canvas data-part="readout" height="200" role="img"
        aria-label="Membrane potentials of the ten classes over 16 steps"></canvas>
        <figcaption>readout: membrane potential of each class, over 16 steps</figcaption></figure>
    </div>
    <div class="tt-live-row">
      <figure class="tt-live-grow"><canvas data-part="raster0" height="256" role="img"
        aria-label="Spikes of the first hidden layer"></canvas>
        <figcaption data-part="caption0"></figcaption></figure>
      <figure class="tt-live-grow"><canvas data-part="raster1" height="256" role="img"
        aria-label="Spikes of the second hidden layer"></canvas>
        <figcaption data-part="caption1"></figcaption></figure>
      <figure class="tt-live-grow"><canvas data-part="neuron" height="256" role="img"
        aria-label="Synaptic trace and membrane potential of one neuron"></canvas>
        <figcaption><label>neuron
          <input data-part="which" type="number" min="0" max="127" value="0"></label>
          of the first layer: membrane potential before and after the reset, synaptic trace (thin),
          thresholds (dotted). Click a row of its spikes to choose.</figcaption></figure>
    </div>
    <p class="tt-live-slider"><label>thresholds x <output data-part="factor"></output>
      <input data-part="slider" type="range" min="0.5" max="1.6" step="0.05" value="1"></label>
      <span data-part="score" role="status"></span></p>`;

  const model = { strokes: [], pixels: null, label: null, image: 0, factor: 1, shown: 0 };
  const pen = { x: 0.5, y: 0.3, down: false, used: false }; // that keys move
  let found = null;
  let timer = 0;

  function canvas(name) {
    const element = find(name);
    const ratio = window.devicePixelRatio || 1;
    const width = element.clientWidth;
    const height = element.clientHeight;
    element.width = width * ratio;
    element.height = height * ratio;
    const context = element.getContext("2d");
    context.scale(ratio, ratio);
    context.clearRect(0, 0, width, height);
    return { context, width, height };
  }

  function drawPad() {
    const { context, width } = canvas("pad");
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = width / 11;
    context.strokeStyle = color("ink");
    for (const stroke of model.strokes) {
      context.beginPath();
      const [first, ...others] = stroke.map(([x, y]) => [x * width, y * width]);
      context.moveTo(...first);
      others.concat([first].slice(others.length)).forEach((point) => context.lineTo(...point));
      context.stroke();
    }
    if (document.activeElement === find("pad") && pen.used) {
      context.fillStyle = color("brand");
      context.fillRect(pen.x * width - 3, pen.y * width - 3, 6, 6);
    }
  }

  function drawPixels() {
    const { context, width } = canvas("pixels");
    const cell = width / 8;
    context.fillStyle = color("ink");
    model.pixels.forEach((value, i) => {
      context.globalAlpha = value / 16;
      context.fillRect((i % 8) * cell, Math.floor(i / 8) * cell, cell, cell);
    });
  }

  function drawRaster(name, out, chosen) {
    const { context, width, height } = canvas(name);
    const [wide, tall] = [width / net.steps, height / out[0].length];
    const [positive, negative] = [color("positive"), color("negative")];
    if (chosen !== undefined) {
      context.fillStyle = color("rule");
      context.fillRect(0, chosen * tall - 1, width, tall + 2);
    }
    out.slice(0, model.shown).forEach((row, t) =>
      row.forEach((spike, i) => {
        if (!spike) return;
        context.fillStyle = spike > 0 ? positive : negative;
        context.fillRect(t * wide + 1, i * tall, wide - 2, Math.max(tall - 0.4, 1));
      }),
    );
  }

  /** Lines over the steps, between the lowest and the highest of all values; a step may have two. */
  function drawLines(context, width, height, lines, extent) {
    const low = Math.min(...extent, 0);
    const high = Math.max(...extent, 0.1);
    const place = (value) => height - 6 - ((value - low) / (high - low)) * (height - 12);
    for (const { values, style, width: thick = 1.5, dash = [] } of lines) {
      context.beginPath();
      context.strokeStyle = style;
      context.lineWidth = thick;
      context.setLineDash(dash);
      values.forEach((value, t) => {
        const x = ((t + 0.5) / net.steps) * width;
        for (const one of [value].flat()) context.lineTo(x, place(one));
      });
      context.stroke();
    }
    context.setLineDash([]);
    return place;
  }

  function drawReadout() {
    const { context, width, height } = canvas("readout");
    const rows = found.readout.slice(0, model.shown);
    const digits = found.readout[0].map((_, digit) => rows.map((row) => row[digit]));
    const leads = rows.length ? rows[rows.length - 1] : [];
    const best = leads.indexOf(Math.max(...leads));
    const place = drawLines(
      context,
      width - 24,
      height,
      digits.map((values, digit) => ({
        values,
        style: color(digit === best ? "brand" : "edge"),
        width: digit === best ? 3 : 1,
      })),
      found.readout.flat(),
    );
    context.font = "12px sans-serif";
    leads.forEach((value, digit) => {
      context.fillStyle = color(digit === best ? "brand" : "quiet");
      if (digit === best || value > Math.max(...leads) / 3)
        context.fillText(digit, ((model.shown - 0.2) / net.steps) * (width - 24) + 4, place(value) + 4);
    });
  }

  function drawNeuron() {
    const { context, width, height } = canvas("neuron");
    const layer = found.hidden[0];
    const typed = Math.trunc(Number(find("which").value)) || 0; // out of range while it is typed
    const which = Math.min(Math.max(typed, 0), layer.size - 1);
    const seen = layer.signals.slice(0, model.shown).map((all) => all[which]);
    const { pos_threshold, neg_threshold } = layer.params[which];
    const all = layer.signals.map((signals) => signals[which]);
    const level = (value) => ({
      values: [value, ...Array(net.steps - 1).fill(value)],
      style: color("threshold"), width: 1, dash: [2, 3],
    });
    const place = drawLines(
      context,
      width,
      height,
      [
        level(pos_threshold),
        level(-neg_threshold),
        { values: seen.map(({ syn }) => syn), style: color("quiet"), width: 1 },
        { values: seen.map(({ membrane, mem }) => [membrane, mem]), style: color("ink") },
      ],
      [pos_threshold, -neg_threshold, ...all.flatMap(({ syn, membrane }) => [syn, membrane])],
    );
    layer.out.slice(0, model.shown).forEach((row, t) => {
      if (!row[which]) return;
      context.fillStyle = color(row[which] > 0 ? "positive" : "negative");
      context.beginPath();
      context.arc(((t + 0.5) / net.steps) * width, place(seen[t].membrane), 4, 0, 7);
      context.fill();
    });
    drawRaster("raster0", layer.out, which);
  }

  function draw() {
    drawPad();
    drawPixels();
    drawReadout();
    drawRaster("raster1", found.hidden[1].out);
    drawNeuron();
  }

  /** Run the network on the present pixels, and show it step by step. */
  function run(animate = true) {
    found = net.run(model.pixels, model.factor);
    found.hidden.forEach(({ out, size }, i) => {
      const fired = out.flat().filter((spike) => spike).length;
      find(`caption${i}`).textContent =
        `hidden layer ${i + 1}: spikes of ${size} neurons, ${percent(fired / (size * net.steps))}` +
        (i ? "" : "; + and \u2212 in two colours");
    });
    const empty = model.pixels.every((value) => !value);
    const label = model.label === null ? "" : ` (a test image of a ${model.label})`;
    find("answer").textContent = empty ? "Draw a digit." : `Answer: ${found.answer}${label}.`;
    clearInterval(timer);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    model.shown = animate && !still ? 1 : net.steps;
    draw();
    if (model.shown === net.steps) return;
    timer = setInterval(() => {
      model.shown += 1;
      draw();
      if (model.shown === net.steps) clearInterval(timer);
    }, STEP);
  }

  function fromDrawing(animate) {
    model.pixels = tracetorch.pixelsOf(model.strokes);
    model.label = null;
    run(animate);
  }

  function nextImage() {
    const { pixels, label } = net.images[model.image % net.images.length];
    model.image += 1;
    pen.down = false;
    Object.assign(model, { pixels, label, strokes: [] });
    run();
  }

  /** The score on the test images takes about 0.1 s on a desktop, so not while the slider moves. */
  function showFactor(scored) {
    find("factor").textContent = model.factor.toFixed(2);
    if (!scored) return;
    const { accuracy, rate } = net.score(model.factor);
    find("score").textContent =
      `On ${net.images.length} test images: ${percent(accuracy)} right, ` +
      `${percent(rate)} of neurons fire in a step.`;
  }

  // Drawing, with a pointer or with keys.
  const pad = find("pad");
  const strokeOf = new Map(); // by pointer: two fingers draw two strokes
  const pointOf = (event) => {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  pad.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    pad.setPointerCapture(event.pointerId);
    pen.down = false;
    const stroke = [pointOf(event)];
    strokeOf.set(event.pointerId, stroke);
    model.strokes.push(stroke);
    fromDrawing(false);
    event.preventDefault();
  });
  pad.addEventListener("pointermove", (event) => {
    const stroke = strokeOf.get(event.pointerId);
    if (!pad.hasPointerCapture(event.pointerId) || !model.strokes.includes(stroke)) return;
    stroke.push(pointOf(event));
    fromDrawing(false);
  });
  pad.addEventListener("pointerup", () => model.strokes.length && fromDrawing(true));
  pad.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === " ") {
      pen.down = !pen.down;
      if (pen.down) model.strokes.push([[pen.x, pen.y]]);
    } else if (event.key in moves) {
      const [x, y] = moves[event.key];
      pen.x = Math.min(Math.max(pen.x + x / 16, 0), 1);
      pen.y = Math.min(Math.max(pen.y + y / 16, 0), 1);
      if (pen.down) model.strokes[model.strokes.length - 1].push([pen.x, pen.y]);
    } else return;
    pen.used = true;
    event.preventDefault();
    fromDrawing(false);
  });
  find("clear").addEventListener("click", () => {
    model.strokes = [];
    pen.down = false;
    fromDrawing(false);
  });
  find("next").addEventListener("click", nextImage);
  find("which").addEventListener("input", drawNeuron);
  find("raster0").addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const place = (event.clientY - box.top) / box.height;
    find("which").value = Math.floor(place * found.hidden[0].size);
    drawNeuron();
  });
  find("slider").addEventListener("input", (event) => {
    model.factor = Number(event.target.value);
    showFactor(false);
    run(false);
  });
  find("slider").addEventListener("change", () => showFactor(true));
  window.addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new MutationObserver(draw).observe(document.body, { attributeFilter: ["data-theme"] });

  nextImage();
  const counts = found.hidden[0].params.map((_, i) =>
    found.hidden[0].out.reduce((sum, row) => sum + Math.abs(row[i]), 0),
  );
  find("which").value = counts.indexOf(Math.max(...counts));
  showFactor(true);
})(globalThis.tracetorch);
