"""Measures samplers on the networks of models/study/ and on exact mixtures: what the table in src/solver/auto.rs is made from.

Every deterministic sampler, order and grid that the probe chooses from, at each number of network calls, against RK45 at 1e-6
from the same starts, along every kind of path. For each it prints how many times the error of the best a sampler has, at the worst
and in the geometric mean of the fitted networks, and at the worst of the others, on which nothing was fitted (of samples with few
elements, two mixtures in one dimension). The error is the median over the samples of the root mean square distance.

    PYTHONPATH=... python3 tests/scripts/auto_table.py [PATHS ...]      # psld in Python, with numpy and onnx; half an hour
"""

import itertools
import json
import math
import pathlib
import sys

import numpy as np
import onnx
import psld

STUDY = pathlib.Path(__file__).resolve().parents[2] / "models" / "study"
MIXTURES = {
    "wide": {"weights": [0.3, 0.5, 0.2], "means": [[-1.2], [0.3], [1.5]], "variances": [0.25, 0.16, 0.09]},
    "narrow": {"weights": [0.4, 0.35, 0.25], "means": [[-0.7], [0.1], [0.8]], "variances": [0.01, 0.02, 0.015]},
}
# (fitted, others): of samples with many elements, and with few.
NETWORKS = {
    "many": (["fashion-vp", "actions-cosine"], ["digits-ddpm", "mnist-edm"]),
    "few": (["checkerboard-flow"], ["wide", "narrow"]),
}
PATHS = {
    "vp": [{"kind": "vp"}, {"kind": "ddpm"}],
    "flow": [{"kind": "flow"}, {"kind": "ddpm", "schedule": "cosine", "entries": 100}],
    "edm": [{"kind": "edm"}],
    "ve": [{"kind": "ve"}],
    "phase": [{"kind": "psld"}, {"kind": "cld"}],
}
CALLS = [5, 8, 10, 15, 20, 30]
GRIDS = ["quadratic", "order2", "order2.5", "log_snr", "logistic", "karras", "uniform"]
SAMPLERS = [("unipc", 2), ("unipc", 3), ("dpmpp", 2), ("dpmpp", 3), ("gddim", 1), ("gddim", 2), ("gddim", 3)]
SAMPLERS += [("unipc", 1), ("unipc", 4), ("heun", None), ("exp_heun", None), ("rvv", None)]


def model(name, process):
    """The network or mixture, driven along `process`."""
    if name in MIXTURES:
        spec = {"format": 1, "process": process, "data": {"shape": [1]}, "network": {}}
        return psld.Model(json.dumps({"psld.spec": spec, "mixture": MIXTURES[name]}).encode(), threads=1)
    path = STUDY / f"{name}.onnx"
    spec = json.loads({p.key: p.value for p in onnx.load(path).metadata_props}["psld.spec"])
    if spec["process"]["kind"] != process["kind"]:
        spec["network"]["process"], spec["process"] = spec["process"], process
    return psld.Model(path, spec=spec, threads=1)


def errors(name, process):
    """By (calls, sampler, order, grid)."""
    network, n = model(name, process), 256 if name in MIXTURES else 64
    exact = network.sample(n, sampler="rk45", rtol=1e-6, atol=1e-6).astype(float)
    found = {}
    for calls, (sampler, order), grid in itertools.product(CALLS, SAMPLERS, GRIDS):
        options = {"sampler": sampler, "order": order, "time_grid": grid, "nfe": calls}
        try:
            x = network.sample(n, **{key: value for key, value in options.items() if value is not None})
        except psld.PsldError:  # Not for this process, or not in so few steps.
            continue
        apart = np.sqrt(((x - exact) ** 2).reshape(n, -1).mean(axis=1))
        found[calls, sampler, order, grid] = float(np.median(apart))
    return found


def main(kinds):
    for kind, (size, groups) in itertools.product(kinds or PATHS, NETWORKS.items()):
        fitted, others = ([errors(name, process) for name in names for process in PATHS[kind]] for names in groups)
        for calls in CALLS:

            def ratios(found, key):
                least = [min(error for (c, *_), error in of.items() if c == calls) for of in found]
                return [of.get(key, math.inf) / best for of, best in zip(found, least)]

            keys = {key for of in fitted for key in of if key[0] == calls}
            mean = {key: math.exp(np.mean(np.log(ratios(fitted, key)))) for key in keys}
            for key in sorted(keys, key=mean.get)[:4]:
                worst, other = max(ratios(fitted, key)), max(ratios(others, key))
                print(
                    f"{kind}, {size} elements, {calls} calls: {key[1]} {key[2] or ''} {key[3]}:"
                    f" fitted {mean[key]:.2f}, at worst {worst:.2f}; others at worst {other:.2f}",
                    flush=True,
                )


main(sys.argv[1:])
