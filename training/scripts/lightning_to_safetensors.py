"""Writes the tensors of a PyTorch (Lightning) checkpoint to standard output, as safetensors.

    python3 lightning_to_safetensors.py CHECKPOINT.ckpt > checkpoint.safetensors

Needs nothing but Python. A checkpoint is a pickle, and a pickle is a program; here only tensors and containers are
real. Every other class or function that it names becomes an inert stub: nothing is imported and nothing is called.
"""

import json
import math
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from typing import NamedTuple

# The safetensors name and the size of what each torch storage class holds.
STORAGES = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}


class Storage(NamedTuple):
    kind: str
    key: str


class Tensor(NamedTuple):
    storage: Storage
    offset: int
    shape: tuple
    stride: tuple


class Inert:
    """Stands for anything: takes every argument, state and item, and does nothing with them."""

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def ignore(self, *args, **kwargs):
        pass

    __call__ = __setstate__ = __setitem__ = append = extend = add = ignore


def rebuild_tensor(storage, offset, shape, stride, *rest):
    return Tensor(storage, offset, tuple(shape), tuple(stride))


def rebuild_parameter(tensor, *rest):
    return tensor


class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return rebuild_tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return rebuild_parameter
        return type(name, (Inert,), {})

    def persistent_load(self, reference):
        _, storage, key, _location, _count = reference
        return Storage(storage.__name__, key)


def contents(data, size, tensor):
    """The bytes of a tensor in row-major order; `data` is its storage, of elements of `size` bytes."""
    row_major, expected = 1, []
    for length in reversed(tensor.shape):
        expected.insert(0, row_major)
        row_major *= length
    if all(length == 1 or a == b for length, a, b in zip(tensor.shape, tensor.stride, expected)):
        return data[tensor.offset * size : (tensor.offset + row_major) * size]
    places = [tensor.offset]
    for length, stride in zip(tensor.shape, tensor.stride):
        places = [place + i * stride for place in places for i in range(length)]
    return b"".join(data[place * size : (place + 1) * size] for place in places)


def main():
    (path,) = sys.argv[1:]
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        sys.exit("not a zip archive, as PyTorch writes since version 1.6: damaged, or older than that")
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        sys.exit("a zip archive, but not one that torch.save wrote: it holds no data.pkl")
    root = pickles[0][: -len("data.pkl")]
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
        sys.exit("written on a big-endian machine, which is not supported")
    with archive.open(pickles[0]) as file:
        try:
            checkpoint = Unpickler(file).load()
        except Exception as error:  # whatever a damaged pickle makes the unpickler raise
            sys.exit(f"its pickle cannot be read: {error}")
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        sys.exit("it holds no tensors by name, neither in a state_dict nor at its top")

    header, end = {}, 0
    for name, tensor in tensors.items():
        if tensor.storage.kind not in STORAGES:
            sys.exit(f"{name}: tensors over {tensor.storage.kind} are not supported")
        dtype, size = STORAGES[tensor.storage.kind]
        start, end = end, end + math.prod(tensor.shape) * size
        header[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out = sys.stdout.buffer
    out.write(struct.pack("<Q", len(text)) + text)
    for name, tensor in tensors.items():
        start, end = header[name]["data_offsets"]
        data = archive.read(f"{root}data/{tensor.storage.key}")
        values = contents(data, STORAGES[tensor.storage.kind][1], tensor)
        if len(values) != end - start:
            sys.exit(f"{name}: its storage ends before it does")
        out.write(values)


if __name__ == "__main__":
    main()
