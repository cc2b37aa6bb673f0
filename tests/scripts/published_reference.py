"""Writes tests/data/golden/published.json: samplers for k = 1 as their papers publish them.

Independent transcriptions in numpy, in float64, of DDIM with eta (arXiv 2010.02502, Eq. 12 and 16), multistep
DPM-Solver++ of orders 1 to 3 and SDE-DPM-Solver++(2M) (arXiv 2211.01095), and UniPC with B(h) = bh1 and bh2, orders 1
to 3 (arXiv 2302.04867, data prediction): warm-up by lower orders, no lower-order final steps, no corrector on the last
step. Exact score of a Gaussian mixture under the VP process (beta from 0.1 to 20). Needs numpy (written with 2.4.6):

    python3 tests/scripts/published_reference.py tests/data/golden/published.json
"""

import json
import sys

import numpy as np

B0, B1 = 0.1, 20.0
W = np.array([0.5, 0.3, 0.2])
MU = np.array([[-1.0, 0.5], [0.75, 0.25], [0.0, -1.0]])
VAR = np.array([0.01, 0.04, 0.09])


def log_alpha(t):
    return -0.25 * t**2 * (B1 - B0) - 0.5 * t * B0


def alpha(t):
    return np.exp(log_alpha(t))


def sigma(t):
    return np.sqrt(-np.expm1(2 * log_alpha(t)))


def lam(t):
    return log_alpha(t) - np.log(sigma(t))


def time_of(lam_value):
    """Inverts lam: alpha^2 = 1 / (1 + exp(-2 lam)), then the root of the quadratic in t."""
    b = np.logaddexp(0.0, -2 * lam_value)
    return 2 * b / (B0 + np.sqrt(B0**2 + 2 * (B1 - B0) * b))


def epsilon(z, t):
    """-sigma times the score; z is [n, d]."""
    a, s = alpha(t), sigma(t)
    logs, grads = [], []
    for w, mu, var in zip(W, MU, VAR):
        v = s**2 + a**2 * var
        r = z - a * mu
        logs.append(np.log(w) - 0.5 * z.shape[1] * np.log(v) - 0.5 * np.sum(r * r, axis=1) / v)
        grads.append(-r / v)
    share = np.exp(np.array(logs) - np.max(logs, axis=0))
    share /= share.sum(axis=0)
    return -s * np.einsum("jn,jnd->nd", share, np.array(grads))


def x0(z, t, clip=False):
    x = (z - sigma(t) * epsilon(z, t)) / alpha(t)
    return np.clip(x, -1, 1) if clip else x


def ddim(z, grid, noise, eta):
    for i, (t, u) in enumerate(zip(grid, grid[1:])):
        bar_t, bar_u = alpha(t) ** 2, alpha(u) ** 2
        c = eta * np.sqrt((1 - bar_u) / (1 - bar_t)) * np.sqrt(1 - bar_t / bar_u)
        eps = epsilon(z, t)
        start = (z - np.sqrt(1 - bar_t) * eps) / np.sqrt(bar_t)
        z = np.sqrt(bar_u) * start + np.sqrt(1 - bar_u - c**2) * eps
        if eta > 0:
            z = z + c * noise[i]
    return z


def dpmpp(z, grid, order, clip):
    data = []
    for i, (t, u) in enumerate(zip(grid, grid[1:])):
        data.append((lam(t), x0(z, t, clip)))
        p = min(order, i + 1)
        h = lam(u) - lam(t)
        phi_1 = np.expm1(-h)
        m0 = data[-1][1]
        new = sigma(u) / sigma(t) * z - alpha(u) * phi_1 * m0
        if p >= 2:
            r0 = (data[-1][0] - data[-2][0]) / h
            d10 = (m0 - data[-2][1]) / r0
        if p == 2:
            new = new - 0.5 * alpha(u) * phi_1 * d10
        if p == 3:
            r1 = (data[-2][0] - data[-3][0]) / h
            d11 = (data[-2][1] - data[-3][1]) / r1
            d1 = d10 + r0 / (r0 + r1) * (d10 - d11)
            d2 = (d10 - d11) / (r0 + r1)
            phi_2 = phi_1 / h + 1
            phi_3 = phi_2 / h - 0.5
            new = new + alpha(u) * phi_2 * d1 - alpha(u) * phi_3 * d2
        z = new
    return z


def sde_dpmpp(z, grid, noise, order):
    before = None
    for i, (t, u) in enumerate(zip(grid, grid[1:])):
        h = lam(u) - lam(t)
        m0 = x0(z, t)
        gain = alpha(u) * (1 - np.exp(-2 * h))
        new = sigma(u) / sigma(t) * np.exp(-h) * z + gain * m0
        if order == 2 and before is not None:
            r0 = (lam(t) - before[0]) / h
            new = new + 0.5 * gain * (m0 - before[1]) / r0
        z = new + sigma(u) * np.sqrt(1 - np.exp(-2 * h)) * noise[i]
        before = (lam(t), m0)
    return z


def unipc(z, grid, order, variant):
    lams, models = [lam(grid[0])], [x0(z, grid[0])]
    steps = len(grid) - 1
    for step in range(1, steps + 1):
        t, u = grid[step - 1], grid[step]
        p = min(order, step)
        h = lam(u) - lam(t)
        hh = -h
        rks = [(lams[-1 - i] - lams[-1]) / h for i in range(1, p)]
        differences = [(models[-1 - i] - models[-1]) / rk for i, rk in zip(range(1, p), rks)]
        rks.append(1.0)
        B = {"bh1": hh, "bh2": np.expm1(hh)}[variant]
        R, b = [], []
        phi, factorial = np.expm1(hh) / hh - 1, 1
        for i in range(1, p + 1):
            R.append(np.array(rks) ** (i - 1))
            b.append(phi * factorial / B)
            factorial *= i + 1
            phi = phi / hh - 1 / factorial
        R, b = np.array(R), np.array(b)
        base = sigma(u) / sigma(t) * z - alpha(u) * np.expm1(hh) * models[-1]
        predictor = np.array([0.5]) if p == 2 else np.linalg.solve(R[:-1, :-1], b[:-1])
        new = base - alpha(u) * B * sum(rho * d for rho, d in zip(predictor, differences))
        if step < steps:
            model = x0(new, u)
            corrector = np.array([0.5]) if p == 1 else np.linalg.solve(R, b)
            moved = sum(rho * d for rho, d in zip(corrector, differences + [model - models[-1]]))
            new = base - alpha(u) * B * moved
            lams.append(lam(u))
            models.append(model)
        z = new
    return z


def main(path):
    random = np.random.default_rng(20231118)
    n, d = 3, 2
    grids = {
        "uniform": lambda steps: np.linspace(1, 1e-3, steps + 1),
        "log_snr": lambda steps: time_of(np.linspace(lam(1.0), lam(1e-3), steps + 1)),
        "quadratic": lambda steps: 1e-3 + 0.999 * (np.arange(steps, -1, -1) / steps) ** 2,
    }
    runs = [("ddim", {"eta": eta}) for eta in (0.0, 0.3, 1.0)]
    runs += [("dpmpp", {"order": order, "clip": clip}) for order in (1, 2, 3) for clip in (False, True)]
    runs += [("sde_dpmpp", {"order": order}) for order in (1, 2)]
    runs += [("unipc", {"order": order, "variant": v}) for order in (1, 2, 3) for v in ("bh1", "bh2")]
    cases = []
    for name, options in runs:
        for grid_name, make in grids.items():
            for steps in (3, 9):
                grid = [float(t) for t in make(steps)]
                grid[0], grid[-1] = 1.0, 1e-3
                z0 = random.standard_normal((n, d))
                draws = steps if name == "sde_dpmpp" or options.get("eta", 0) > 0 else 0
                noise = random.standard_normal((draws, n, d))
                z = {
                    "ddim": lambda: ddim(z0, grid, noise, **options),
                    "dpmpp": lambda: dpmpp(z0, grid, **options),
                    "sde_dpmpp": lambda: sde_dpmpp(z0, grid, noise, **options),
                    "unipc": lambda: unipc(z0, grid, **options),
                }[name]()
                assert np.all(np.isfinite(z))
                case = {"sampler": {"sampler": name, **options, "published": True, "time_grid": grid}}
                case.update(n=n, d=d, z0=z0.ravel().tolist(), noise=noise.ravel().tolist(), z=z.ravel().tolist())
                cases.append(case)
    with open(path, "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main(sys.argv[1])
