"""State dicts of traceTorch and torch: read and written."""
