#!/usr/bin/env python3
"""Writes tests/data/process/reference.json: kernels of Gaussian paths, from their definition, at 150 digits.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install mpmath==1.4.1
    /tmp/venv/bin/python tests/scripts/process_reference.py

Shares no formula with the library. The mean map and the added noise come from one matrix exponential, Van
Loan's block form (IEEE Trans. Autom. Control 23, 1978), exp(b [[A, 2D], [0, -A^T]]) = [[Phi, N Phi^-T], [0, .]],
whose cancellation 150 digits absorb; det by LU and the factor by Cholesky of the covariance itself. Before
writing, some entries are compared with an ODE solver on d Sigma/dt = F Sigma + Sigma F^T + G G^T.

Paths of one coordinate that are no recipes are given by alpha and sigma alone: F = alpha'/alpha and
G^2 = (sigma^2)' - 2 F sigma^2 by numerical differentiation, the noise of a step by quadrature of G^2.
"""

import json
from pathlib import Path

import mpmath as mp
from mpmath import mpf

mp.mp.dps = 150
TIMES = [1e-7, 1e-5, 1e-3, 0.05, 0.1, 0.5, 1.0]


def langevin(gamma, nu, kappa=0.04):
    """D, Q, S, kappa of PSLD from the exact values of its float64 parameters (2303.01748; M^-1 = (G-nu)^2/4)."""
    gamma, nu = mpf(gamma), mpf(nu)
    mass = 4 / (gamma - nu) ** 2
    half = mpf(1) / 2
    return (mp.diag([half * gamma, half * mass * nu]), mp.matrix([[0, -half], [half, 0]]),
            mp.diag([1, mass]), mpf(kappa))


def psld(gamma, nu, *, beta=(8.0, 8.0), kappa=0.04, eps=0.0, dsm=False, upper=False):
    return {"kind": "psld", "gamma": gamma, "nu": nu, "beta": beta, "kappa": kappa, "numerical_eps": eps,
            "score_matching": "dsm" if dsm else "hsm", "decomposition": "upper" if upper else "lower"}


def recipe(d, q, s, *, beta=(8.0, 8.0), kappa=0.04, eps=0.0, dsm=False, upper=False):
    return {"kind": "recipe", "d": d, "q": q, "s": s, "beta": beta, "kappa": kappa, "numerical_eps": eps,
            "score_matching": "dsm" if dsm else "hsm", "decomposition": "upper" if upper else "lower"}


def vp(low, high, eps=0.0):
    return {"kind": "vp", "beta": (low, high), "kappa": 0.0, "numerical_eps": eps,
            "score_matching": "hsm", "decomposition": "lower"}


G, XI = 2 * 2**0.5, 3 * 3**0.5
THIRD = ([[0.0, 0, 0], [0, 0, 0], [0, 0, XI]], [[0, -1.0, 0], [1, 0, -G], [0, G, 0]],
         [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
FOURTH = ([[0.0] * 4, [0.0] * 4, [0.0] * 4, [0, 0, 0, 3.0]],
          [[0, -0.5, 0, 0], [0.5, 0, -0.75, 0], [0, 0.75, 0, -1.25], [0, 0, 1.25, 0]],
          [[1.0, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
UNDER = ([[0.0, 0], [0, 0.25]], [[0, -1.0], [1, 0]], [[1.0, 0], [0, 0.5]])
OVER = ([[0.125, 0], [0, 2.0]], [[0, -0.5], [0.5, 0]], [[1.0, 0], [0, 0.25]])
DENSE = ([[0.5, -0.25, 0.125], [-0.25, 0.75, 0.0], [0.125, 0, 0.25]],
         [[0, -0.5, 0.25], [0.5, 0, 1], [-0.25, -1, 0]],
         [[1.0, 0.25, -0.125], [0.25, 0.5, 0.0625], [-0.125, 0.0625, 2.0]])

# Between its entries -ln prod (1 - beta) runs through the cubic with given values and slopes at both ends; the slopes
# are harmonic means of the rises on either side (Fritsch and Butland), at the ends the one rise there is.
BETAS = [0.05, 0.4, 0.01, 0.25, 0.25, 0.9]


def path(kind, **parameters):
    return {"kind": kind, **parameters, "kappa": 0.0, "numerical_eps": 0.0, "score_matching": "hsm",
            "decomposition": "lower"}


PATHS = {
    "ve": path("ve", sigma_min=0.01, sigma_max=50.0),
    "edm": path("edm", sigma_min=0.002, sigma_max=80.0),
    "flow": path("flow"),
    "ddpm_linear": path("ddpm", schedule="linear"),
    "ddpm_table": path("ddpm", betas=BETAS),
    "ddpm_cosine": path("ddpm", schedule="cosine", entries=40),
}
PATH_TIMES = [1e-7, 1e-5, 1e-3, 0.0504, 0.2, 0.5, 0.77, 0.999]


def betas_of(p):
    """The exact values of the float64 entries, but for the cosine schedule, which is its formula."""
    if p.get("schedule") == "linear":
        return [mpf(1) / 10000 + (mpf(2) / 100 - mpf(1) / 10000) * i / 999 for i in range(1000)]
    if p.get("schedule") == "cosine":
        n, s = p["entries"], mpf(8) / 1000
        f = lambda i: mp.cos(mp.pi / 2 * (mpf(i) / n + s) / (1 + s)) ** 2
        return [min(1 - f(i + 1) / f(i), mpf(999) / 1000) for i in range(n)]
    return [mpf(beta) for beta in p["betas"]]


def scales(p):
    """alpha and sigma^2 as functions of time."""
    if p["kind"] in ("ve", "edm"):
        low, high = mpf(p["sigma_min"]), mpf(p["sigma_max"])
        sigma = (lambda t: low * (high / low) ** t) if p["kind"] == "ve" else (lambda t: high * t)
        return (lambda t: mpf(1)), (lambda t: sigma(t) ** 2)
    if p["kind"] == "flow":
        return (lambda t: 1 - t), (lambda t: t * t)
    rises = [-mp.log(1 - beta) for beta in betas_of(p)]
    n = len(rises)
    sums = [mp.fsum(rises[:i]) for i in range(n + 1)]
    slopes = [rises[0]] + [2 / (1 / a + 1 / b) for a, b in zip(rises, rises[1:])] + [rises[-1]]

    def b(t):
        x = t * n
        i = min(int(mp.floor(x)), n - 1)
        # Newton's divided differences on the double nodes i, i, i+1, i+1.
        u, v = x - i, x - i - 1
        first = sums[i + 1] - sums[i]
        c2, c3 = first - slopes[i], slopes[i + 1] - first
        return sums[i] + u * slopes[i] + u * u * c2 + u * u * v * (c3 - c2)

    return (lambda t: mp.exp(-b(t) / 2)), (lambda t: -mp.expm1(-b(t)))


def path_entry(p, t):
    alpha, variance = scales(p)
    t = mpf(t)
    h = mpf(10) ** -40
    slope = lambda f, t: (f(t + h) - f(t - h)) / (2 * h)
    f = slope(alpha, t) / alpha(t)
    rate = lambda s: slope(variance, s) - 2 * slope(alpha, s) / alpha(s) * variance(s)
    # A table's noise is smooth between entries only.
    n = len(betas_of(p)) if p["kind"] == "ddpm" else 1
    knots = [mpf(i) / n for i in range(int(mp.ceil(t * n / 2)), int(mp.floor(t * n)) + 1)]
    knots = sorted({t / 2, t, *(x for x in knots if t / 2 < x < t)})
    with mp.workdps(60):
        added = mp.quad(lambda s: (alpha(t) / alpha(s)) ** 2 * rate(s), knots) if len(knots) < 30 else None
    closed = variance(t) - (alpha(t) / alpha(t / 2)) ** 2 * variance(t / 2)
    assert added is None or abs(added - closed) < mpf(10) ** -25 * closed, (p["kind"], t, added, closed)
    mean, sigma = alpha(t), mp.sqrt(variance(t))
    one = lambda x: [[float(x)]]
    start = alpha(mpf(0))
    return {
        "t": float(t), "mean": one(mean / start), "transition": one(mean / start), "covariance": one(variance(t)),
        "data_covariance": one(variance(t)), "determinant": float(variance(t)), "factor": one(sigma),
        "inverse_factor": one(1 / sigma), "log_snr": float(mp.log(mean / sigma)), "x0_weights": one(1 / mean),
        "drift": one(f), "diffusion": one(rate(t)),
        "half": {"transition": one(mean / alpha(t / 2)), "added_noise": one(closed)},
    }


PROCESSES = {
    "vp": vp(0.1, 20.0),
    "vp_constant_eps": vp(2.0, 2.0, 1e-5),
    "cld": psld(0.0, 4.0, eps=1e-9),
    "cld_eps0": psld(0.0, 4.0),
    "cld_dsm": psld(0.0, 4.0, dsm=True),
    "cld_upper": psld(0.0, 4.0, upper=True),
    "psld_0.005": psld(0.005, 4.005),
    "psld_0.01": psld(0.01, 4.01, eps=1e-9),
    "psld_0.01_eps0": psld(0.01, 4.01),
    "psld_0.02_dsm": psld(0.02, 4.02, dsm=True),
    "psld_0.25_upper": psld(0.25, 4.25, upper=True, eps=1e-9),
    "psld_gamma_above_nu": psld(4.25, 0.25),
    "psld_nu0": psld(4.0, 0.0, upper=True),
    "psld_linear_beta": psld(0.01, 4.01, beta=(0.1, 20.0)),
    "third": recipe(*THIRD),
    "third_eps": recipe(*THIRD, eps=1e-9),
    "third_dsm": recipe(*THIRD, dsm=True),
    "third_upper": recipe(*THIRD, upper=True, kappa=0.5),
    "third_linear_beta": recipe(*THIRD, beta=(0.1, 10.0)),
    "underdamped": recipe(*UNDER),
    "overdamped_dsm": recipe(*OVER, dsm=True, beta=(1.0, 6.0)),
    "dense": recipe(*DENSE, beta=(4.0, 4.0)),
    "fourth": recipe(*FOURTH),
    "fourth_linear_beta": recipe(*FOURTH, beta=(0.1, 10.0)),
}


def matrices(p):
    if p["kind"] == "vp":
        return mp.matrix([[0.5]]), mp.matrix([[0]]), mp.matrix([[1]]), mpf(0)
    if p["kind"] == "psld":
        return langevin(p["gamma"], p["nu"], p["kappa"])
    return mp.matrix(p["d"]), mp.matrix(p["q"]), mp.matrix(p["s"]), mpf(p["kappa"])


def flow(a, d, b):
    """Phi(b) and N(b)."""
    k = a.rows
    block = mp.zeros(2 * k)
    for i in range(k):
        for j in range(k):
            block[i, j], block[i, k + j], block[k + i, k + j] = a[i, j], 2 * d[i, j], -a[j, i]
    e = mp.expm(b * block, method="taylor")
    phi, upper = e[:k, :k], e[:k, k:]
    return phi, upper * phi.T


def cholesky(sigma, upper):
    if not upper:
        return mp.cholesky(sigma)
    k = sigma.rows
    flip = lambda m: mp.matrix([[m[k - 1 - i, k - 1 - j] for j in range(k)] for i in range(k)])
    return flip(mp.cholesky(flip(sigma)))


def rows(m):
    return [[float(m[i, j]) for j in range(m.cols)] for i in range(m.rows)]


def entry(p, t):
    d, q, s, kappa = matrices(p)
    k = s.rows
    a = -(d + q) * s**-1
    t = mpf(t)
    low, high = map(mpf, p["beta"])
    integral = lambda t: low * t + (high - low) * t * t / 2
    start = kappa * s
    for i in range(k):
        start[0, i] = start[i, 0] = mpf(0)
    phi, noise = flow(a, d, integral(t))
    eye = mp.eye(k) * mpf(p["numerical_eps"])
    data = phi * start * phi.T + noise + eye
    sigma = noise + eye if p["score_matching"] == "dsm" else data
    mean = phi[:, 0]
    factor = cholesky(sigma, p["decomposition"] == "upper")
    precision = mean.T * data**-1
    snr = (precision * mean)[0]
    # A later interval: the noise added on [t/2, t].
    later, added = flow(a, d, integral(t) - integral(t / 2))
    return {
        "t": float(t), "mean": rows(mean), "transition": rows(phi), "covariance": rows(sigma),
        "data_covariance": rows(data), "determinant": float(mp.det(sigma)), "factor": rows(factor),
        "inverse_factor": rows(factor**-1), "log_snr": float(mp.log(snr) / 2), "x0_weights": rows(precision / snr),
        "half": {"transition": rows(later), "added_noise": rows(added)},
    }


def check_with_ode(name):
    p = PROCESSES[name]
    d, q, s, kappa = matrices(p)
    k = s.rows
    a = -(d + q) * s**-1
    low, high = map(mpf, p["beta"])
    t = mpf("0.1")

    def velocity(time, y):
        sigma = mp.matrix(k, k)
        for i in range(k * k):
            sigma[i // k, i % k] = y[i]
        rate = (low + (high - low) * time) * (a * sigma + sigma * a.T + 2 * d)
        return list(rate)

    start = [mpf(0)] * (k * k)
    if p["score_matching"] == "hsm":
        for i in range(1, k):
            for j in range(1, k):
                start[i * k + j] = kappa * s[i, j]
    with mp.workdps(25):
        solution = mp.odefun(velocity, 0, start)(t)
    exact = entry(dict(p, numerical_eps=0.0), t)["covariance"]
    for i in range(k * k):
        reference = mpf(exact[i // k][i % k])
        assert abs(solution[i] - reference) <= 1e-14 * abs(reference), (name, i, solution[i], reference)


def main():
    for name in ["vp", "psld_linear_beta", "third_linear_beta", "dense", "cld_dsm"]:
        check_with_ode(name)
    lines = []
    for name, p in PROCESSES.items():
        cases = ",\n    ".join(json.dumps(entry(p, t)) for t in TIMES)
        lines.append(f'  {{"name": "{name}", "process": {json.dumps(p)}, "cases": [\n    {cases}]}}')
    for name, p in PATHS.items():
        cases = ",\n    ".join(json.dumps(path_entry(p, t)) for t in PATH_TIMES)
        lines.append(f'  {{"name": "{name}", "process": {json.dumps(p)}, "cases": [\n    {cases}]}}')
    path = Path(__file__).parents[1] / "data" / "process" / "reference.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{path}: {len(PROCESSES) + len(PATHS)} processes")


if __name__ == "__main__":
    main()
