"""What an export bakes in, and the types that networks compute in. Run by scripts/test-python-torch.sh."""

import copy
import os
import subprocess

import numpy as np
import pytest
import torch

import psld

F = torch.nn.functional
SPEC = {"format": 1, "process": {"kind": "vp"}, "data": {"shape": [3, 8, 8]}, "network": {}}
LABELLED = {**SPEC, "network": {"label_input": "y", "classes": 4}}


class Net(torch.nn.Module):
    """Some layers, and what a test makes of them."""

    def __init__(self, forward):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.time = torch.nn.Linear(1, 3)
        self.classes = torch.nn.Embedding(4, 3)
        self.made = forward

    def forward(self, z, t, *y):
        return self.made(self, z, t, *y)


def spread(x):
    return x[:, None, None, None]


def flat(net, z, t):
    """Normalised over a sample; how many samples there are is a number of Python's, which a trace keeps."""
    x = (net.conv(z) * (1 + spread(t))).reshape(int(z.shape[0]), -1)
    return ((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)).reshape(z.shape)


def scaled(net, z, t):
    return net.conv(z) * spread(t)


def counted(net, z, t):
    return net.conv(z) * (spread(t) / 1000)


def embedded(net, z, t):
    return net.conv(z) + net.time(t[:, None])[..., None, None]


@pytest.mark.parametrize(
    "forward, said",
    [
        (flat, "in a batch of 1: the batch of the example, 2, is baked in"),
        (lambda net, z, t: net.conv(z) * spread(t * len(z)) / z.shape[0], "the batch of the example, 2, is baked in"),
        (lambda net, z, t: net.conv(z) * float(t[0]), "the time of the example, 0.5, is baked in"),
        (lambda net, z, t: scaled(net, z, t) if t.max() > 0.1 else net.conv(z), "at t = 0.02: the time"),
        (lambda net, z, t: scaled(net, z, t) + float(z.abs().max(dim=1).values[0, 0, 0]), "depends on the samples beside it"),
        (lambda net, z, t: F.dropout(scaled(net, z, t)), "gives other values each time"),
        (lambda net, z, t: scaled(net, z, t) + torch.randn_like(z), "gives other values each time"),
        (lambda net, z, t: F.batch_norm(scaled(net, z, t), None, None, training=True), "depends on the samples beside it"),
        (lambda net, z, t: scaled(net, z, t).squeeze(0), r"returned \[3, 8, 8\] for a state of \[1, 3, 8, 8\]"),
        (lambda net, z, t: scaled(net, z, t).mean((2, 3)), r"returned \[1, 3\]"),
        (lambda net, z, t: net.conv(z) * t[0], "takes the time of one sample for all"),
        (lambda net, z, t, y: scaled(net, z, t) + net.classes.weight[int(y[0])][:, None, None], "for labels .* is baked in"),
        (lambda net, z, t, y: net.conv(z) if (y > 3).any() else scaled(net, z, t) + spread(y), "for the null class"),
        (lambda net, z, t, y: scaled(net, z, t) + net.classes(y[:1])[..., None, None], "takes the label of one sample for all"),
    ],
)
def test_what_is_baked_in_is_named(tmp_path, forward, said):
    torch.manual_seed(0)
    spec = LABELLED if forward.__code__.co_argcount == 4 else SPEC
    with pytest.raises(psld.ModelError, match=said):
        psld.export(Net(forward), tmp_path / "x.onnx", spec)
    assert not list(tmp_path.iterdir())


def test_a_choice_by_the_state_is_baked_in(tmp_path):
    def choose(net, z, t):
        """A branch for each sample, as PyTorch computes it and as no trace does."""
        rows = zip(z.split(1), t.split(1))
        return torch.cat([scaled(net, a, b) if a[0, 0, 0, 0] > 0.5 else net.conv(a) for a, b in rows])

    with pytest.raises(psld.ModelError, match="baked in") as refused:
        psld.export(Net(choose), tmp_path / "x.onnx", SPEC)
    # Where PyTorch saw it.
    assert "test_export.py" in refused.value.hint


@pytest.mark.parametrize("spec", [SPEC, LABELLED, {**SPEC, "process": {"kind": "psld"}, "network": {"process": {"kind": "vp"}}}])
@pytest.mark.parametrize("ignored", ["time", "all"])
def test_an_input_that_is_not_looked_at_is_kept(tmp_path, spec, ignored):
    net = Net(lambda net, z, *_: net.conv(z) if ignored == "time" else torch.ones_like(net.conv(z)))
    psld.export(net, tmp_path / "x.onnx", spec)
    labels = {"labels": [0, 3]} if "classes" in spec["network"] else {}
    with psld.Model(tmp_path / "x.onnx") as model:
        assert np.isfinite(model.sample(2, nfe=3, **labels)).all()


def test_a_network_that_knows_no_state_is_exported(tmp_path):
    psld.export(Net(lambda net, z, t: spread(t).expand(-1, 3, 8, 8)), tmp_path / "x.onnx", SPEC)
    with psld.Model(tmp_path / "x.onnx") as model:
        assert np.isfinite(model.sample(2, nfe=3)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("forward, time_dtype", [(scaled, "float32"), (embedded, "float32"), (counted, "int64")])
def test_networks_in_other_types(tmp_path, dtype, forward, time_dtype):
    torch.manual_seed(0)
    net = Net(forward).to(dtype)
    before = copy.deepcopy(net.state_dict())
    path = tmp_path / "x.onnx"
    spec = {**SPEC, "network": {"time_scale": 1000.0 if time_dtype == "int64" else 1.0}}
    psld.export(net, path, spec, time_dtype=time_dtype)
    assert all(torch.equal(value, before[name]) and value.dtype == dtype for name, value in net.state_dict().items())
    # The same as PyTorch's own in float32, with weights that every type here holds.
    net = net.float()

    def call(z, t):
        t = torch.tensor(np.rint(t).astype(np.int64) if time_dtype == "int64" else t.astype(np.float32))
        return net(torch.tensor(z), t).detach().numpy()

    with psld.Model(path) as model, psld.Model(call, spec=spec) as wanted:
        # Whole times make steps begin at such.
        grid = model.sampler("euler", nfe=6).plan["grid"]
        a, b = (m.sample(3, time_grid=grid, sampler="euler", seed=1) for m in (model, wanted))
        assert np.abs(a - b).max() < (2e-2 if dtype == torch.float16 else 1e-4) * np.abs(b).max()
    environment = {"PSLD_ONNXRUNTIME": psld.load_runtime()["library"]}
    verified = subprocess.run([os.environ["PSLD_PROGRAM"], "verify", path], env=environment, capture_output=True, text=True)
    assert verified.returncode == 0, verified.stderr
    assert f"for {'float16' if dtype == torch.float16 else 'float32'}" in verified.stdout


def test_half_of_a_network_in_half_precision(tmp_path):
    net = Net(lambda net, z, t: net.conv(z) + net.time(t[:, None])[..., None, None].to(z.dtype))
    net.conv.half()
    psld.export(net, tmp_path / "x.onnx", SPEC)


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(psld.ArgumentError, match="meta"):
        psld.export(Net(scaled).to("meta"), tmp_path / "x.onnx", SPEC)


def test_unets_of_diffusers_in_half_precision(tmp_path):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(16,), norm_num_groups=8)
    unet = UNet2DModel(sample_size=8, layers_per_block=1, **blocks)
    spec = {**SPEC, "process": {"kind": "ddpm", "schedule": "linear", "entries": 1000}}
    sizes = []
    for dtype in (torch.bfloat16, torch.float16):
        psld.export(unet.to(dtype), tmp_path / "x.onnx", spec)
        sizes.append(os.path.getsize(tmp_path / "x.onnx"))
    # Its weights are half the bytes of float32.
    assert sizes[1] < 0.75 * sizes[0]
