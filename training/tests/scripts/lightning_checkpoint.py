"""Makes a checkpoint like those that PyTorch Lightning writes, without PyTorch.

    python3 lightning_checkpoint.py WEIGHTS.safetensors OUT.ckpt TRAP

The averaged parameters are the weights, the raw ones their halves. Beside them, as in real checkpoints, are objects
of classes that no reader has; one of them would create the file TRAP if a reader executed what the pickle says.
"""

import array
import io
import json
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict


def module(name, **names):
    """Makes `names` picklable by reference, as if they came from a package that is not installed."""
    package, _, _ = name.rpartition(".")
    sys.modules.setdefault(package or name, types.ModuleType(package))
    sys.modules[name] = module = types.ModuleType(name)
    for key, value in names.items():
        value.__module__, value.__qualname__, value.__name__ = name, key, key
        setattr(module, key, value)


class FloatStorage:
    def __init__(self, key, values):
        self.key, self.values = key, values


class Tensor:
    """Transposed if it is a matrix, so that strides matter."""

    def __init__(self, key, values, shape):
        self.shape, self.stride = shape, [0] * len(shape)
        step = 1
        for axis in reversed(range(len(shape))):
            self.stride[axis] = step
            step *= shape[axis]
        if len(shape) == 2:
            rows, columns = shape
            values = array.array("f", [values[r * columns + c] for c in range(columns) for r in range(rows)])
            self.stride = [1, rows]
        # In real checkpoints tensors may share a storage; here each begins three elements into its own.
        self.storage = FloatStorage(key, array.array("f", [7.0] * 3) + values)

    def __reduce__(self):
        return rebuild, (self.storage, 3, tuple(self.shape), tuple(self.stride), False, OrderedDict())


def rebuild():
    pass


class Callback:
    def __init__(self):
        self.best = 0.1


class Settings(dict):
    pass


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return subprocess.check_call, (["touch", self.path],)


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, FloatStorage):
            return ("storage", FloatStorage, value.key, "cuda:0", len(value.values))


def main():
    weights, out, trap = sys.argv[1:]
    module("torch", FloatStorage=FloatStorage)
    module("torch._utils", _rebuild_tensor_v2=rebuild)
    module("pytorch_lightning.callbacks", Callback=Callback)
    module("omegaconf.dictconfig", Settings=Settings)

    with open(weights, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header, data = json.loads(file.read(length)), file.read()
    state, storages = OrderedDict(), []
    for prefix, gain in (("score_fn.", 0.5), ("ema_score_fn.", 1.0)):
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            values = array.array("f", data[start:end])
            tensor = Tensor(str(len(storages)), array.array("f", [gain * x for x in values]), entry["shape"])
            storages.append(tensor.storage)
            state[prefix + name] = tensor
    checkpoint = {
        "epoch": 3,
        "pytorch-lightning_version": "1.5.0",
        "state_dict": state,
        "callbacks": {Callback: Callback()},
        "hyper_parameters": Settings(lr=2e-4, trap=Trap(trap)),
    }
    text = io.BytesIO()
    Pickler(text, protocol=2).dump(checkpoint)
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", text.getvalue())
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.values.tobytes())
        archive.writestr("archive/version", "3\n")


if __name__ == "__main__":
    main()
