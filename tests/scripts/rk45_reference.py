"""Writes tests/data/golden/rk45.json: scipy's RK45 on the probability flow of a Gaussian mixture under PSLD.

An independent transcription of docs/methods.md (processes, rk45, mixtures) in numpy and scipy, with the whole batch as one
system, in float64, integrated in tau = 1 - t. Needs numpy and scipy (written with 2.4.6 and 1.17.1):

    python3 tests/scripts/rk45_reference.py tests/data/golden/rk45.json
"""

import json
import sys

import numpy as np
from scipy.integrate import RK45

GAMMA, NU, BETA, KAPPA = 0.01, 4.01, 8.0, 0.04
# Weights, means [components, d] and variances: the wide mixture of docs/methods.md, and one in the plane.
LINE = ([0.3, 0.5, 0.2], [[-1.2], [0.3], [1.5]], [0.25, 0.16, 0.09])
PLANE = ([0.5, 0.3, 0.2], [[-1.0, 0.5], [0.75, 0.25], [0.0, -1.0]], [0.01, 0.04, 0.09])


def kernel(t):
    """S(t) and the covariance of z given x_0 (closed form, plain)."""
    B = BETA * t
    K = (GAMMA - NU) ** 2 / 4
    M, c, delta, d = 1 / K, (GAMMA + NU) / 2, (NU - GAMMA) / 2, GAMMA - NU
    S = np.exp(-c * B / 2) * np.array([[1 + delta * B / 2, K * B / 2], [-B / 2, 1 - delta * B / 2]])
    e, V0 = np.exp(-c * B), KAPPA * M
    xx = e * (V0 * K**2 * B**2 / 4 - K * B**2 / 2 + d * B / 2 + np.expm1(c * B))
    xm = e * (V0 * (K * B / 2 + K * d * B**2 / 8) - d * B**2 / 4)
    mm = e * (V0 * (1 + d * B / 2 + K * B**2 / 4) - B**2 / 2 - M * d * B / 2 + M * np.expm1(c * B))
    return S, np.array([[xx, xm], [xm, mm]])


def score(mixture, z, t):
    """grad log p_t; z is [n, 2 (x, m), d]."""
    S, Sigma = kernel(t)
    a, d = S[:, 0], z.shape[2]
    logs, grads = [], []
    for w, mu, var in zip(*mixture):
        V = Sigma + var * np.outer(a, a)
        r = z - np.multiply.outer(a, mu)
        g = -np.einsum("ij,njd->nid", np.linalg.inv(V), r)
        logs.append(np.log(w) - 0.5 * d * np.log(np.linalg.det(V)) + 0.5 * np.sum(r * g, axis=(1, 2)))
        grads.append(g)
    logs = np.array(logs)
    share = np.exp(logs - logs.max(axis=0))
    share /= share.sum(axis=0)
    return np.einsum("jn,jnid->nid", share, np.array(grads))


def flow(mixture, tau, y):
    d = len(mixture[1][0])
    z, t = y.reshape(-1, 2, d), 1 - tau
    M = 4 / (GAMMA - NU) ** 2
    F = BETA / 2 * np.array([[-GAMMA, 1 / M], [-1, -NU]])
    GG = BETA * np.diag([GAMMA, M * NU])
    apply = lambda m, z: np.einsum("ij,njd->nid", m, z)
    return (-apply(F, z) + 0.5 * apply(GG, score(mixture, z, t))).ravel()


def integrate(mixture, z0, t_end, rtol, atol):
    solver = RK45(lambda tau, y: flow(mixture, tau, y), 0.0, z0, 1 - t_end, rtol=rtol, atol=atol)
    while solver.status == "running":
        assert solver.step() is None
    return solver.y, solver.nfev


def main(path):
    z0 = np.array([0.5, -0.3, -1.0, 0.4, 1.25, 0.75, -0.25, -0.5, 0.0625, 0.03125, 0.875, -0.625])
    cases = []
    for rtol, atol in [(1e-1, 1e-1), (1e-2, 1e-3), (1e-4, 1e-4), (1e-5, 1e-5), (1e-6, 1e-9), (1e-9, 1e-9)]:
        for t_end in [0.1, 1e-3]:
            for mixture, d, n in [(LINE, 1, 1), (LINE, 1, 6), (PLANE, 2, 3)]:
                start = z0[: 2 * d * n]
                z, nfev = integrate(mixture, start, t_end, rtol, atol)
                case = {"rtol": rtol, "atol": atol, "t_end": t_end, "d": d, "z0": start.tolist()}
                cases.append({**case, "nfe": nfev, "z": z.tolist()})
    with open(path, "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main(sys.argv[1])
