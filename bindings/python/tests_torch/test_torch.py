"""Networks in PyTorch, and pipelines of diffusers. Run by scripts/test-python-torch.sh."""

import json
import os
import subprocess
import sys

# The CUDA libraries that torch wants are empty files here: bound when called, which a CPU never does.
sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_GLOBAL)
import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import psld
from psld.diffusers import Scheduler

ROOT = os.path.join(os.path.dirname(__file__), "..", "..", "..")
with open(os.path.join(ROOT, "tests", "data", "diffusers", "spec.json")) as file:
    SPEC = json.load(file)
CONFIG = DDPMScheduler().config


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    return UNet2DModel(sample_size=8, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=8, **blocks).eval()


@pytest.fixture(scope="module")
def exported(unet, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "unet.onnx"
    psld.export(unet, path, SPEC)
    return path


def run(unet, scheduler, x, calls, generator=None):
    scheduler.set_timesteps(calls)
    assert len(scheduler.timesteps) == calls
    z = x * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            out = unet(scheduler.scale_model_input(z, t), t).sample
            z = scheduler.step(out, t, z, generator=generator).prev_sample
    return z.numpy()


def test_an_exported_network_describes_itself(exported):
    assert [path.name for path in exported.parent.iterdir()] == ["unet.onnx"]
    with psld.Model(exported) as model:
        assert model.info["spec"]["process"]["kind"] == "ddpm" and model.shape == (3, 8, 8)
    assert b"psld.golden" in exported.read_bytes()[-4096:]


def test_an_exported_network_is_verified(exported):
    environment = {"PSLD_ONNXRUNTIME": psld.load_runtime()["library"]}
    command = [os.environ["PSLD_PROGRAM"], "verify", exported]
    verified = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert verified.returncode == 0, verified.stderr


def test_export_leaves_a_network_as_it_is(tmp_path):
    """With what differs between training and evaluation, some of it frozen, and with labels of no null class."""

    class Labelled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.BatchNorm2d(3), torch.nn.Dropout(0.5))
            self.classes = torch.nn.Embedding(4, 3)

        def forward(self, z, t, y):
            return self.body(z) + self.classes(y)[:, :, None, None] + 0 * t[:, None, None, None]

    network = Labelled().train()
    network.body[1].eval()
    modes = [module.training for module in network.modules()]
    buffers = [buffer.clone() for buffer in network.buffers()]
    spec = {**SPEC, "network": {"prediction": "epsilon", "label_input": "y", "classes": 4}}
    psld.export(network, tmp_path / "x.onnx", spec)
    assert modes == [module.training for module in network.modules()]
    assert all(torch.equal(a, b) for a, b in zip(buffers, network.buffers()))
    with psld.Model(tmp_path / "x.onnx") as model:
        assert np.isfinite(model.sample(2, nfe=3, labels=[0, 3])).all()


def test_a_network_that_exports_to_something_else_is_refused(tmp_path):
    class Fickle(torch.nn.Module):
        def forward(self, z, t):
            z = z + 0 * t[:, None, None, None]
            return z if torch.jit.is_tracing() else 2 * z

    with pytest.raises(psld.ModelError, match="differ from PyTorch's"):
        psld.export(Fickle(), tmp_path / "x.onnx", SPEC)
    with pytest.raises(psld.ArgumentError, match="time_dtype"):
        psld.export(Fickle(), tmp_path / "x.onnx", SPEC, time_dtype="float16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sampler", ["dpmpp", "heun", "unipc"])
def test_a_pipeline_samples_as_the_library(unet, exported, sampler):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32))
    scheduler = Scheduler.from_config(CONFIG, sampler=sampler)
    with psld.Model(exported) as model:
        wanted = model.sample(2, sampler=sampler, nfe=9, init=x.numpy() * scheduler.init_noise_sigma)
    assert np.abs(run(unet, scheduler, x, 9) - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_phase_space_in_a_pipeline():
    """Exact on unit normal data, whose epsilon is sigma(t) z: what comes out is unit normal again."""

    class Normal(torch.nn.Module):
        def forward(self, z, t):
            alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
            # What a network of this process is told of the time is an entry, also between two.
            logarithm = np.interp(float(t), np.arange(-1, 1000), np.concatenate([[0.0], np.log(alphas)]))
            return type("Output", (), {"sample": z * float(np.sqrt(-np.expm1(logarithm)))})

    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for sampler in ("em", "dpmpp"):
        scheduler = Scheduler.from_config(CONFIG, process={"kind": "psld"}, sampler=sampler)
        z = run(Normal(), scheduler, x, 100, torch.Generator().manual_seed(1))
        assert abs(z.std() - 1) < 0.05 and abs(z.mean()) < 0.02, (sampler, z.mean(), z.std())


@pytest.mark.parametrize("sampler", ["dpmpp", "em"])
def test_guidance_and_half_precision_of_a_pipeline(unet, sampler):
    """A pipeline that shows its batch twice and mixes the outputs: the same as with the mixed network."""
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def guided(dtype, twice):
        scheduler = Scheduler.from_config(CONFIG, sampler=sampler)
        scheduler.set_timesteps(5)
        z, generator = x.to(dtype), [torch.Generator().manual_seed(i) for i in range(2)]
        for t in scheduler.timesteps:
            if twice:
                shown = scheduler.scale_model_input(torch.cat([z] * 2), t)
                assert shown.dtype == dtype and shown.shape[0] == 4
                one, other = (0.1 * shown).chunk(2)
            else:
                one = other = 0.1 * scheduler.scale_model_input(z, t)
            z = scheduler.step(0.5 * (one + other), t, z, generator=generator).prev_sample
            assert z.dtype == dtype
        return z.float()

    wide = guided(torch.float32, False)
    assert torch.equal(guided(torch.float32, True), wide)
    assert (guided(torch.float16, True) - wide).abs().max() < 0.05 * wide.abs().max()
    # With momenta of its own a path cannot be shown twice.
    scheduler = Scheduler.from_config(CONFIG, process={"kind": "psld"})
    scheduler.set_timesteps(5)
    assert scheduler.scale_model_input(x.half(), 0).dtype == torch.float16
    scheduler.set_timesteps(5)
    scheduler.scale_model_input(torch.cat([x] * 2), 0)
    with pytest.raises(ValueError, match="guidance"):
        scheduler.step(x, 0, x)


def test_class_conditional_networks_and_ranges():
    spec = {**SPEC, "network": {"prediction": "epsilon", "label_input": "y", "classes": 4}}
    spec["data"] = {"shape": [3, 8, 8], "range": [0.0, 1.0]}
    scheduler = Scheduler(spec, sampler="dpmpp", clip=True)
    scheduler.set_timesteps(4)
    clips = [row for row in scheduler._rows if row["row"] == "map"]
    assert clips and all((row["low"], row["high"]) == (0.0, 1.0) for row in clips)


def test_the_pipeline_of_diffusers(unet):
    pipeline = DDPMPipeline(unet, Scheduler.from_config(CONFIG, sampler="ancestral"))
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=4, generator=torch.Generator().manual_seed(0), output_type="np").images
    assert images.shape == (2, 8, 8, 3) and np.isfinite(images).all()
    pipeline = DDPMPipeline(unet, Scheduler.from_config(CONFIG, process={"kind": "psld"}))
    with pytest.raises(ValueError, match="scale_model_input"):
        pipeline(num_inference_steps=4)


def test_what_is_refused():
    with pytest.raises(psld.ArgumentError, match="rk45"):
        Scheduler(sampler="rk45").set_timesteps(10)
    with pytest.raises(psld.ArgumentError, match="beta_schedule"):
        Scheduler(config={"beta_schedule": "other"})
    with pytest.raises(psld.ArgumentError, match="prediction_type"):
        Scheduler(config={"prediction_type": "flow"})
    for config in ({"num_train_timesteps": 1000}, {**CONFIG, "rescale_betas_zero_snr": True}):
        with pytest.raises(psld.ArgumentError, match="table of betas"):
            Scheduler.from_config(config)
    with pytest.raises(ValueError, match="set_timesteps"):
        Scheduler().step(torch.zeros(1, 3, 8, 8), 0, torch.zeros(1, 3, 8, 8))
