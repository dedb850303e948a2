"""Checks, trees, axes, types and files: what every part of the package may use."""
