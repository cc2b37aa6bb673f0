"""Trains the small networks of models/study/, which `auto`'s table is fitted to and held against.

    python3 scripts/train-study.py OUT [NAME ...] [--fashion FOLDER] [--mnist FOLDER] [--cifar FOLDER]

Needs torch, numpy, onnx, scikit-learn (the digits), Pillow (CIFAR-10) and psld. FOLDER holds what `psld-training data fetch
fashion-mnist`, `... mnist` and `... cifar10` bring. Each network takes five to ten minutes of one core. They are multilayer perceptrons with residual blocks; weights are kept as half precision, to which they are rounded before the check.
"""

import argparse
import gzip
import math
import pathlib

import numpy as np
import onnx
import psld
import torch
from onnx import TensorProto, helper, numpy_helper

BATCH, EMA = 128, 0.999


def images(folder, side):
    """Averaged down to side x side, in [-1, 1]."""
    name = pathlib.Path(folder) / "train-images-idx3-ubyte"
    raw = name.read_bytes() if name.exists() else gzip.decompress(name.with_name(name.name + ".gz").read_bytes())
    x = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, side, 28 // side, side, 28 // side)
    return (x.mean(axis=(2, 4)) / 127.5 - 1).astype(np.float32)[:, None]


def digits():
    from sklearn.datasets import load_digits

    return (load_digits().images / 8 - 1).astype(np.float32)[:, None]


def colour(folder):
    """CIFAR-10 averaged down to 8 x 8, in [-1, 1]."""
    from PIL import Image

    sheets = [np.asarray(Image.open(pathlib.Path(folder) / f"data_batch_{i}.png")) for i in range(1, 6)]
    x = np.concatenate([sheet[..., :3].reshape(-1, 8, 4, 8, 4, 3).mean(axis=(2, 4)) for sheet in sheets])
    return (x / 127.5 - 1).transpose(0, 3, 1, 2).astype(np.float32)


def checkerboard():
    """Uniform on the eight dark squares of a board of 4 x 4, in [-1, 1]^2."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400_000, 2)).astype(np.float32)
    return x[np.floor(2 * x + 2).sum(axis=1) % 2 == 0]


def actions():
    """Sequences of 16 positions of a pusher in the plane, from the left to a goal on the right, past an obstacle on the one
    side or the other; on its way it slows down, and near its end it holds. Smooth, of two modes, in [-1, 1]."""
    rng = np.random.default_rng(0)
    n = 100_000
    side = rng.choice([-1.0, 1.0], n)[:, None]
    height, goal = rng.uniform(0.35, 0.7, (n, 1)), rng.uniform(-0.25, 0.25, (n, 1))
    start, speed = rng.uniform(-0.2, 0.2, (n, 1)), rng.uniform(0.9, 1.3, (n, 1))
    s = np.clip(np.arange(16)[None] / 15 * speed, 0, 1)
    s = s * s * (3 - 2 * s)
    x = -0.9 + 1.8 * s
    y = start + (goal - start) * s + side * height * np.sin(np.pi * s) ** 2
    return np.stack([x, y], axis=1).astype(np.float32)  # [n, 2, 16]


def reaches():
    """The angles of three joints over 24 moments, divided by pi: from rest to rest through one of three postures. Smooth, of
    three modes, in [-1, 1]."""
    rng = np.random.default_rng(0)
    n = 100_000
    postures = np.array([[0.6, -0.5, 0.4], [-0.6, 0.3, 0.6], [0.1, 0.7, -0.6]])
    begin, end = rng.uniform(-0.25, 0.25, (n, 3, 1)), rng.uniform(-0.25, 0.25, (n, 3, 1))
    via = (postures[rng.choice(3, n)] + rng.uniform(-0.15, 0.15, (n, 3)))[..., None]
    share, s = rng.uniform(0.35, 0.65, (n, 1, 1)), np.arange(24)[None, None] / 23
    minimum_jerk = lambda u: u**3 * (10 - 15 * u + 6 * u * u)
    first, second = minimum_jerk(np.clip(s / share, 0, 1)), minimum_jerk(np.clip((s - share) / (1 - share), 0, 1))
    return (begin + (via - begin) * first + (end - via) * second).astype(np.float32)


class Network(torch.nn.Module):
    """F(z, t): `blocks` residual blocks modulated by the time, and the input times a gate of the time beside them."""

    def __init__(self, shape, width, blocks, features):
        super().__init__()
        self.features, d = features, math.prod(shape)
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(200.0), 16)))
        linear = torch.nn.Linear
        self.time = torch.nn.Sequential(linear(32, 96), torch.nn.SiLU(), linear(96, 96), torch.nn.SiLU())
        self.into, self.gate = linear(d, width), linear(96, 2)
        self.blocks = torch.nn.ModuleList(
            torch.nn.ModuleList([linear(width, width), linear(96, width), linear(width, width)]) for _ in range(blocks)
        )
        self.out = linear(width, d)

    def forward(self, z, t):
        phase = self.features(t)[:, None] * self.frequencies
        time = self.time(torch.cat([phase.sin(), phase.cos()], dim=1))
        gate = self.gate(time)
        x = z.flatten(1)
        h = self.into(x)
        for one, modulate, two in self.blocks:
            y = torch.nn.functional.silu(one(torch.nn.functional.silu(h)) + modulate(time))
            h = h + two(y)
        out = self.out(torch.nn.functional.silu(h)) * (1 + gate[:, :1]) + x * gate[:, 1:]
        return out.reshape(z.shape)


def linear_table():
    betas = np.linspace(1e-4, 0.02, 1000)
    return np.cumprod(1 - betas)


def cosine_table():
    bar = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = [min(1 - bar((i + 1) / 100) / bar(i / 100), 0.999) for i in range(100)]
    return np.cumprod(1 - np.array(betas))


def on_table(bars):
    """States, times and epsilon along a table."""
    bars = torch.tensor(bars, dtype=torch.float32)

    def draw(x, eps):
        i = torch.randint(len(bars), (len(x),))
        bar = bars[i].reshape(-1, *[1] * (x.ndim - 1))
        return bar.sqrt() * x + (1 - bar).sqrt() * eps, i.float(), eps

    return draw


def vp(x, eps):
    t = torch.rand(len(x)) * (1 - 1e-3) + 1e-3
    log_mean = (-0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1).reshape(-1, *[1] * (x.ndim - 1))
    return log_mean.exp() * x + (1 - (2 * log_mean).exp()).sqrt() * eps, t, eps


SIGMA_DATA = 0.5


def edm(x, eps):
    """Input and target of EDM's raw network."""
    sigma = torch.exp(torch.randn(len(x)) * 1.4 - 1.0).clamp(0.002, 80)
    c_noise, s = sigma.log() / 4, sigma.reshape(-1, *[1] * (x.ndim - 1))
    total = (s**2 + SIGMA_DATA**2).sqrt()
    z = x + s * eps
    return z / total, c_noise, (x - SIGMA_DATA**2 / total**2 * z) * total / (s * SIGMA_DATA)


def flow(x, eps):
    t = torch.sigmoid(torch.randn(len(x)) * 1.4)
    s = t.reshape(-1, *[1] * (x.ndim - 1))
    return (1 - s) * x + s * eps, t, eps - x


def network(kind, **options):
    return {"state_input": "z", "time_input": "t", "output": "out", "prediction": kind, **options}


def networks(args):
    """Name: data, states drawn, spec, network, training steps."""
    ddpm = {"kind": "ddpm"}
    return {
        "fashion-vp": (lambda: images(args.fashion, 14), vp, {"kind": "vp"}, network("epsilon"), [1, 14, 14], (208, 3), 12000,
                       lambda t: 8 * t),
        "actions-cosine": (actions, on_table(cosine_table()), {**ddpm, "schedule": "cosine", "entries": 100}, network("epsilon"),
                           [2, 16], (160, 3), 12000, lambda t: t * 0.005),
        "checkerboard-flow": (checkerboard, flow, {"kind": "flow"}, network("velocity"), [2], (160, 4), 12000,
                              lambda t: 8 * t),
        "digits-ddpm": (digits, on_table(linear_table()), {**ddpm, "schedule": "linear"}, network("epsilon"), [1, 8, 8],
                        (192, 3), 12000, lambda t: t * 0.005),
        "mnist-edm": (lambda: images(args.mnist, 14), edm, {"kind": "edm", "sigma_min": 0.002, "sigma_max": 80},
                      network("edm", sigma_data=SIGMA_DATA), [1, 14, 14], (208, 3), 12000, lambda t: 2 * t),
        "cifar-flow": (lambda: colour(args.cifar), flow, {"kind": "flow"}, network("velocity"), [3, 8, 8], (208, 3), 12000,
                       lambda t: 8 * t),
        "reaches-ddpm": (reaches, on_table(linear_table()), {**ddpm, "schedule": "linear"}, network("epsilon"), [3, 24],
                         (160, 3), 12000, lambda t: t * 0.005),
    }  # fmt: skip


def halved(path):
    """Stores the weights as half precision, with casts."""
    model = onnx.load(path)
    graph, casts = model.graph, []
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT and math.prod(weight.dims) > 1000:
            name = weight.name
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), name + ".half"))
            casts.append(helper.make_node("Cast", [name + ".half"], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        graph.node.insert(0, node)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def train(name, of, out):
    data, draw, process, described, shape, (width, blocks), steps, features = of
    torch.manual_seed(1)
    data = torch.from_numpy(data())
    net = Network(shape, width, blocks, features)
    average = [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, step / 200) * (0.5 + 0.5 * math.cos(math.pi * step / steps)) + 1e-6
        x = data[torch.randint(len(data), (BATCH,))]
        z, t, target = draw(x, torch.randn_like(x))
        loss = (net(z, t) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        keep = min(EMA, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(average, list(net.parameters()), 1 - keep)
        losses.append(loss.item())
        if (step + 1) % 1000 == 0:
            print(f"{name}: step {step + 1}, loss {np.mean(losses[-1000:]):.5f}", flush=True)
    with torch.no_grad():
        for p, a in zip(net.parameters(), average):
            p.copy_(a.half().float() if a.numel() > 1000 else a)
    spec = {"format": 1, "process": process, "data": {"shape": shape, "range": [-1.0, 1.0]}, "network": described}
    path = pathlib.Path(out) / f"{name}.onnx"
    psld.export(net, path, spec)
    halved(path)
    print(f"{path}: {path.stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--fashion", default="data/fashion-mnist")
    parser.add_argument("--mnist", default="data/mnist")
    parser.add_argument("--cifar", default="data/cifar10")
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, of in networks(args).items():
        if not args.names or name in args.names:
            train(name, of if not args.steps else (*of[:6], args.steps, of[7]), args.out)


main()
