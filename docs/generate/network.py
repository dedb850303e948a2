"""A trained network in JavaScript, for the page that runs one.

The network is that of `examples/pretrained`; each trace layer keeps the step that the interactive
page has.
"""

from __future__ import annotations

import base64
import json
import pathlib
from typing import Any

import numpy as np

from generate import javascript
from tracetorch_jax import snn

TRAINED = pathlib.Path(__file__).parents[2] / "examples" / "pretrained"
STEPS = 16  # for which an image is shown


def write(folder: pathlib.Path) -> None:
    """Write ``live/digits.js`` into the documentation's folder of static files."""
    path = folder / "live" / "digits.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script())


def script() -> str:
    """A script that sets ``tracetorch.digits``, and the steps of its layers."""
    layers = described()
    test = dict(np.load(TRAINED / "digits_test.npz"))
    found = {
        "steps": STEPS,
        "layers": layers,
        "test": {"pixels": text(test["pixels"], np.uint8), "labels": test["y"].tolist()},
    }
    kinds = dict.fromkeys(layer["kind"] for layer in layers if layer["kind"] in snn.ALL_LAYERS)
    steps = {kind: javascript.step(snn.ALL_LAYERS[kind](1).spec) for kind in kinds}
    return "\n".join(
        [
            javascript.HEADER,
            "tracetorch.layers ??= {};",
            *(f"tracetorch.layers.{kind} = {{\n{step}\n}};" for kind, step in steps.items()),
            f"tracetorch.digits = {json.dumps(found)};",
            "})(globalThis.tracetorch);\n",
        ]
    )


def described() -> list[dict[str, Any]]:
    """The layers in their order: what each is, how many numbers it gives, and its parameters."""
    by_layer: dict[int, dict[str, np.ndarray]] = {}
    for path, value in np.load(TRAINED / "digits.npz").items():
        *_, layer, name = path.split("/")
        by_layer.setdefault(int(layer.removeprefix("layers_")), {})[name] = value
    return [_layer(own) for _, own in sorted(by_layer.items())]


def _layer(own: dict[str, np.ndarray]) -> dict[str, Any]:
    if "kernel" in own:
        kind, params = "Dense", own
    else:
        names = {name.removeprefix("raw_") for name in own}
        kinds = {name: cls(1).spec for name, cls in snn.ALL_LAYERS.items()}
        kind = next(kind for kind, spec in kinds.items() if set(spec.parameters) == names)
        cell = snn.ALL_LAYERS[kind](len(next(iter(own.values()))))
        params = cell.apply({"params": own}, method="parameters")
    size = next(iter(params.values())).shape[-1]
    return {
        "kind": kind,
        "size": size,
        "states": list(snn.ALL_LAYERS[kind](1).spec.states) if kind != "Dense" else [],
        "params": {name: text(np.asarray(v), np.float32) for name, v in params.items()},
    }


def text(values: np.ndarray, dtype: Any) -> str:
    """The bytes of an array, little endian, in base64."""
    return base64.b64encode(values.astype(np.dtype(dtype).newbyteorder("<")).tobytes()).decode()
