"""Writes tests/data/golden/rk45.json: scipy's RK45 on the probability flow of a Gaussian mixture under PSLD.

An independent transcription of methods.md 1.3, 1.4, 3.3 and 7.1 in numpy and scipy, with the whole batch as one
system, in float64, integrated in tau = 1 - t. Needs numpy and scipy (written with 2.4.6 and 1.17.1):

    python3 tests/scripts/rk45_reference.py tests/data/golden/rk45.json
"""

import json
import sys

import numpy as np
from scipy.integrate import RK45

GAMMA, NU, BETA, KAPPA = 0.01, 4.01, 8.0, 0.04
W = np.array([0.3, 0.5, 0.2])
MU = np.array([-1.2, 0.3, 1.5])
VAR = np.array([0.25, 0.16, 0.09])


def kernel(t):
    """S(t) and the covariance of z given x_0 (closed form of methods.md 1.3, plain)."""
    B = BETA * t
    K = (GAMMA - NU) ** 2 / 4
    M, c, delta, d = 1 / K, (GAMMA + NU) / 2, (NU - GAMMA) / 2, GAMMA - NU
    S = np.exp(-c * B / 2) * np.array([[1 + delta * B / 2, K * B / 2], [-B / 2, 1 - delta * B / 2]])
    e, V0 = np.exp(-c * B), KAPPA * M
    xx = e * (V0 * K**2 * B**2 / 4 - K * B**2 / 2 + d * B / 2 + np.expm1(c * B))
    xm = e * (V0 * (K * B / 2 + K * d * B**2 / 8) - d * B**2 / 4)
    mm = e * (V0 * (1 + d * B / 2 + K * B**2 / 4) - B**2 / 2 - M * d * B / 2 + M * np.expm1(c * B))
    return S, np.array([[xx, xm], [xm, mm]])


def score(z, t):
    """grad log p_t; z is [n, 2]."""
    S, Sigma = kernel(t)
    a = S[:, 0]
    logs, grads = [], []
    for w, mu, var in zip(W, MU, VAR):
        V = Sigma + var * np.outer(a, a)
        r = z - a * mu
        g = -np.linalg.solve(V, r.T).T
        logs.append(np.log(w) - 0.5 * np.log(np.linalg.det(V)) + 0.5 * np.sum(r * g, axis=1))
        grads.append(g)
    logs = np.array(logs)
    share = np.exp(logs - logs.max(axis=0))
    share /= share.sum(axis=0)
    return np.einsum("jn,jni->ni", share, np.array(grads))


def flow(tau, y):
    z = y.reshape(-1, 2)
    t = 1 - tau
    M = 4 / (GAMMA - NU) ** 2
    F = BETA / 2 * np.array([[-GAMMA, 1 / M], [-1, -NU]])
    GG = BETA * np.diag([GAMMA, M * NU])
    return (-z @ F.T + 0.5 * score(z, t) @ GG.T).ravel()


def integrate(z0, t_end, rtol, atol):
    solver = RK45(flow, 0.0, z0.ravel(), 1 - t_end, rtol=rtol, atol=atol)
    while solver.status == "running":
        assert solver.step() is None
    return solver.y.reshape(-1, 2), solver.nfev


def main(path):
    z0 = np.array([[0.5, -0.3], [-1.0, 0.4], [1.25, 0.75], [-0.25, -0.5], [0.0625, 0.03125]])
    cases = []
    for rtol, atol in [(1e-1, 1e-1), (1e-2, 1e-3), (1e-4, 1e-4), (1e-5, 1e-5), (1e-6, 1e-9), (1e-9, 1e-9)]:
        for t_end in [0.1, 1e-3]:
            for n in [1, 5]:
                z, nfev = integrate(z0[:n], t_end, rtol, atol)
                case = {"rtol": rtol, "atol": atol, "t_end": t_end, "z0": z0[:n].ravel().tolist()}
                cases.append({**case, "nfe": nfev, "z": z.ravel().tolist()})
    with open(path, "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main(sys.argv[1])
