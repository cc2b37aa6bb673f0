#!/usr/bin/env python3
"""Writes tests/data/onnx/mixture.json: exact epsilons of Gaussian mixtures, from their definition.

    pip install mpmath numpy
    python tests/scripts/mixture_reference.py

Shares nothing with src/onnx/networks/mixture.rs but the definition (docs/methods.md, "Reference numbers"): the kernel comes from a
matrix exponential in 60 digits (Van Loan's block form), every component's 2x2 covariance is inverted, the score
is the posterior mean of the components' scores, and eps = -L^T score.

The file is {"format": 1, "cases": [...]}; a case holds the mixture (fields as in `Mixture`), inputs `z` [n][k*D],
`t` [n], `y` [n] or null (all exactly representable in float32), and `eps` [n][k*D or D] in float64.
"""
import json
import pathlib

import mpmath as mp
import numpy as np

mp.mp.dps = 60
TIMES = [1e-5, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 0.7, 1.0]
F32 = lambda a: np.asarray(a, np.float32).astype(np.float64)


def kernel(path, eps, t):
    """a(t) and Sigma(t) + eps I: integrals of the SDE itself, nothing by hand."""
    b = path["beta_min"] * t + (path["beta_max"] - path["beta_min"]) * t**2 / 2
    if path["kind"] == "vp":
        F, D, start = mp.matrix([[-0.5]]), mp.matrix([[1]]), mp.matrix([[0]])
    else:
        gamma, nu, kappa = (mp.mpf(path[name]) for name in ("gamma", "nu", "kappa"))
        mass = 4 / (nu - gamma) ** 2
        F = mp.matrix([[-gamma, 1 / mass], [-1, -nu]]) / 2
        D = mp.matrix([[gamma, 0], [0, mass * nu]])
        start = mp.matrix([[0, 0], [0, kappa * mass]])
    k = F.rows
    block = mp.zeros(2 * k)
    block[:k, :k], block[:k, k:], block[k:, k:] = -F * b, D * b, F.T * b
    E = mp.expm(block)
    phi = E[k:, k:].T
    sigma = phi * start * phi.T + phi * E[:k, k:]
    return [phi[i, 0] for i in range(k)], sigma + eps * mp.eye(k)


def epsilon(case, z, t, y):
    a, sigma = kernel(case["path"], mp.mpf(case["numerical_eps"]), mp.mpf(t))
    k, D = len(a), len(z) // len(a)
    means = component_means(case)
    keep = [i for i in range(len(means)) if y in (None, case["classes"]) or case["labels"][i] == y]
    logs, scores = [], []
    for i in keep:
        c = mp.mpf(case["variances"][i % len(case["variances"])])
        V = sigma + c * mp.matrix(a) * mp.matrix(a).T
        inverse = V**-1
        r = [[mp.mpf(z[j * D + d]) - a[j] * means[i][d] for d in range(D)] for j in range(k)]
        s = [[-sum(inverse[j, l] * r[l][d] for l in range(k)) for d in range(D)] for j in range(k)]
        q = -sum(r[j][d] * s[j][d] for j in range(k) for d in range(D))
        logs.append(mp.log(case["weights"][i]) - q / 2 - mp.mpf(D) / 2 * mp.log(mp.det(V)))
        scores.append(s)
    top = max(logs)
    p = [mp.exp(l - top) for l in logs]
    total = sum(p)
    score = [[sum(w * s[j][d] for w, s in zip(p, scores)) / total for d in range(D)] for j in range(k)]
    L = mp.cholesky(sigma)
    eps = [-sum(L[l, j] * score[l][d] for l in range(k)) for j in range(k) for d in range(D)]
    return [float(e) for e in (eps[-D:] if case["half"] == "momentum" else eps)]


def component_means(case):
    count = len(case["weights"])
    if "pixels" in case:
        low, high = map(mp.mpf, case["range"])
        flat = [low + (high - low) / 255 * v for v in case["pixels"]]
    else:
        flat = [mp.mpf(v) for v in case["means"]]
    D = len(flat) // count
    return [flat[i * D : (i + 1) * D] for i in range(count)]


def case(name, seed, path, eps=0.0, variances=(0.02, 0.3, 0.05), half="all", classes=0, pixels=False):
    rng = np.random.default_rng(seed)
    shape, K = [3, 2, 2], 4
    D = int(np.prod(shape))
    variances = [variances[i % len(variances)] for i in range(K)] if len(variances) > 1 else list(variances)
    case = {"name": name, "path": path, "numerical_eps": eps, "shape": shape,
            "weights": rng.uniform(0.5, 1.5, K).round(3).tolist(), "variances": variances,
            "classes": classes, "labels": [i % classes for i in range(K)] if classes else [], "half": half}
    if pixels:
        case |= {"pixels": rng.integers(0, 256, K * D).tolist(), "range": [-1.0, 1.0]}
    else:
        case["means"] = rng.uniform(-1, 1, K * D).round(4).tolist()
    means = np.array([[float(v) for v in mean] for mean in component_means(case)])
    t = F32(TIMES)
    z, y = [], []
    for i, time in enumerate(t):
        # A typical state: a draw of the data, perturbed by the kernel.
        a, sigma = kernel(path, mp.mpf(eps), mp.mpf(time))
        L = np.array(mp.cholesky(sigma).tolist(), float)
        pick = i % K
        x0 = means[pick] + np.sqrt(variances[pick % len(variances)]) * rng.standard_normal(D)
        z.append(F32(np.outer(np.array(a, float), x0) + L @ rng.standard_normal((len(a), D))).ravel())
        y.append(i % (classes + 1) if classes else None)
    case |= {"z": [list(row) for row in z], "t": list(t), "y": y if classes else None}
    case["eps"] = [epsilon(case, *inputs) for inputs in zip(z, t, y)]
    return case


VP = {"kind": "vp", "beta_min": 0.1, "beta_max": 20.0}
def psld(gamma, beta=(8.0, 8.0)):
    return {"kind": "psld", "beta_min": beta[0], "beta_max": beta[1], "gamma": gamma, "nu": gamma + 4, "kappa": 0.04}

CASES = [
    case("vp", 1, VP),
    case("vp_eps_pixels", 2, VP, eps=1e-9, variances=[0.0009], pixels=True),
    case("psld", 3, psld(0.01), eps=1e-9),
    case("psld_pixels", 4, psld(0.01), eps=1e-9, variances=[0.0009], pixels=True),
    case("psld_points", 5, psld(0.02), eps=0.0, variances=[0.0]),
    case("psld_beta", 6, psld(0.25, (4.0, 12.0)), eps=0.0),
    case("psld_labels", 7, psld(0.01), eps=1e-9, classes=2),
    case("cld", 8, psld(0.0), eps=1e-9),
    case("cld_momentum", 9, psld(0.0), eps=1e-9, half="momentum"),
    case("cld_no_eps", 10, psld(0.0)),
]

if __name__ == "__main__":
    out = pathlib.Path(__file__).parents[1] / "data" / "onnx" / "mixture.json"
    lines = ",\n".join(json.dumps(c) for c in CASES)
    out.write_text('{"format": 1, "cases": [\n' + lines + "\n]}\n")
    print(out, out.stat().st_size, "bytes")
