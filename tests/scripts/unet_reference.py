#!/usr/bin/env python3
"""Writes tests/data/onnx/unet.json: what the tiny U-Net of tests/onnx.rs computes, by plain numpy in float64.

    cargo test --test onnx -- --ignored export --nocapture      # prints the folder
    pip install onnx numpy
    python tests/scripts/unet_reference.py FOLDER

Reads only the weights, by name, from FOLDER/unet_tiny.onnx; the architecture is written down again here, with
loops for convolutions and the textbook form of each layer. The file is {"z" [n][channels*size*size], "t" [n],
"eps" [n][...]}, inputs exactly representable in float32.
"""
import json
import pathlib
import sys

import numpy as np
import onnx
from onnx import numpy_helper

SIZE, WIDTH, LEVELS, BLOCKS, ATTENTION = 8, 8, [1, 2], 1, 4
model = onnx.load(pathlib.Path(sys.argv[1]) / "unet_tiny.onnx")
W = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}

silu = lambda x: x / (1 + np.exp(-x))
linear = lambda name, x: W[name + ".weight"] @ x + W[name + ".bias"]


def conv(name, x, stride=1):
    weight, bias = W[name + ".weight"], W[name + ".bias"]
    out, _, k, _ = weight.shape
    size = x.shape[1] // stride
    padded = np.pad(x, [(0, 0), (k // 2, k // 2), (k // 2, k // 2)])
    y = np.empty((out, size, size))
    for i in range(size):
        for j in range(size):
            patch = padded[:, i * stride : i * stride + k, j * stride : j * stride + k]
            y[:, i, j] = np.tensordot(weight, patch, 3) + bias
    return y


def norm(name, x):
    groups = x.shape[0] // 4
    parts = x.reshape(groups, -1)
    parts = (parts - parts.mean(1, keepdims=True)) / np.sqrt(parts.var(1, keepdims=True) + 1e-6)
    return parts.reshape(x.shape) * W[name + ".scale"] + W[name + ".bias"]


def block(name, x, time):
    h = conv(name + ".conv0", silu(norm(name + ".norm0", x)))
    h = h + linear(name + ".time", time)[:, None, None]
    h = conv(name + ".conv1", silu(norm(name + ".norm1", h)))
    if name + ".shortcut.weight" in W:
        x = conv(name + ".shortcut", x)
    return (x + h) / np.sqrt(2)


def attention(name, x):
    C = x.shape[0]
    q, k, v = conv(name + ".qkv", norm(name + ".norm", x)).reshape(3, C, -1)
    w = np.exp(np.einsum("cp,cq->pq", q, k) / np.sqrt(C))
    w /= w.sum(1, keepdims=True)
    return (x + conv(name + ".out", np.einsum("pq,cq->cp", w, v).reshape(x.shape))) / np.sqrt(2)


def unet(z, t):
    rates = 100 ** (np.arange(WIDTH // 2) / (WIDTH // 2 - 1))
    time = np.concatenate([np.sin(t * rates), np.cos(t * rates)])
    time = silu(linear("time.1", silu(linear("time.0", time))))
    maybe = lambda name, h: attention(name + ".attention", h) if h.shape[1] == ATTENTION else h
    h = conv("stem", z)
    skips = [h]
    for level in range(len(LEVELS)):
        for i in range(BLOCKS):
            name = f"down{level}.{i}"
            h = maybe(name, block(name, h, time))
            skips.append(h)
        if level + 1 < len(LEVELS):
            h = conv(f"down{level}.halve", h, stride=2)
            skips.append(h)
    h = block("middle.1", attention("middle.attention", block("middle.0", h, time)), time)
    for level in reversed(range(len(LEVELS))):
        for i in range(BLOCKS + 1):
            name = f"up{level}.{i}"
            h = maybe(name, block(name, np.concatenate([h, skips.pop()]), time))
        if level:
            h = conv(f"up{level}.double", h.repeat(2, 1).repeat(2, 2))
    return W["skip"] * z + conv("out", silu(norm("out.norm", h)))


rng = np.random.default_rng(0)
t = np.float32([1e-3, 0.2, 1.0]).astype(float)
z = rng.standard_normal((3, 6, SIZE, SIZE)).astype(np.float32).astype(float)
eps = np.stack([unet(*inputs) for inputs in zip(z, t)])
out = pathlib.Path(__file__).parents[1] / "data" / "onnx" / "unet.json"
rows = lambda a: [list(row.ravel()) for row in a]
out.write_text(json.dumps({"z": rows(z), "t": list(t), "eps": rows(np.round(eps, 10))}) + "\n")
print(out, out.stat().st_size, "bytes; rms of eps - skip z:", np.std(eps - W["skip"] * z))
