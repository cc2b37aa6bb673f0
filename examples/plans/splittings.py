#!/usr/bin/env python3
"""Writes plans for splitting integrators of phase-space diffusion (arXiv 2310.07894) that psld has not built in.

    python3 splittings.py NOBAB model.json --steps 50 > plan.json
    psld sample model.onnx --plan plan.json

SPEC is the model's spec as JSON: a side file, an analytic model, or what `psld info MODEL --json` prints. The
process must be psld or cld, the network must predict epsilon. From C the same file goes to psld_sampler_create_from_plan.

A plan is data: rows that call the network, and rows that advance the state by 2 x 2 coefficients. This script needs the
Python standard library only and shares no code with psld; where both know a scheme (RVV, ROBA, CVV), they agree.
"""

import argparse
import json
import math
import sys

# A step from t down to u. Letters, in the order of execution: A moves the position, B the momentum, b the momentum over
# half a step, O solves friction and its noise exactly. `*` before a letter is a network call at t, `+` one at u; a letter
# without uses the last call's epsilon, at that call's time.
SCHEMES = {
    # probability flow, Euler parts
    "NSE": "*B *A",
    "RSE": "*B A",
    "NVV": "*b *A *b",
    "RVV": "*b A +b",
    # probability flow, conjugate parts
    "CSE": "*B A",
    "CVV": "*b A +b",
    # reverse SDE, Euler parts
    "NOBA": "O *B *A",
    "NBAO": "*B *A O",
    "NOBAB": "O *b *A *b",
    "ROBA": "O *B A",
    "RBAO": "*B A O",
    "ROBAB": "O *b A +b",
    # reverse SDE, conjugate parts
    "COBA": "O *B A",
}

I = [[1.0, 0.0], [0.0, 1.0]]


def add(a, b, scale=1.0):
    return [[x + scale * y for x, y in zip(r, s)] for r, s in zip(a, b)]


def mul(a, b):
    return [[sum(x * y for x, y in zip(row, column)) for column in zip(*b)] for row in a]


def times(a, scale):
    return [[scale * x for x in row] for row in a]


def rows(part, a):
    """The rows of `a` that a part advances: A the first, B and b the second."""
    return [a[0], [0.0] * len(a[1])] if part == "A" else [[0.0] * len(a[0]), a[1]]


class Process:
    """PSLD and CLD at critical damping; methods of the same names as in psld's src/process."""

    def __init__(self, spec):
        p = spec["process"]
        if p["kind"] not in ("psld", "cld"):
            sys.exit(f"process {p['kind']}: splittings of position and momentum need psld or cld")
        cld = p["kind"] == "cld"
        self.gamma = 0.0 if cld else p.get("gamma", 0.01)
        self.nu = p.get("nu", 4.0 if cld else 4.01)
        self.beta_min, self.beta_max = p.get("beta_min", 8.0), p.get("beta_max", 8.0)
        self.delta = (self.nu - self.gamma) / 2
        self.mass = self.delta**-2
        hsm = p.get("score_matching", "hsm") == "hsm"
        self.initial = p.get("kappa", 0.04) * self.mass if hsm else 0.0
        self.eps = p.get("numerical_eps", 1e-9)
        self.upper = p.get("decomposition", "lower") == "upper"

        network = spec.get("network", {})
        if network.get("prediction", "epsilon") != "epsilon":
            sys.exit(f"prediction {network['prediction']}: this script writes plans for epsilon networks")
        default = "momentum" if self.gamma == 0 else "position" if self.nu == 0 else "all"
        self.outputs = {"all": [0, 1], "position": [0], "momentum": [1]}[network.get("predicts") or default]

    def beta(self, t):
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def beta_between(self, u, t):
        return (t - u) * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * (t + u))

    def drift(self, t):
        h = 0.5 * self.beta(t)
        return [[-h * self.gamma, h / self.mass], [-h, -h * self.nu]]

    def friction(self, t):
        """What O takes of the reverse drift: beta D S^-1."""
        h = 0.5 * self.beta(t)
        return [[h * self.gamma, 0.0], [0.0, h * self.nu]]

    def pull(self, t):
        """G G^T L^-T: what multiplies -epsilon in the reverse drift."""
        b = self.beta_between(0.0, t)
        c = (self.gamma + self.nu) / 2
        x = c * b
        if x < 0.7:
            r3, term = 0.0, x**3 / 6
            for n in range(4, 24):
                r3, term = r3 + term, term * x / n
        else:
            r3 = math.expm1(x) - x - x * x / 2
        shared = 0.5 * self.gamma * self.nu * b * b + r3
        nxx, nmm = self.gamma * b + shared, self.mass * (self.nu * b + shared)
        nxm = 0.5 * self.delta * b * b
        p1, p2, v, e = 0.5 * b / self.mass, 1 - 0.5 * self.delta * b, self.initial, math.exp(-x)
        xx, xm, mm = ((nxx + v * p1 * p1) * e, (nxm + v * p1 * p2) * e, (nmm + v * p2 * p2) * e)
        det = nxx * nmm - nxm * nxm + v * (p2 * p2 * nxx - 2 * p1 * p2 * nxm + p1 * p1 * nmm)
        det = det * e * e + self.eps * (xx + mm) + self.eps**2
        xx, mm = xx + self.eps, mm + self.eps
        if self.upper:
            inverse = [[math.sqrt(mm / det), 0.0], [-xm / math.sqrt(mm * det), 1 / math.sqrt(mm)]]
        else:
            inverse = [[1 / math.sqrt(xx), -xm / math.sqrt(xx * det)], [0.0, math.sqrt(xx / det)]]
        noise = [[self.beta(t) * self.gamma, 0.0], [0.0, self.beta(t) * self.mass * self.nu]]
        return mul(noise, inverse)


class Flow:
    """The reverse dynamics that a scheme splits: linear z - weight pull epsilon."""

    def __init__(self, process, stochastic):
        self.process, self.stochastic = process, stochastic
        self.weight = 1.0 if stochastic else 0.5

    def linear(self, t):
        drift = times(self.process.drift(t), -1.0)
        return add(drift, self.process.friction(t)) if self.stochastic else drift

    def euler(self, part, t, h):
        """(P, Q) of z <- P z + Q epsilon."""
        on_eps = times(self.process.pull(t), -self.weight * h)
        return add(I, rows(part, times(self.linear(t), h))), rows(part, on_eps)

    def conjugate(self, part, t, u, strength):
        """The same for a step of the conjugate integrator of the part, B = strength times its row of ones."""
        b = rows(part, [[strength, strength]] * 2)
        # dK/ds = K (B + linear(s)) from K(u) = I on; linear(s) is linear in s, so K is a power series of s - u.
        at_u = rows(part, self.linear(u))
        slope = times(add(rows(part, self.linear(t)), at_u, -1.0), 1 / (t - u))
        constant = add(b, at_u)

        def propagator(s):
            size = sum(abs(x) for m in (constant, slope) for row in m for x in row)
            stretches = max(1, math.ceil(2 * size * s))
            h, product = s / stretches, I
            for i in range(stretches):
                m, n = times(add(constant, slope, i * h), h), times(slope, h * h)
                total, term, before = I, I, times(I, 0.0)
                for order in range(1, 18):
                    term, before = times(add(mul(term, m), mul(before, n)), 1 / order), term
                    total = add(total, term)
                product = mul(product, total)
            return product

        on_eps = times(I, 0.0)
        for s, weight in quadrature(u, t):
            value = mul(propagator(s - u), rows(part, self.process.pull(s)))
            on_eps = add(on_eps, value, -self.weight * weight)
        return mul(propagator(t - u), add(I, b, -(t - u))), on_eps


def legendre(n=16):
    rule = []
    for i in range(n):
        x = -math.cos(math.pi * (i + 0.75) / (n + 0.5))
        for _ in range(8):
            p, before = 1.0, 0.0
            for j in range(n):
                p, before = ((2 * j + 1) * x * p - j * before) / (j + 1), p
            slope = n * (x * p - before) / (x * x - 1)
            x -= p / slope
        rule.append((x, 2 / ((1 - x * x) * slope * slope)))
    return rule


RULE = legendre()


def quadrature(low, high):
    """Nodes and weights on panels that at most double the time."""
    panels = max(1, math.ceil(math.log2(high / low)))
    edges = [low * (high / low) ** (i / panels) for i in range(panels + 1)]
    for a, b in zip(edges, edges[1:]):
        for x, weight in RULE:
            yield (a + b) / 2 + x * (b - a) / 2, weight * (b - a) / 2


class Plan:
    def __init__(self, process):
        self.process, self.rows, self.step, self.draws, self.calls = process, [], 0, 0, 0

    def call(self, t):
        self.rows.append({"row": "eval", "step": self.step, "network": 0, "from": 0, "t": t, "slot": 0})
        self.calls += 1

    def update(self, on_z, on_eps=None, noise=None):
        """z <- on_z z + on_eps epsilon + noise xi, composed with an update before it."""
        terms, draws = [], []
        if on_eps is not None and any(x != 0 for row in on_eps for x in row):
            kept = self.process.outputs
            if any(row[j] != 0 for row in on_eps for j in (0, 1) if j not in kept):
                sys.exit("the network gives one half of epsilon, and the scheme needs both with this factor")
            terms = [[0, [[row[j] for j in kept] for row in on_eps]]]
        if noise is not None:
            draws = [["solver", self.draws, noise]]
            self.draws += 1
        last = self.rows[-1] if self.rows else None
        if last and last["row"] == "update":
            mapped = [[slot, mul(on_z, b)] for slot, b in last["terms"]]
            if mapped and terms:
                mapped = [[0, add(mapped[0][1], terms[0][1])]]
            last["A"], last["terms"] = mul(on_z, last["A"]), mapped or terms
            last["noise"] = [[p, d, mul(on_z, c)] for p, d, c in last["noise"]] + draws
            return
        self.rows.append({"row": "update", "step": self.step, "from": 0, "A": on_z, "terms": terms,
                          "noise": draws, "into": 0})


def write(args, spec):
    process = Process(spec)
    stochastic, conjugate = "O" in args.scheme, args.scheme.startswith("C")
    flow, plan = Flow(process, stochastic), Plan(process)
    letters = SCHEMES[args.scheme].split()
    # The position does not hear the score without noise of its own: no call for it alone.
    if process.gamma == 0:
        letters = ["A" if letter == "*A" else letter for letter in letters]
    n = args.steps
    length = args.t_start - args.t_end
    power = 2 if args.grid == "quadratic" else 1
    grid = [args.t_end + length * ((n - i) / n) ** power for i in range(n + 1)]
    grid[0], grid[n] = args.t_start, args.t_end
    for t, u in zip(grid, grid[1:]):
        h, middle, seen, halves = t - u, 0.5 * (t + u), t, 0
        for letter in letters:
            if letter[0] in "*+":
                seen = t if letter[0] == "*" else u
                plan.call(seen)
            part = letter[-1]
            if part == "O":
                b = process.beta_between(u, t)
                strong = args.lambda_s * b
                if args.noise_time == "mid":
                    strong = args.lambda_s * process.beta(middle) * middle
                decay = [[math.exp(-b * process.gamma / 2), 0.0], [0.0, math.exp(-b * process.nu / 2)]]
                x = math.sqrt(-math.expm1(-strong * process.gamma))
                m = math.sqrt(-process.mass * math.expm1(-b * process.nu))
                plan.update(decay, noise=[[x, 0.0], [0.0, m]])
                continue
            ends = (t, u)
            if part == "b":
                ends = (t, middle) if halves == 0 else (middle, u)
                halves += 1
            if conjugate:
                plan.update(*flow.conjugate(part, *ends, args.strength))
            else:
                plan.update(*flow.euler(part, seen, 0.5 * h if part == "b" else h))
        plan.step += 1
    if not args.no_denoise:
        # One noise-free Euler step of the whole drift: of the SDE for stochastic schemes, else of the flow.
        t = args.t_end
        plan.call(t)
        plan.update(add(I, process.drift(t), -t), times(process.pull(t), -flow.weight * t))
    return {
        "format": 1, "sampler": args.scheme, "k": 2, "output_blocks": len(process.outputs), "states": 1, "slots": 1,
        "steps": n, "nfe": plan.calls, "grid": grid, "rows": plan.rows,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scheme", choices=SCHEMES, metavar="SCHEME", help=", ".join(SCHEMES))
    parser.add_argument("spec", metavar="SPEC.json", help="the model's spec")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--grid", choices=["uniform", "quadratic"], default="quadratic")
    parser.add_argument("--t-start", type=float, default=1.0)
    parser.add_argument("--t-end", type=float, default=1e-3)
    parser.add_argument("--no-denoise", action="store_true", help="leave out the closing step")
    parser.add_argument("--lambda", dest="strength", type=float, default=0.5, help="of CSE, CVV and COBA")
    parser.add_argument("--lambda-s", type=float, default=1.0, help="strength of the position's noise in O")
    parser.add_argument("--noise-time", choices=["step", "mid"], default="step",
                        help="what lambda-s multiplies: the step's length, or (as recalled of the paper, and not consistent "
                             "for short steps) the time in its middle")
    args = parser.parse_args()
    if args.steps < 1 or not 0 < args.t_end < args.t_start <= 1 or args.lambda_s < 0:
        parser.error("expected steps >= 1, 0 < t-end < t-start <= 1, lambda-s >= 0")
    with open(args.spec, encoding="utf-8") as file:
        spec = json.load(file)
    spec = spec.get("psld.spec", spec.get("spec", spec))
    if "process" not in spec:
        sys.exit(f"{args.spec}: no spec in it (a process is missing)")
    json.dump(write(args, spec), sys.stdout)
    print()


if __name__ == "__main__":
    main()
