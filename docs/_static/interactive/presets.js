// Neurons by the names that the field has for them: as addresses, and what to see there.
(function (tracetorch) {
  "use strict";

  tracetorch.presets = [
    {
      name: "LIF",
      fragment: "layer=LIB&input=step&amplitude=0.5",
      see:
        "A spike subtracts the threshold from the membrane potential (soft reset). What was above " +
        "it stays: the neuron fires 27 times in 60 steps.",
    },
    {
      name: "LIF, hard reset",
      fragment: "layer=LIB&reset=zero&input=step&amplitude=0.5",
      see:
        "A spike sets the membrane potential to 0. What was above the threshold is lost: the " +
        "neuron fires 20 times in 60 steps, at every third.",
    },
    {
      name: "adaptive LIF (ALIF)",
      fragment: "layer=ALIB&adapt_weight=5&input=step&amplitude=0.5",
      see:
        "Each spike raises the threshold, which then decays. The spikes come 2 steps apart at " +
        "first, and 5 in the end.",
    },
    {
      name: "synaptic (CuBa) LIF",
      fragment: "layer=SLIB&alpha=0.8&input=pulses&amplitude=2&period=25",
      see:
        "The synaptic current spreads each pulse over several steps. The spike comes three or " +
        "four steps after the pulse.",
    },
    {
      name: "bursting",
      fragment:
        "layer=ARLIB&beta=0.5&gamma=0.5&rec_weight=1.5&rho=0.9" +
        "&input=step&amplitude=0.6&steps=200",
      see:
        "The recurrent trace excites the neuron, and the adaptive threshold stops it. It fires " +
        "five or six spikes in a row, and then rests.",
    },
    {
      name: "sigma-delta modulator",
      fragment: "layer=LIT&beta=0.9999&input=sine",
      see:
        "The membrane potential is the sum of the input less the sum of the spikes. It stays " +
        "within one threshold, so the density of spikes follows the input.",
    },
  ];
})(globalThis.tracetorch);
