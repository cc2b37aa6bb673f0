"""Writes tests/data/train_step.json: loss, gradient and two optimiser steps of a small MLP, in float64 numpy.

A transcription of docs/methods.md (the kernel), of the objective of arXiv 2303.01748 and of the network as its documentation has it; nothing
is shared with the crate. Gradients by the complex step, f'(x) = Im f(x + ih) / h, which is exact to rounding.

    python3 training/tests/scripts/train_step.py
"""
import json
import pathlib

import numpy as np

WIDTH, BATCH = 4, 3
SHAPES = [("time.W", (WIDTH,)), ("time.0.weight", (WIDTH, 2 * WIDTH)), ("time.0.bias", (WIDTH,)),
          ("time.1.weight", (WIDTH, WIDTH)), ("time.1.bias", (WIDTH,)),
          ("input.weight", (WIDTH, 2)), ("input.bias", (WIDTH,)),
          ("blocks.0.0.weight", (WIDTH, WIDTH)), ("blocks.0.0.bias", (WIDTH,)),
          ("blocks.0.time.weight", (WIDTH, WIDTH)), ("blocks.0.time.bias", (WIDTH,)),
          ("blocks.0.1.weight", (WIDTH, WIDTH)), ("blocks.0.1.bias", (WIDTH,)),
          ("output.weight", (2, WIDTH)), ("output.bias", (2,))]
COUNT = sum(int(np.prod(s)) for _, s in SHAPES)
GAMMA, NU, KAPPA, BETA, EPS = 0.01, 4.01, 0.04, 8.0, 1e-9


def kernel(t):
    """The mean's column S(x0, 0) and the lower factor of the HSM covariance, as published."""
    b, d, k = BETA * t, GAMMA - NU, (GAMMA - NU) ** 2 / 4
    m, c, delta = 1 / k, (GAMMA + NU) / 2, (NU - GAMMA) / 2
    v = KAPPA * m
    e = np.exp(c * b)
    xx = (v * k * k * b * b / 4 - k * b * b / 2 + d * b / 2 + (e - 1)) / e + EPS
    xm = (v * (k * b / 2 + k * d * b * b / 8) - d * b * b / 4) / e
    mm = (v * (1 + d * b / 2 + k * b * b / 4) - b * b / 2 - m * d * b / 2 + m * (e - 1)) / e + EPS
    mean = np.exp(-c * b / 2) * np.array([1 + delta * b / 2, -b / 2])
    return mean, np.linalg.cholesky(np.array([[xx, xm], [xm, mm]]))


def silu(x):
    return x / (1 + np.exp(-x))


def loss(flat, x0, eps, t):
    p, at = {}, 0
    for name, shape in SHAPES:
        size = int(np.prod(shape))
        p[name], at = flat[at:at + size].reshape(shape), at + size

    def dense(name, x):
        return x @ p[name + ".weight"].T + p[name + ".bias"]

    z = np.array([mean * x + factor @ e for (mean, factor), x, e in zip(map(kernel, t), x0, eps)])
    angles = np.log(t)[:, None] * p["time.W"][None] * 2 * np.pi
    time = silu(dense("time.1", silu(dense("time.0", np.concatenate([np.sin(angles), np.cos(angles)], 1)))))
    h = dense("input", z)
    h = h + dense("blocks.0.1", silu(dense("blocks.0.0", silu(h)) + dense("blocks.0.time", time)))
    error = dense("output", silu(h)) - eps
    return (error * error).mean()


def gradient(flat, *batch):
    step = 1e-30
    out = np.zeros(COUNT)
    for i in range(WIDTH, COUNT):  # the frequencies are not trained
        shifted = flat.astype(complex)
        shifted[i] += 1j * step
        out[i] = loss(shifted, *batch).imag / step
    return out


def main():
    flat = 0.6 * np.sin(1.0 + np.arange(COUNT))
    flat[:WIDTH] = [0.05, -0.1, 0.2, 0.3]
    x0, t = np.array([0.3, -0.7, 0.9]), np.array([0.02, 0.3, 0.9])
    eps = np.array([[0.5, -1.2], [1.5, 0.2], [-0.4, 0.8]])
    batch = (x0, eps, t)
    first = gradient(flat, *batch)
    out = {"weights": flat.tolist(), "x0": x0.tolist(), "eps": eps.tolist(), "t": t.tolist(),
           "names": [name for name, _ in SHAPES], "loss": loss(flat, *batch), "gradient": first.tolist()}
    lr, warmup, clip, decay, b1, b2 = 0.01, 2, 0.1, 0.9, 0.9, 0.999
    ema, m, v = flat.copy(), np.zeros(COUNT), np.zeros(COUNT)
    norms = []
    for step in range(3):
        g = gradient(flat, *batch)
        norm = np.linalg.norm(g)
        norms.append(norm)
        g = g * min(1.0, clip / (norm + 1e-6))
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        corrected = m / (1 - b1 ** (step + 1)), v / (1 - b2 ** (step + 1))
        flat = flat - lr * min(step / warmup, 1.0) * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        ema = decay * ema + (1 - decay) * flat
    out.update(norms=norms, after=flat.tolist(), ema=ema.tolist())
    path = pathlib.Path(__file__).parent.parent / "data" / "train_step.json"
    path.write_text(json.dumps(out) + "\n")


main()
