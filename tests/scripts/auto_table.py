"""Measures samplers on the networks of models/study/ and on exact mixtures: what the table in src/solver/auto.rs is made from.

Every deterministic sampler, order and grid that `psld study --ratios` compares, at each number of network calls, against RK45 at
1e-6 from the same starts, along every kind of path. A sampler's error is the median over the samples of the root mean square
distance; its ratio is to the least error of all on that network, path and number of calls. For each kind of path and data it prints

- the rows with the least geometric mean of the ratios, times the square root of the worst,
- what `auto` has, and
- left out: the ratios on each network of the row that the other networks would choose, which is what to expect on a new one.

    PYTHONPATH=... python3 tests/scripts/auto_table.py OUT [PATHS ...]      # psld in Python, numpy and onnx; ten minutes

Errors are kept in OUT, so that a second start goes on.
"""

import itertools
import json
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
NETWORKS = {
    "images": ["fashion-vp", "digits-ddpm", "mnist-edm", "cifar-flow"],
    "sequences": ["actions-cosine", "reaches-ddpm"],
    "points": ["checkerboard-flow", "wide", "narrow"],
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
    own = spec["process"]
    if (own["kind"], own.get("schedule", "linear")) != (process["kind"], process.get("schedule", "linear")):
        spec["network"]["process"], spec["process"] = own, process
    return psld.Model(path, spec=spec, threads=1)


def measure(name, process):
    """By `calls sampler order grid`."""
    network, n = model(name, process), 256 if name in MIXTURES else 128
    exact = network.sample(n, sampler="rk45", rtol=1e-6, atol=1e-6).astype(float)
    found = {}

    def add(key, **options):
        try:
            x = network.sample(n, **{name: value for name, value in options.items() if value is not None})
        except psld.PsldError:  # Not for this process, or not in so few steps.
            return
        found[key] = float(np.median(np.sqrt(((x - exact) ** 2).reshape(n, -1).mean(axis=1))))

    for calls in CALLS:
        for (sampler, order), grid in itertools.product(SAMPLERS, GRIDS):
            options = {"sampler": sampler, "order": order, "time_grid": grid, "nfe": calls}
            add(f"{calls} {sampler} {order or 0} {grid}", **options)
        add(f"{calls} auto", sampler="auto", nfe=calls)
    return found


def ratios(out, name, process):
    """By calls, then by sampler, order and grid, to the best of all but `auto`."""
    path = out / f"{name}-{process['kind']}{'-cosine' * ('schedule' in process)}.json"
    if not path.exists():
        path.write_text(json.dumps(measure(name, process), indent=1))
    errors = {}
    for key, error in json.loads(path.read_text()).items():
        calls, _, rest = key.partition(" ")
        errors.setdefault(int(calls), {})[rest] = error
    least = {calls: min(e for key, e in found.items() if key != "auto") for calls, found in errors.items()}
    return {calls: {key: e / least[calls] for key, e in found.items()} for calls, found in errors.items()}


def summary(cases, key):
    """Geometric mean and worst ratio."""
    each = [case.get(key, 1e3) for case in cases]
    return float(np.exp(np.mean(np.log(each)))), max(each)


def ranked(cases):
    keys = set.union(*map(set, cases)) - {"auto"}
    cost = {key: mean * worst**0.5 for key in keys for mean, worst in [summary(cases, key)]}
    return sorted(cost, key=cost.get)


def main(out, kinds):
    out.mkdir(parents=True, exist_ok=True)
    for kind, (data, names) in itertools.product(kinds or PATHS, NETWORKS.items()):
        found = {name: [ratios(out, name, process) for process in PATHS[kind]] for name in names}
        for calls in CALLS:
            of = {name: [case[calls] for case in cases] for name, cases in found.items()}
            every = sum(of.values(), [])
            print(f"{kind}, {data}, {calls} calls: mean and worst ratio")
            for key in ranked(every)[:4]:
                print("    {} {:.2f} {:.2f}".format(key, *summary(every, key)))
            print("    auto {:.2f} {:.2f}".format(*summary(every, "auto")))
            left = []
            for name, cases in of.items():
                chosen = ranked(sum((others for other, others in of.items() if other != name), []))[0]
                left += [case.get(chosen, 1e3) for case in cases]
            print(f"    left out {np.exp(np.mean(np.log(left))):.2f} {max(left):.2f}", flush=True)


main(pathlib.Path(sys.argv[1]), sys.argv[2:])
