"""Writes the tables of the documentation that tests find: compatibility, and other neurons.

    python tools/write_tables.py compatibility peers

The tests fail where a page has another table than this writes.
"""

import importlib
import pathlib
import sys

SUPPORT = pathlib.Path(__file__).parents[1] / "tests" / "support"

if __name__ == "__main__":
    if not sys.argv[1:] or set(sys.argv[1:]) - {"compatibility", "peers"}:
        sys.exit(f"usage: {sys.argv[0]} [compatibility] [peers]")
    sys.path.insert(0, str(SUPPORT))
    for name in sys.argv[1:]:
        importlib.import_module(name).write()
