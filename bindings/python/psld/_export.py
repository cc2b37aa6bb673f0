"""From a network in PyTorch to an ONNX file that describes itself."""

from __future__ import annotations

import copy
import json
import os
import tempfile
import warnings
from typing import Any, Mapping, Optional, Union

import numpy as np

# The evaluation that the file carries, for `psld verify`: seed of the state, time, label, values that are kept of it.
_SEED, _TIME, _LABEL, _VALUES = 0, 0.5, 0, 64
# The batch that is exported; those that are tried besides, and the times.
_BATCH, _BATCHES, _TIMES = 2, (1, 3), (0.95, 0.2, 0.02)


class _Seen(Exception):
    """Ends a run at its first network call."""


def export(
    network: Any,
    path: Union[str, os.PathLike[str]],
    spec: Union[str, Mapping[str, Any]],
    *,
    time_dtype: str = "float32",
    opset: int = 17,
    tolerance: Optional[float] = None,
) -> None:
    """Writes a ``torch.nn.Module`` as an ONNX model with its spec in it, and checks that it computes the same here.

    ``network(z, t)``, or ``network(z, t, y)`` where the spec has a label input, takes the state ``[n, k*C, ...]``, the times
    ``[n]`` as the spec says that it takes them (with ``time_dtype="int64"`` rounded to whole numbers), and the labels ``[n]``,
    int64. It returns a tensor, a tuple that begins with one, or an object with one in ``sample``, as those of diffusers do. It
    is exported in evaluation mode, for any batch size, with the names that the spec gives its inputs and output; an input that
    it does not look at is kept. A network in float16 stays so, and takes its state so; one in bfloat16 or float64, which ONNX
    Runtime's CPU provider does not compute in, is exported as its copy in float32.

    Needs ``torch`` and ``onnx``. What ONNX Runtime computes must agree with what PyTorch does to ``tolerance`` (by default 1e-4,
    in float16 2e-2), relative to its root mean square: at three batch sizes, at several times, states and labels, and over two
    steps of sampling. Or it is a :class:`psld.ModelError` that says what of the example was baked in, and no file is written.
    """
    import torch

    import psld

    if time_dtype not in ("float32", "int64"):
        raise psld.ArgumentError(100, f"time_dtype = {time_dtype!r}: expected 'float32' or 'int64'")
    spec = dict(json.loads(spec) if isinstance(spec, str) else spec)
    name = os.fspath(path)
    weights = [*network.parameters()] or [*network.buffers()]
    kinds = {weight.dtype for weight in weights if weight.dtype.is_floating_point}
    if any(weight.device.type == "meta" for weight in weights):
        raise psld.ArgumentError(100, "network: its parameters are on the device `meta`, without values")
    if kinds - {torch.float16, torch.float32}:
        network = copy.deepcopy(network).float()
        kinds = {torch.float32}
    half = torch.float16 in kinds
    if tolerance is None:
        tolerance = 2e-2 if half else 1e-4
    device = weights[0].device if weights else "cpu"

    class Plain(torch.nn.Module):  # type: ignore[misc]
        """Tensors in, one tensor out."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.state = self.time = torch.float32

        def forward(self, z: Any, t: Any, *y: Any) -> Any:
            # Traced, a cast is part of the file.
            out = self.network(z, t.to(self.time) if t.is_floating_point() else t, *y)
            out = getattr(out, "sample", out)
            return out[0] if isinstance(out, (tuple, list)) else out

    plain = Plain()

    def tensors(z: np.ndarray, t: np.ndarray, *y: np.ndarray) -> tuple[Any, ...]:
        times = np.rint(t).astype(np.int64) if time_dtype == "int64" else t.astype(np.float32)
        # Copies: the library's arrays are its own.
        arrays = [np.array(z, np.float32), times, *(np.array(labels) for labels in y)]
        first, *rest = (torch.from_numpy(array).to(device) for array in arrays)
        return (first.to(plain.state), *rest)

    def evaluate(*inputs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            out: np.ndarray = plain(*tensors(*inputs)).float().cpu().numpy()
        given = inputs[0].shape
        if out.ndim != len(given) or (out.shape[0], *out.shape[2:]) != (given[0], *given[2:]):
            raise psld.ModelError(203, f"{name}: the network returned {list(out.shape)} for a state of {list(given)}")
        return out

    modes = [(module, module.training) for module in network.modules()]
    # With the network in it: torch sets what it has exported back to the mode in which it came.
    plain.eval()
    try:
        alone, inputs, names, options = _once(psld, spec)
        if half:
            _choose_types(torch, plain, evaluate, inputs)
        golden = _golden(evaluate, inputs, options)
        alike = _Alone(psld, name, evaluate, inputs, tolerance)
        alike.check()
        axes = {name: {0: "batch"} for name in names}
        # In the model's own folder, so that the file moves into place in one step.
        folder = os.path.dirname(os.path.abspath(name))
        with tempfile.TemporaryDirectory(dir=folder, prefix=".psld-export-") as work:
            file = os.path.join(work, "model.onnx")
            example = tensors(*(np.repeat(array, _BATCH, axis=0) for array in inputs))
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                torch.onnx.export(
                    plain, example, file, opset_version=opset, input_names=names[:-1], output_names=names[-1:],
                    dynamic_axes=axes, dynamo=False,
                )  # fmt: skip
            if os.listdir(work) != ["model.onnx"]:
                raise psld.ModelError(
                    200,
                    f"{name}: the network is larger than the 2 GB that an ONNX file holds",
                    "export it in half precision (`network.half()`), or call it as it is: psld.Model(network, spec=spec)",
                )
            _keep_inputs(file, names[:-1], example)
            traced = [w for w in said if issubclass(w.category, torch.jit.TracerWarning)]
            with psld.Model(file, spec=alone) as exported, psld.Model(evaluate, spec=alone, name="torch") as original:
                classes = exported.info["spec"]["network"].get("classes", 0)
                labels = classes if "y" in options else None
                _check(psld, name, exported, original, labels, str(device) == "cpu", tolerance, _hint(traced))
                alike.check_beside(_once(psld, spec, _TIMES[1])[1][1], classes)
            with open(file, "ab") as onnx:
                onnx.write(_metadata("psld.spec", json.dumps(spec)))
                if golden is not None:
                    onnx.write(_metadata("psld.golden", json.dumps(golden)))
            run = {"sampler": "euler", "output": "state", **({"labels": _LABEL} if "y" in options else {})}
            with psld.Model(file) as exported, psld.Model(evaluate, spec=spec, name="torch") as original:
                with exported.sampler("euler", steps=2) as sampler:
                    # The steps of a network that takes whole times begin at such.
                    grid = sampler.plan["grid"]
                found, wanted = (m.sample(_BATCH, time_grid=grid, **run) for m in (exported, original))
            off = _difference(found, wanted)
            if not off <= tolerance:
                raise psld.ModelError(203, f"{name}: two steps through ONNX Runtime {_DIFFER} by {off:.1e} of their size")
            os.replace(file, path)
    finally:
        for module, training in modes:
            module.training = training


_DIFFER = "differ from PyTorch's"


def _choose_types(torch: Any, plain: Any, evaluate: Any, inputs: list[np.ndarray]) -> None:
    """Sets the types that a network in half precision takes its state and times in."""
    half, single = torch.float16, torch.float32
    refused: Optional[RuntimeError] = None
    for plain.state, plain.time in ((half, single), (half, half), (single, single)):
        try:
            evaluate(*inputs)
            return
        except RuntimeError as error:
            refused = refused or error
    assert refused is not None
    raise refused


class _Alone:
    """The network in PyTorch: whether it is a function of a sample, its time and its label, and of nothing else."""

    def __init__(self, psld: Any, name: str, evaluate: Any, inputs: list[np.ndarray], tolerance: float) -> None:
        self.psld, self.name, self.evaluate, self.tolerance = psld, name, evaluate, tolerance
        shape = inputs[0].shape[1:]
        self.inputs = [np.stack([psld.noise(seed, "probe", 0, shape) for seed in range(3)])]
        self.inputs += [np.repeat(array, 3) for array in inputs[1:]]

    def check(self) -> None:
        if not _difference(*(self.evaluate(*self.inputs) for _ in range(2))) <= self.tolerance:
            raise self.psld.ModelError(
                203, f"{self.name}: the network gives other values each time that PyTorch calls it",
                "there is noise in it, or dropout that evaluation mode does not switch off, as of torch.nn.functional",
            )  # fmt: skip
        if not self._alike(self.inputs):
            raise self.psld.ModelError(
                203, f"{self.name}: what the network gives for a sample depends on the samples beside it",
                "it takes statistics of the batch that evaluation mode does not switch off, or chooses by the whole batch",
            )  # fmt: skip

    def check_beside(self, time: np.ndarray, classes: int) -> None:
        """With samples of another time, or of other labels, in one batch."""
        states, times, *labels = self.inputs
        mixed = [("time", [states, np.concatenate([times[:1], time, times[:1]]), *labels])]
        if labels:
            mixed += [("label", [states, times, np.arange(3) % max(classes, 1)])]
        for what, inputs in mixed:
            if not self._alike(inputs):
                raise self.psld.ModelError(
                    203, f"{self.name}: the network takes the {what} of one sample for all of a batch",
                    "samples of a batch have times and labels of their own: use the whole array, of shape [n]",
                )  # fmt: skip

    def _alike(self, inputs: list[np.ndarray]) -> bool:
        rows = [self.evaluate(*(array[i : i + 1] for array in inputs)) for i in range(len(inputs[0]))]
        return _difference(self.evaluate(*inputs), np.concatenate(rows)) <= self.tolerance


def _keep_inputs(file: str, names: list[str], example: tuple[Any, ...]) -> None:
    """Puts back the inputs that the graph does not use and so has lost."""
    import onnx

    model = onnx.load(file)
    kept = {port.name for port in model.graph.input}
    if kept.issuperset(names):
        return
    kinds = {"float16": onnx.TensorProto.FLOAT16, "float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}
    for name, tensor in zip(names, example):
        if name not in kept:
            kind = kinds[str(tensor.dtype).removeprefix("torch.")]
            model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, ["batch", *tensor.shape[1:]]))
    onnx.save(model, file)


def _check(
    psld: Any, name: str, exported: Any, original: Any, classes: Optional[int], on_cpu: bool, tolerance: float, hint: str
) -> None:
    """Compares single evaluations, first where the network was traced, then with one thing changed at a time."""

    def state(seeds: list[int]) -> np.ndarray:
        return np.stack([psld.noise(seed, "probe", 0, original.state_shape) for seed in seeds])

    here = state([_SEED] * _BATCH)
    label = [_LABEL] * _BATCH
    others = [(_LABEL + 1 + i) % max(classes or 0, 1) for i in range(_BATCH)]
    checks = [("", here, _TIME, label)]
    checks += [(" for other states: a choice that looks at the state is baked in", state([s, s + 1]), _TIME, label) for s in (1, 3)]
    checks += [(f" at t = {t}: the time of the example, {_TIME}, is baked in", here, t, label) for t in _TIMES]
    if classes is not None:
        checks += [(f" for labels {others}: the label of the example, {_LABEL}, is baked in", here, _TIME, others)]
        # The null class of guidance, of a network that has it. On a GPU a label that it lacks would end the process.
        if on_cpu and _takes(original, here, classes):
            checks += [(" for the null class: another label is baked in", here, _TIME, [_LABEL, classes])]
    checks += [
        (f" in a batch of {n}: the batch of the example, {_BATCH}, is baked in", state(list(range(n))), _TIME, [_LABEL] * n)
        for n in _BATCHES
    ]
    for what, states, t, labels in checks:
        given = labels if classes is not None else None
        wanted = _output(original, states, t, given)
        try:
            found = _output(exported, states, t, given)
        except psld.PsldError as error:
            if not what:
                raise
            said = str(error).splitlines()[0]
            raise psld.ModelError(203, f"{name}: the exported network fails{what} ({said})", hint) from None
        off = _difference(found, wanted)
        if not off <= tolerance:
            message = f"{name}: outputs through ONNX Runtime {_DIFFER} by {off:.1e} of their size{what}"
            raise psld.ModelError(203, message, hint)


def _takes(model: Any, states: np.ndarray, label: int) -> bool:
    try:
        _output(model, states, _TIME, [label] * len(states))
    except Exception:  # Whatever a network of the caller's raises.
        return False
    return True


def _output(model: Any, states: np.ndarray, t: float, labels: Optional[list[int]]) -> np.ndarray:
    """What the network gives for states at a time, in the first blocks of a state."""
    with model.sampler("euler", steps=1, t_start=t, t_end=t / 2, denoise=False) as sampler:
        plan = sampler.plan
    # Of the step is left what it adds: the output as it is.
    update = plan["rows"][-1]
    update["A"] = np.zeros_like(update["A"]).tolist()
    update["terms"] = [[slot, np.eye(*np.shape(b)).tolist()] for slot, b in update["terms"]]
    with model.sampler_of_plan(plan) as sampler:
        n = len(states)
        out: np.ndarray = model.sample(n, sampler=sampler, init=states, output="state", labels=labels, batch=n)
    return out


def _difference(found: np.ndarray, wanted: np.ndarray) -> float:
    size = float(np.sqrt(np.mean(np.square(wanted, dtype=np.float64))))
    largest = float(np.abs(found.astype(np.float64) - wanted).max())
    return largest if size == 0.0 else largest / size


def _hint(traced: list[Any]) -> str:
    """Where PyTorch saw that something of the example went into the graph."""
    if not traced:
        return "a branch or loop of Python's that depends on the input is exported as it went once"
    first = traced[0]
    said = str(first.message).split(". ")[0]
    return f"{os.path.basename(first.filename)}:{first.lineno}: {said}"


def _once(
    psld: Any, spec: dict[str, Any], time: float = _TIME
) -> tuple[dict[str, Any], list[np.ndarray], list[str], dict[str, Any]]:
    """The spec of the network on its own path, the network's inputs there at one state and time, the names of inputs and output,
    and what of this evaluation the golden one tells."""
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
            model.sample(1, sampler="euler", steps=1, t_start=time, init=state, **options)
        except _Seen:
            pass
    names = [described["state_input"], described["time_input"], *([described["label_input"]] if labelled else [])]
    told = {"seed": _SEED, "t": time, **({"y": _LABEL} if labelled else {}), "own": bool(np.array_equal(seen[0], state))}
    return alone, seen, [*names, described["output"]], told


def _golden(evaluate: Any, inputs: list[np.ndarray], told: dict[str, Any]) -> Optional[dict[str, Any]]:
    """The golden evaluation, or ``None`` where the network's input is not the state itself."""
    own = told.pop("own")
    if not own:
        return None
    out = evaluate(*inputs).ravel()
    count = min(out.size, _VALUES)
    indices = [i * out.size // count for i in range(count)]
    rms = float(np.sqrt(np.mean(np.square(out, dtype=np.float64))))
    return {"format": 1, **told, "indices": indices, "values": [float(out[i]) for i in indices], "rms": rms}


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
