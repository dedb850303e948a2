// What the interactive page shows, without the page: one or two neurons with their layers and
// parameters, their input, the values that follow, and the same as a fragment of the page's address.
// The layers are in layers.js.
(function (tracetorch) {
  "use strict";

  const { layers, constraints, resets } = tracetorch;

  // Sliders move raw parameters, as training does, so that decays close to 1 have room.
  const SLIDERS = {
    sigmoid: { from: 0.01, to: 0.999, digits: 4 },
    softplus: { from: 0.05, to: 5, digits: 3 },
    none: { from: -3, to: 3, digits: 2 },
  };

  const round = (value, digits) => Number(value.toFixed(digits));
  const identity = (value) => value;

  function whole(name, value, low, high, about) {
    return {
      name, value, about,
      rule: `be a whole number from ${low} to ${high}`,
      allows: (v) => Number.isInteger(v) && v >= low && v <= high,
      slider: { from: low, to: high, step: 1, read: identity, place: identity },
    };
  }

  const OPTIONS = {
    amplitude: {
      name: "amplitude", value: 0.3, about: "height of the input.",
      rule: "be finite", allows: Number.isFinite,
      slider: { from: -3, to: 3, step: 0.05, read: (v) => round(v, 2), place: identity },
    },
    period: whole("period", 20, 2, 200, "steps from one repetition to the next."),
    seed: whole("seed", 0, 0, 9999, "which random numbers."),
    steps: whole("steps", 100, 20, 400, "length of the input."),
  };

  const DT = {
    name: "dt", value: null, about: "length of a step in milliseconds; nothing: time in steps.",
    rule: "be greater than 0", allows: (v) => v > 0,
  };

  // `python` is the input as an expression of NumPy; those without one are lists of numbers there.
  const INPUTS = {
    step: {
      label: "step",
      options: { amplitude: 0.3 },
      make: (steps, { amplitude }) =>
        fill(steps, (t) => (t >= steps / 10 && t < 0.7 * steps ? amplitude : 0)),
      python: "np.where((t >= steps / 10) & (t < 0.7 * steps), amplitude, 0.0)",
    },
    pulses: {
      label: "single pulses",
      options: { amplitude: 0.8, period: 10 },
      make: (steps, { amplitude, period }) =>
        fill(steps, (t) => (t % period === period >> 1 ? amplitude : 0)),
      python: "np.where(t % period == period // 2, amplitude, 0.0)",
    },
    sine: {
      label: "sine",
      options: { amplitude: 0.5, period: 50 },
      make: (steps, { amplitude, period }) =>
        fill(steps, (t) => amplitude * Math.sin((2 * Math.PI * t) / period)),
      python: "amplitude * np.sin(2 * np.pi * t / period)",
    },
    noise: {
      label: "noise",
      options: { amplitude: 0.5, seed: 0 },
      make: (steps, { amplitude, seed }) => {
        const draw = normal(seed);
        return fill(steps, () => amplitude * draw());
      },
    },
    alternating: {
      label: "alternating sign",
      options: { amplitude: 0.3, period: 40 },
      make: (steps, { amplitude, period }) =>
        fill(steps, (t) => (t % period < period / 2 ? amplitude : -amplitude)),
      python: "np.where(t % period < period / 2, amplitude, -amplitude)",
    },
    drawn: {
      label: "drawn by you",
      options: {},
      make: (steps, options, drawn) => fill(steps, (t) => drawn[t] || 0),
    },
  };

  function fill(steps, value) {
    return Array.from({ length: steps }, (_, t) => value(t));
  }

  /** Normal random numbers: mulberry32, Box and Muller. */
  function normal(seed) {
    let a = seed | 0;
    const uniform = () => {
      a = (a + 0x6d2b79f5) | 0;
      let t = Math.imul(a ^ (a >>> 15), 1 | a);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
    return () =>
      Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  }

  /** A layer's parameters as fields: name, default, rule, and how a slider moves them. */
  function fieldsOf(layer) {
    return layers[layer].parameters.map(({ name, value, about, constraint }) => {
      const { rule, low, high, constrain, invert } = constraints[constraint];
      const { from, to, digits } = SLIDERS[constraint];
      return {
        name, value, about, rule, constraint,
        allows: (v) => v > low && v < high,
        slider: {
          from: invert(from),
          to: invert(to),
          step: 0.05,
          read: (raw) => round(constrain(raw), digits),
          place: invert,
        },
      };
    });
  }

  /** Options of an input, with the defaults that are its own. */
  function optionsOf(input) {
    const own = INPUTS[input].options;
    return [...Object.keys(own), "steps"].map((name) => ({
      ...OPTIONS[name],
      value: own[name] ?? OPTIONS[name].value,
    }));
  }

  /** A number from text, or an error that says which rule it breaks. */
  function parse(field, text) {
    const value = Number(text);
    let rule = field.rule;
    if (String(text).trim() === "" || Number.isNaN(value)) rule = "be a number";
    else if (!Number.isFinite(value)) rule = "be finite";
    else if (field.allows(value)) return value;
    const got = String(text).trim() || "nothing";
    throw new RangeError(`\`${field.name}\` must ${rule}; got ${got}.`);
  }

  const valuesOf = (fields) => Object.fromEntries(fields.map(({ name, value }) => [name, value]));

  /** A neuron at its defaults. */
  function neuronOf(layer) {
    return { layer, reset: layers[layer].reset, params: valuesOf(fieldsOf(layer)) };
  }

  /** A model at its defaults: a neuron and its input. `other` is a neuron to compare it with. */
  function initial(layer = "LIB", input = "step") {
    const options = valuesOf(optionsOf(input));
    return { ...neuronOf(layer), input, options, drawn: [], dt: DT.value, other: null };
  }

  /** The same neuron or model with another layer, which keeps what it also has: the reset, and
   * values of parameters, also those of one sign. */
  function withLayer(neuron, layer) {
    const old = neuron.params;
    const params = Object.fromEntries(
      fieldsOf(layer).map(({ name, value }) => {
        const single = name.replace(/^(pos|neg)_/, "");
        return [name, old[name] ?? old[single] ?? old[`pos_${name}`] ?? value];
      }),
    );
    const reset = neuron.reset in layers[layer].resets ? neuron.reset : layers[layer].reset;
    return { ...neuron, layer, reset, params };
  }

  /** The same model with another input, at its defaults but for the number of steps. */
  function withInput(model, input) {
    const options = { ...valuesOf(optionsOf(input)), steps: model.options.steps };
    return { ...model, input, options, drawn: input === "drawn" ? samplesOf(model) : [] };
  }

  const inputOf = ({ input, options, drawn }) => INPUTS[input].make(options.steps, options, drawn);

  /** The input as values short enough for an address. */
  const samplesOf = (model) => inputOf(model).map((value) => round(value, 3));

  /** The same model with a second neuron, equal to the first, or without one. */
  function compared(model, on) {
    const { layer, reset, params } = model;
    return { ...model, other: on ? { layer, reset, params: { ...params } } : null };
  }

  /** Each neuron of a model and its values; with two of them they are marked A and B. */
  function runs(model) {
    if (!model.other) return [{ mark: "", ...model, series: run(model) }];
    const both = [model, { ...model, ...model.other }];
    return both.map((one, i) => ({ ...one, mark: "AB"[i], series: run(one) }));
  }

  /** Every value of the first neuron at every step, as arrays by name; all states start at 0. */
  function run(model) {
    const { states, step } = layers[model.layer];
    let state = Object.fromEntries(states.map((name) => [name, 0]));
    const series = {};
    for (const x of inputOf(model)) {
      const found = step(model.params, state, x, model.reset);
      state = found.state;
      const values = { x, ...state, ...found.signals, out: found.out };
      for (const [name, value] of Object.entries(values)) (series[name] ??= []).push(value);
    }
    return series;
  }

  /** Pairs of a value and how often it comes in a row. */
  function repeats(values) {
    const found = [];
    for (const value of values) {
      const last = found[found.length - 1];
      if (last && last[0] === value) last[1] += 1;
      else found.push([value, 1]);
    }
    return found;
  }

  /** Values as a text: [0, 0, 1] is "0*2,1". */
  const pack = (values) =>
    repeats(values).map(([v, count]) => (count > 1 ? `${v}*${count}` : `${v}`)).join(",");

  const SAMPLE = { name: "x", rule: "be finite", allows: Number.isFinite };
  const RUN = whole("x", 1, 1, 400, "how often a value of the input repeats.");

  function unpack(text) {
    return text.split(",").flatMap((run) => {
      const [value, count = "1"] = run.split("*");
      const times = parse(RUN, count);
      return Array(times).fill(parse(SAMPLE, value));
    });
  }

  const SECOND = "b."; // before the names of what the second neuron has

  /** What differs from the defaults, for the address. */
  function toFragment(model) {
    const parts = [];
    const add = (fields, values, prefix = "") => {
      for (const { name, value } of fields)
        if (values[name] !== value) parts.push(`${prefix}${name}=${values[name]}`);
    };
    const addNeuron = ({ layer, reset, params }, prefix) => {
      parts.push(`${prefix}layer=${layer}`);
      if (reset !== layers[layer].reset) parts.push(`${prefix}reset=${reset}`);
      add(fieldsOf(layer), params, prefix);
    };
    addNeuron(model, "");
    parts.push(`input=${model.input}`);
    add(optionsOf(model.input), model.options);
    if (model.input === "drawn") parts.push(`x=${pack(inputOf(model))}`);
    add([DT], model);
    if (model.other) addNeuron(model.other, SECOND);
    return parts.join("&");
  }

  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text;
    }
  }

  /** The model that a fragment describes and what is wrong with it; null if it is another's. */
  function fromFragment(text) {
    const pairs = text.split("&").map((part) => part.split("=").map(decoded));
    const given = new Map(pairs.filter((pair) => pair.length === 2));
    if (!given.has("layer")) return null;
    const errors = [];
    const take = (name, known, otherwise) => {
      const value = given.get(name) ?? otherwise;
      given.delete(name);
      if (known.includes(value)) return value;
      errors.push(`\`${name}\` must be one of ${known.join(", ")}; got ${value}.`);
      return otherwise;
    };
    const attempt = (name, set) => {
      if (!given.has(name)) return;
      try {
        set(given.get(name));
      } catch (error) {
        errors.push(error.message);
      }
      given.delete(name);
    };
    const read = (fields, values, prefix = "") => {
      for (const field of fields) {
        const name = prefix + field.name;
        attempt(name, (value) => (values[field.name] = parse({ ...field, name }, value)));
      }
    };
    const readNeuron = (prefix) => {
      const neuron = neuronOf(take(`${prefix}layer`, Object.keys(layers), "LIB"));
      if (neuron.reset) neuron.reset = take(`${prefix}reset`, resets, neuron.reset);
      read(fieldsOf(neuron.layer), neuron.params, prefix);
      return neuron;
    };
    const first = readNeuron("");
    const model = { ...initial(first.layer, take("input", Object.keys(INPUTS), "step")), ...first };
    read(optionsOf(model.input), model.options);
    read([DT], model);
    if (model.input === "drawn") attempt("x", (value) => (model.drawn = unpack(value)));
    if (given.has(`${SECOND}layer`)) model.other = readNeuron(SECOND);
    for (const name of given.keys()) {
      const { layer } = (name.startsWith(SECOND) && model.other) || model;
      errors.push(`${layer} with this input has nothing called \`${name}\`.`);
    }
    return { model, errors };
  }

  tracetorch.neuron = {
    INPUTS, DT, fieldsOf, optionsOf, parse, initial, withLayer, withInput, compared, inputOf, run,
    runs, repeats, toFragment, fromFragment,
  };
})(globalThis.tracetorch);
