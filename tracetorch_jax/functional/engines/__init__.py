"""How a step is run over time."""
