"""The loop that a user would write: Euler-Maruyama for PSLD with onnxruntime and numpy. Prints the
median seconds to create a session, and images a second."""

import sys
import time

import numpy as np
import onnxruntime

BATCH, STEPS = 16, 50
BETA, GAMMA, NU, KAPPA, EPS = 8.0, 0.01, 4.01, 0.04, 1e-9
MASS_INVERSE = (NU - GAMMA) ** 2 / 4
M = 1 / MASS_INVERSE


def covariance(t):
    b, d, k = BETA * t, GAMMA - NU, MASS_INVERSE
    v0, decay = KAPPA * M, np.exp(-(GAMMA + NU) / 2 * b)
    grown = np.exp((GAMMA + NU) / 2 * b) - 1
    xx = decay * (v0 * k * k * b * b / 4 - k * b * b / 2 + d * b / 2 + grown) + EPS
    xm = decay * (v0 * (k * b / 2 + k * d * b * b / 8) - d * b * b / 4)
    mm = decay * (v0 * (1 + d * b / 2 + k * b * b / 4) - b * b / 2 - M * d * b / 2 + M * grown) + EPS
    return xx, xm, mm


def main():
    loads = []
    for _ in range(15):
        began = time.perf_counter()
        session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
        loads.append(time.perf_counter() - began)
    rng = np.random.default_rng(0)
    grid = 1e-3 + (1 - 1e-3) * ((STEPS - np.arange(STEPS + 1)) / STEPS) ** 2
    rates = []
    for _ in range(5):
        began = time.perf_counter()
        x = rng.standard_normal((BATCH, 3, 32, 32), dtype=np.float32)
        m = rng.standard_normal((BATCH, 3, 32, 32), dtype=np.float32) * np.float32(M**0.5)
        for t, u in zip(grid, grid[1:]):
            h = t - u
            z = np.concatenate([x, m], axis=1)
            (eps,) = session.run(["eps"], {"z": z, "t": np.full(BATCH, t, np.float32)})
            ex, em = eps[:, :3], eps[:, 3:]
            xx, xm, mm = covariance(t)
            det = xx * mm - xm * xm
            sx = np.float32(-1 / xx**0.5) * ex + np.float32(xm / (xx * det) ** 0.5) * em
            sm = np.float32(-((xx / det) ** 0.5)) * em
            half = BETA / 2
            nx = rng.standard_normal(x.shape, dtype=np.float32)
            nm = rng.standard_normal(m.shape, dtype=np.float32)
            dx = np.float32(half) * (GAMMA * x - MASS_INVERSE * m + 2 * GAMMA * sx)
            dm = np.float32(half) * (x + NU * m + 2 * M * NU * sm)
            x = x + np.float32(h) * dx + np.float32((h * BETA * GAMMA) ** 0.5) * nx
            m = m + np.float32(h) * dm + np.float32((h * BETA * M * NU) ** 0.5) * nm
        rates.append(BATCH / (time.perf_counter() - began))
    print(sorted(loads)[7], sorted(rates)[2])


main()
