#!/usr/bin/env python3
"""Writes tests/data/evaluation/reference.json and statistics.npz: figures of src/evaluation by numpy and scipy.

    pip install numpy==2.4.6 scipy==1.17.1
    python tests/scripts/evaluation_reference.py

Every figure is computed from its definition, by other means than the library's: the Frechet distance with scipy's
matrix square root, precision and recall over full float64 distance matrices, the energy distance with cdist, copying
with the U statistic of Mann and Whitney. Intervals repeat the documented draws (Philox, noise_reference.py's) and
recompute the figure on the drawn samples themselves; only the energy distance's leave out pairs of a sample with its own
repetition, as documented.
"""
import json
import pathlib
import zipfile

import numpy as np
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE.parent / "data" / "evaluation"
SEED, RESAMPLES = 11, 50
M32 = 0xFFFFFFFF


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & M32, (p0 >> 32) ^ c[3] ^ k[1], p0 & M32]
        k = [(k[0] + 0x9E3779B9) & M32, (k[1] + 0xBB67AE85) & M32]
    return c


assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def words(count, draw, purpose):
    blocks = (philox([b, draw, purpose, 0], [SEED & M32, SEED >> 32]) for b in range((count + 3) // 4))
    return [w for block in blocks for w in block][:count]


def resample(n, number):
    return np.array([w * n >> 32 for w in words(n, number, 32)])


def subset(count, n, which):
    order = list(range(n))
    for i, w in enumerate(words(count, which, 33)):
        j = i + (w * (n - i) >> 32)
        order[i], order[j] = order[j], order[i]
    return sorted(order[:count])


def figure(value, again, bias=0):
    low, high = np.quantile(again, [0.025, 0.975]) - bias
    return {"value": float(value), "low": float(low), "high": float(high)}


def resampled(of, x, biased=False):
    value, again = of(x), np.array([of(x[resample(len(x), r)]) for r in range(RESAMPLES)])
    return figure(value, again, again.mean() - value if biased else 0)


def gaussian(x):
    return x.mean(0), np.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1])


def frechet(reference, x):
    (m, c), (n, d) = reference, gaussian(x)
    # The roots of the eigenvalues of a product: sqrtm itself fails on singular matrices.
    root = np.sqrt(np.maximum(np.linalg.eigvals(c @ d).real, 0)).sum()
    if min(np.linalg.matrix_rank(c), np.linalg.matrix_rank(d)) == len(m):
        assert abs(sqrtm(c @ d).real.trace() - root) < 1e-8
    return ((m - n) ** 2).sum() + np.trace(c) + np.trace(d) - 2 * root


def inside(x, manifold, k):
    radii = np.sort(cdist(manifold, manifold), 1)[:, k]  # column 0 is the point itself
    return (cdist(x, manifold) <= radii).any(1).astype(float)


def energy(x, y, kept=None):
    """`kept`: which sample each row of x is, where rows are repeated."""
    kept = np.arange(len(x)) if kept is None else kept
    unit = x.shape[1] ** -0.5
    xx, yy = cdist(x, x), cdist(y, y)
    others = kept[:, None] != kept[None]
    m = len(y)
    return unit * (2 * cdist(x, y).mean() - xx[others].mean() - yy.sum() / (m * (m - 1)))


def nearest(x, y):
    return cdist(x, y).min(1) * x.shape[1] ** -0.5


def mann_whitney(samples, held_out):
    # P(held out > sample) + P(equal) / 2.
    return mannwhitneyu(held_out, samples).statistic / (len(samples) * len(held_out))


rng = np.random.default_rng(5)
f32 = lambda x: x.astype(np.float32).astype(np.float64)
cases = []
for name, n, m, dim, shift in [("plain", 40, 60, 6, 0.4), ("singular", 8, 9, 12, 1.0), ("far", 40, 50, 3, 0.0)]:
    mixing = rng.normal(size=(dim, dim)) / 2 + np.eye(dim)
    offset = 100 if name == "far" else 0
    train = f32(rng.normal(size=(m, dim)) @ mixing + offset)
    test = f32(rng.normal(size=(45 if n == 40 else 12, dim)) @ mixing + offset)
    samples = f32(1.2 * rng.normal(size=(n, dim)) @ mixing + shift + offset)
    samples[0] = train[3]  # a copy
    k = 3
    reference = gaussian(train)
    compared = train[subset(min(n, m), m, 0)]
    floor = test[subset(min(n, len(test)), len(test), 1)]

    def row(of):
        return {**of(samples), "floor": of(floor)}

    def energies(x):
        drawn = [resample(len(x), r) for r in range(RESAMPLES)]
        return figure(energy(x, compared), [energy(x[i], compared, i) for i in drawn])

    def share(values):
        return resampled(lambda v: v.mean(), values)

    away, held_out = nearest(samples, train), nearest(floor, train)

    def copying(distances):
        of = lambda d: mann_whitney(d, held_out)
        return resampled(of, distances)

    cases.append({
        "name": name, "dim": dim, "neighbours": k,
        "samples": samples.ravel().tolist(), "train": train.ravel().tolist(), "test": test.ravel().tolist(),
        "report": {
            "samples": n, "floor_images": len(floor), "compared_images": len(compared),
            "frechet_distance": row(lambda x: resampled(lambda x: frechet(reference, x), x, biased=True)),
            "precision": row(lambda x: share(inside(x, compared, k))),
            "recall": row(lambda x: share(inside(compared, x, k))),
            "energy_distance": row(energies),
            "nearest_training": {**resampled(np.median, away), "floor": resampled(np.median, held_out)},
            "copying": {**copying(away), "floor": copying(held_out)},
        },
    })
OUT.mkdir(exist_ok=True)
text = json.dumps({"seed": SEED, "resamples": RESAMPLES, "cases": cases})
(OUT / "reference.json").write_text(text.replace('{"name"', '\n{"name"') + "\n")

# Statistics as numpy itself writes them, for the reader.
about = {"format": 1, "model": "f.onnx", "sha256": "00ff", "output": "features", "shape": [1, 2, 2], "range": [-1, 1]}
np.savez(OUT / "statistics.npz", mean=np.array([0.5, -1.0]), covariance=np.array([[2.0, 0.25], [0.25, 1.0]]), count=7)
with zipfile.ZipFile(OUT / "statistics.npz", "a") as archive:
    archive.writestr("about.json", json.dumps(about))
