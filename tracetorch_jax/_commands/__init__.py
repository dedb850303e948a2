"""The commands of ``python -m tracetorch_jax``: what each is, its arguments, and `run`."""
