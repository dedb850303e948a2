"""NIR graphs: written, read and simulated."""
