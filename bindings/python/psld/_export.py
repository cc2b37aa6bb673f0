"""From a network in PyTorch to an ONNX file that describes itself."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any, Mapping, Union

import numpy as np

# The evaluation that the file carries, for `psld verify`: seed of the state, time, label, values that are kept of it.
_SEED, _TIME, _LABEL, _VALUES = 0, 0.5, 0, 64


class _Seen(Exception):
    """Ends a run at its first network call."""


def export(
    network: Any,
    path: Union[str, os.PathLike[str]],
    spec: Union[str, Mapping[str, Any]],
    *,
    time_dtype: str = "float32",
    opset: int = 17,
    tolerance: float = 1e-4,
) -> None:
    """Writes a ``torch.nn.Module`` as an ONNX model with its spec in it, and checks that it computes the same here.

    ``network(z, t)``, or ``network(z, t, y)`` where the spec has a label input, takes the state ``[n, k*C, ...]``, the times
    ``[n]`` as the spec says that it takes them (with ``time_dtype="int64"`` rounded to whole numbers), and the labels ``[n]``,
    int64. It returns a tensor, a tuple that begins with one, or an object with one in ``sample``, as those of diffusers do. It
    is exported in evaluation mode, for any batch size, with the names that the spec gives its inputs and output.

    Needs ``torch`` and ``onnx``. What ONNX Runtime samples in two steps must agree with what PyTorch does to ``tolerance``,
    relative to its root mean square; or it is a :class:`psld.ModelError`, and no file is written.
    """
    import torch

    import psld

    if time_dtype not in ("float32", "int64"):
        raise psld.ArgumentError(100, f"time_dtype = {time_dtype!r}: expected 'float32' or 'int64'")
    spec = dict(json.loads(spec) if isinstance(spec, str) else spec)
    device = next((parameter.device for parameter in network.parameters()), "cpu")

    class Plain(torch.nn.Module):  # type: ignore[misc]
        """Tensors in, one tensor out."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *inputs: Any) -> Any:
            out = self.network(*inputs)
            out = getattr(out, "sample", out)
            return out[0] if isinstance(out, (tuple, list)) else out

    plain = Plain()

    def tensors(z: np.ndarray, t: np.ndarray, *y: np.ndarray) -> tuple[Any, ...]:
        times = np.rint(t).astype(np.int64) if time_dtype == "int64" else t.astype(np.float32)
        # Copies: the library's arrays are its own.
        arrays = [np.array(z, np.float32), times, *(np.array(labels) for labels in y)]
        return tuple(torch.from_numpy(array).to(device) for array in arrays)

    def evaluate(*inputs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            out: np.ndarray = plain(*tensors(*inputs)).float().cpu().numpy()
        return out

    modes = [(module, module.training) for module in network.modules()]
    # With the network in it: torch sets what it has exported back to the mode in which it came.
    plain.eval()
    try:
        inputs, names, golden, options = _once(psld, spec, evaluate)
        axes = {name: {0: "batch"} for name in names}
        # In the model's own folder, so that the file moves into place in one step.
        folder = os.path.dirname(os.path.abspath(os.fspath(path)))
        with tempfile.TemporaryDirectory(dir=folder, prefix=".psld-export-") as work:
            file = os.path.join(work, "model.onnx")
            torch.onnx.export(
                plain, tensors(*(np.repeat(array, 2, axis=0) for array in inputs)), file, opset_version=opset,
                input_names=names[:-1], output_names=names[-1:], dynamic_axes=axes, dynamo=False,
            )  # fmt: skip
            if os.listdir(work) != ["model.onnx"]:
                raise psld.ModelError(
                    200,
                    f"{os.fspath(path)}: the network is larger than the 2 GB that an ONNX file holds",
                    "export it in half precision, or call it as it is: psld.Model(network, spec=spec)",
                )
            with open(file, "ab") as onnx:
                onnx.write(_metadata("psld.spec", json.dumps(spec)))
                if golden is not None:
                    onnx.write(_metadata("psld.golden", json.dumps(golden)))
            with psld.Model(file) as exported, psld.Model(evaluate, spec=spec, name="torch") as original:
                found, wanted = (m.sample(2, sampler="euler", steps=2, output="state", **options) for m in (exported, original))
            difference = float(np.abs(found - wanted).max()) / float(np.sqrt(np.mean(np.square(wanted))))
            if not difference <= tolerance:
                raise psld.ModelError(
                    203,
                    f"{os.fspath(path)}: two steps through ONNX Runtime differ from PyTorch's by {difference:.1e} of their size",
                    "a branch or loop of Python's that depends on the input is exported as it went once",
                )
            os.replace(file, path)
    finally:
        for module, training in modes:
            module.training = training


def _once(psld: Any, spec: dict[str, Any], evaluate: Any) -> tuple[list[np.ndarray], list[str], Any, dict[str, Any]]:
    """The network's inputs at one state and time, the names of inputs and output, the golden evaluation there, or
    ``None`` where the network's input is not the state itself, and what a run needs besides."""
    # On the network's own path.
    own = dict(spec.get("network", {}))
    alone = {**spec, "process": own.pop("process", None) or spec.get("process"), "network": own}
    seen: list[np.ndarray] = []

    def see(*inputs: np.ndarray) -> np.ndarray:
        seen.extend(array.copy() for array in inputs)
        raise _Seen

    with psld.Model(see, spec=alone) as model:
        described = model.info["spec"]["network"]
        labelled = described.get("label_input") is not None
        state = psld.noise(_SEED, "probe", 0, model.state_shape)[None]
        options = {"labels": _LABEL} if labelled else {}
        try:
            model.sample(1, sampler="euler", steps=1, t_start=_TIME, init=state, **options)
        except _Seen:
            pass
    names = [described["state_input"], described["time_input"], *([described["label_input"]] if labelled else [])]
    golden = None
    if np.array_equal(seen[0], state):
        out = evaluate(*seen).ravel()
        count = min(out.size, _VALUES)
        indices = [i * out.size // count for i in range(count)]
        golden = {
            "format": 1, "seed": _SEED, "t": _TIME, "indices": indices, "values": [float(out[i]) for i in indices],
            "rms": float(np.sqrt(np.mean(np.square(out, dtype=np.float64)))), **({"y": _LABEL} if labelled else {}),
        }  # fmt: skip
    return seen, [*names, described["output"]], golden, options


def _metadata(key: str, value: str) -> bytes:
    """An entry of a model's ``metadata_props``: a repeated field of protobuf's, so that appending it to a file adds it."""
    entry = _field(1, key.encode()) + _field(2, value.encode())
    return _field(14, entry)


def _field(number: int, content: bytes) -> bytes:
    def varint(value: int) -> bytes:
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*out, value])

    return varint(number << 3 | 2) + varint(len(content)) + content
