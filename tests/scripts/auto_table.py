"""Measures samplers on exact networks and prints the rows of the table in src/solver/auto.rs.

Every multistep sampler, order and grid at each number of network calls, against RK45 at 1e-10 from the same starts, on
two Gaussian mixtures of overlapping components in one dimension each (methods.md 7.3's, and one with narrower
components), under PSLD, VP, VE and EDM, with the closing step. The error is the root mean square distance of the samples; of the
two mixtures, the geometric mean of both errors counts. Needs numpy and the command line `psld`:

    python3 tests/scripts/auto_table.py target/debug/psld [CSV]
"""

import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

MIXTURES = {
    "wide": {"weights": [0.3, 0.5, 0.2], "means": [[-1.2], [0.3], [1.5]], "variances": [0.25, 0.16, 0.09]},
    "narrow": {"weights": [0.4, 0.35, 0.25], "means": [[-0.7], [0.1], [0.8]], "variances": [0.01, 0.02, 0.015]},
}
PROCESSES = {
    "psld": {"kind": "psld"},
    "vp": {"kind": "vp"},
    "ve": {"kind": "ve", "sigma_min": 0.01, "sigma_max": 50},
    "edm": {"kind": "edm", "sigma_min": 0.002, "sigma_max": 80},
}
CALLS = [5, 8, 10, 15, 20, 30, 50, 100]
GRIDS = ["quadratic", "order2", "order2.5", "log_snr", "karras", "uniform"]
SAMPLERS = [("gddim", o) for o in (1, 2, 3)] + [("dpmpp", o) for o in (1, 2, 3)]
SAMPLERS += [("unipc", o) for o in (1, 2, 3)] + [("deis", o) for o in (2, 3)]
N = 256


def sample(psld, folder, model, options):
    out = folder / "x.npy"
    args = [psld, "sample", str(model), "-n", str(N), "--state", "f64", "--out", str(out), "--quiet", "--threads", "1"]
    args += [str(a) for a in options]
    ran = subprocess.run(args, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    return np.load(out).astype(float)


def main(psld, csv=None):
    psld = str(pathlib.Path(psld).resolve())
    lines = ["process,mixture,calls,sampler,order,grid,error"]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for process, description in PROCESSES.items():
            errors = {}
            for mixture, parts in MIXTURES.items():
                model = folder / f"{process}-{mixture}.json"
                spec = {"format": 1, "process": description, "data": {"shape": [1]}, "network": {}}
                model.write_text(json.dumps({"psld.spec": spec, "mixture": parts}))
                exact = sample(psld, folder, model, ["--sampler", "rk45", "--rtol", "1e-10", "--atol", "1e-10"])
                for calls, (sampler, order), grid in itertools.product(CALLS, SAMPLERS, GRIDS):
                    if order > calls - 1:
                        continue
                    options = ["--sampler", sampler, "--order", order, "--nfe", calls, "--grid", grid]
                    x = sample(psld, folder, model, options)
                    error = float(np.sqrt(np.mean((x - exact) ** 2)))
                    errors.setdefault((calls, sampler, order, grid), []).append(error)
                    lines.append(f"{process},{mixture},{calls},{sampler},{order},{grid},{error:.4g}")
            for calls in CALLS:
                mean = {key[1:]: float(np.sqrt(np.prod(e))) for key, e in errors.items() if key[0] == calls}
                best = sorted(mean.items(), key=lambda item: item[1])
                (sampler, order, grid), error = best[0]
                other = next((key, e) for key, e in best if key[0] != sampler)
                print(
                    f"{process} {calls:>4}: {sampler} {order} {grid} {error:.3g};"
                    f" next {other[0][0]} {other[0][1]} {other[0][2]} {other[1]:.3g};"
                    f" then " + ", ".join(f"{k[0]} {k[1]} {k[2]} {e:.3g}" for k, e in best[1:5])
                )
    if csv:
        pathlib.Path(csv).write_text("\n".join(lines) + "\n")


main(*sys.argv[1:])
