"""Writes tests/data/golden/{em,sscs,ancestral,inpaint}.json: the stochastic samplers on recorded noise.

An independent transcription in numpy of docs/methods.md (processes, grids and the closing step, em, sscs, ancestral, inpainting in
its published form, the exact score of mixtures), in float64. Needs numpy (written with 2.4.6):

    python3 tests/scripts/sde_reference.py tests/data/golden
"""

import json
import sys

import numpy as np

BETA, KAPPA = 8.0, 0.04
# Three components in the plane, each with one variance in every direction.
W = np.array([0.5, 0.3, 0.2])
MU = np.array([[-1.0, 0.5], [0.75, 0.25], [0.0, -1.0]])
VAR = np.array([0.01, 0.04, 0.09])


class Psld:
    def __init__(self, gamma, nu, eps, decomposition):
        self.gamma, self.nu, self.eps, self.decomposition = gamma, nu, eps, decomposition
        self.K = (gamma - nu) ** 2 / 4
        self.M = 1 / self.K
        self.F = BETA / 2 * np.array([[-gamma, self.K], [-1, -nu]])
        self.GG = BETA * np.diag([gamma, self.M * nu])

    def S(self, B):
        """Mean map over the beta-increment B, of either sign."""
        c, delta = (self.gamma + self.nu) / 2, (self.nu - self.gamma) / 2
        m = np.array([[1 + delta * B / 2, self.K * B / 2], [-B / 2, 1 - delta * B / 2]])
        return np.exp(-c * B / 2) * m

    def covariance(self, B, X0, V0):
        """Plain closed form without eps."""
        g, K, M = self.gamma, self.K, self.M
        c, d = (g + self.nu) / 2, g - self.nu
        e, grow = np.exp(-c * B), np.expm1(c * B)
        xx = X0 * (1 - d * B / 2 + K * B**2 / 4) + V0 * K**2 * B**2 / 4 - K * B**2 / 2 + d * B / 2 + grow
        xm = X0 * (-B / 2 + d * B**2 / 8) + V0 * (K * B / 2 + K * d * B**2 / 8) - d * B**2 / 4
        mm = X0 * B**2 / 4 + V0 * (1 + d * B / 2 + K * B**2 / 4) - B**2 / 2 - M * d * B / 2 + M * grow
        return e * np.array([[xx, xm], [xm, mm]])

    def kernel(self, t):
        """Covariance of z_t given x_0, with eps on the diagonal."""
        return self.covariance(BETA * t, 0.0, KAPPA * self.M) + self.eps * np.eye(2)

    def factor(self, sigma):
        if self.decomposition == "lower":
            return np.linalg.cholesky(sigma)
        flip = np.array([[0.0, 1.0], [1.0, 0.0]])
        return flip @ np.linalg.cholesky(flip @ sigma @ flip) @ flip

    def score(self, z, t):
        """z is [n, 2 (x, m), d]; the components' covariance is V kron I_d."""
        a, sigma, d = self.S(BETA * t)[:, 0], self.kernel(t), z.shape[2]
        logs, grads = [], []
        for w, mu, var in zip(W, MU, VAR):
            V = sigma + var * np.outer(a, a)
            r = z - a[:, None] * mu[None, :]
            g = -np.einsum("ij,njd->nid", np.linalg.inv(V), r)
            logs.append(np.log(w) - 0.5 * d * np.log(np.linalg.det(V)) + 0.5 * np.sum(r * g, axis=(1, 2)))
            grads.append(g)
        logs = np.array(logs)
        share = np.exp(logs - logs.max(axis=0))
        share /= share.sum(axis=0)
        return np.einsum("jn,jnid->nid", share, np.array(grads))


def apply(m, z):
    return np.einsum("ij,njd->nid", m, z)


def quadratic(t_end, n):
    return [t_end + (1 - t_end) * ((n - i) / n) ** 2 for i in range(n + 1)]


def drift(p, z, t):
    return apply(-p.F, z) + apply(p.GG, p.score(z, t))


def denoise(p, z, t_end):
    return z + t_end * drift(p, z, t_end)


def em(p, z, noise, grid):
    for i, (t, u) in enumerate(zip(grid, grid[1:])):
        h = t - u
        z = z + h * drift(p, z, t) + np.sqrt(h) * apply(np.sqrt(p.GG), noise[i])
    return denoise(p, z, grid[-1])


def sscs(p, z, noise, grid):
    def half(z, B, xi):
        c, delta = (p.gamma + p.nu) / 2, (p.nu - p.gamma) / 2
        mean = np.array([[1 + delta * B / 2, -p.K * B / 2], [B / 2, 1 - delta * B / 2]]) * np.exp(-c * B / 2)
        cov = p.covariance(B, 0.0, 0.0)
        cov[0, 1], cov[1, 0] = -cov[0, 1], -cov[1, 0]
        return apply(mean, z) + apply(p.factor(cov + p.eps * np.eye(2)), xi)

    for i, (t, u) in enumerate(zip(grid, grid[1:])):
        h = t - u
        z = half(z, BETA * h / 2, noise[2 * i])
        pull = h * BETA * np.diag([p.gamma, p.M * p.nu])
        z = z + apply(pull, p.score(z, t) + apply(np.diag([1, 1 / p.M]), z))
        z = half(z, BETA * h / 2, noise[2 * i + 1])
    return denoise(p, z, grid[-1])


def ancestral(p, z, noise, grid):
    for i, (t, u) in enumerate(zip(grid, grid[1:])):
        sigma_t, sigma_u = p.kernel(t), p.kernel(u)
        down, up = p.S(BETA * (u - t)), p.S(BETA * (t - u))
        L = p.factor(sigma_t)
        eps = apply(-L.T, p.score(z, t))
        posterior = sigma_u @ up.T @ np.linalg.inv(sigma_t)
        spread = sigma_u - posterior @ sigma_t @ posterior.T
        values, vectors = np.linalg.eigh((spread + spread.T) / 2)
        root = vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T
        z = apply(down, z) + apply((posterior - down) @ L, eps) + apply(root, noise[i])
    return denoise(p, z, grid[-1])


def inpaint(p, z, noise, grid, image, mask):
    """The published form: the known region is perturbed to the time at which the step began."""

    def known(t, xi):
        a = p.S(BETA * t)[:, 0]
        mean = a[None, :, None] * image[:, None, :]
        return mean if xi is None else mean + apply(p.factor(p.kernel(t)), xi)

    def replace(z, other):
        return np.where(mask[:, None, :] == 1, other, z)

    draws = iter(noise)
    z = replace(z, known(grid[0], next(draws)))
    for t, u in zip(grid, grid[1:]):
        h = t - u
        z = z + h * drift(p, z, t) + np.sqrt(h) * apply(np.sqrt(p.GG), next(draws))
        z = replace(z, known(t, next(draws)))
    return replace(denoise(p, z, grid[-1]), known(grid[-1], None))


PROCESSES = [
    {"gamma": 0.01, "nu": 4.01, "numerical_eps": 1e-9, "decomposition": "lower"},
    {"gamma": 0.25, "nu": 4.25, "numerical_eps": 0.0, "decomposition": "upper"},
    {"gamma": 0.0, "nu": 4.0, "numerical_eps": 1e-9, "decomposition": "lower"},
]


def main(folder):
    random = np.random.default_rng(20231118)
    n, d, steps, t_end = 3, 2, 8, 1e-3
    grid = quadratic(t_end, steps)
    for name, draws in [("em", steps), ("sscs", 2 * steps), ("ancestral", steps), ("inpaint", 1 + 2 * steps)]:
        cases = []
        for process in PROCESSES:
            p = Psld(process["gamma"], process["nu"], process["numerical_eps"], process["decomposition"])
            z0 = random.standard_normal((n, 2, d)) * np.array([1.0, np.sqrt(p.M)])[None, :, None]
            noise = random.standard_normal((draws, n, 2, d))
            case = {"process": process, "steps": steps, "t_end": t_end, "n": n, "d": d}
            if name == "inpaint":
                # Exact in single precision, which images are kept in.
                image = np.array([[0.5, -0.25], [-0.75, 0.125], [1.0, 0.375]])
                mask = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
                case.update(image=image.ravel().tolist(), mask=mask.ravel().tolist())
                z = inpaint(p, z0, noise, grid, image, mask)
            else:
                z = {"em": em, "sscs": sscs, "ancestral": ancestral}[name](p, z0, noise, grid)
            case.update(z0=z0.ravel().tolist(), noise=noise.ravel().tolist(), z=z.ravel().tolist())
            cases.append(case)
        with open(f"{folder}/{name}.json", "w") as f:
            f.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main(sys.argv[1])
