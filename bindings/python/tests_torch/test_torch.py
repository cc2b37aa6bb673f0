"""Networks in PyTorch, and pipelines of diffusers. Run by scripts/test-python-torch.sh."""

import json
import os
import subprocess

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, UNet2DConditionModel, UNet2DModel

import psld
from psld.diffusers import Scheduler

ROOT = os.path.join(os.path.dirname(__file__), "..", "..", "..")
with open(os.path.join(ROOT, "tests", "data", "diffusers", "spec.json")) as file:
    SPEC = json.load(file)
CONFIG = DDPMScheduler(clip_sample=False).config


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


class Normal(torch.nn.Module):
    """Exact on unit normal data, whose epsilon is sigma(t) z."""

    def forward(self, z, t):
        alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
        # What a network of this process is told of the time is an entry, also between two.
        logarithm = np.interp(float(t), np.arange(-1, 1000), np.concatenate([[0.0], np.log(alphas)]))
        return type("Output", (), {"sample": z * float(np.sqrt(-np.expm1(logarithm)))})


def go_on(network, scheduler, z, times, generator=None, after=None):
    """What a pipeline does from some time on."""
    with torch.no_grad():
        for i, t in enumerate(times):
            out = network(scheduler.scale_model_input(z, t), t).sample
            z = scheduler.step(out, t, z, generator=generator).prev_sample
            if after is not None:
                z = after(z, i)
    return z


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
    """What comes out of unit normal data is unit normal again."""
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
    scheduler = Scheduler.from_config(CONFIG, process={"kind": "psld"})
    scheduler.set_timesteps(5)
    assert scheduler.scale_model_input(x.half(), scheduler.timesteps[0]).dtype == torch.float16


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


def test_noise_is_that_of_the_table():
    scheduler = Scheduler.from_config(CONFIG, time_grid=[1.0, 0.5, 0.1, 0.001])
    scheduler.set_timesteps(None)
    x, noise = (torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2))
    entries = scheduler.timesteps.round().long()
    assert entries.tolist() == [999, 499, 99, 0]
    wanted = DDPMScheduler().add_noise(x, noise, entries)
    assert torch.allclose(scheduler.add_noise(x, noise, scheduler.timesteps), wanted, atol=1e-5)
    one = scheduler.add_noise(x.half(), noise.half(), scheduler.timesteps[1:2])
    assert one.dtype == torch.float16 and torch.allclose(one.float(), DDPMScheduler().add_noise(x, noise, entries[1:2]), atol=0.01)
    with pytest.raises(psld.ArgumentError, match="none of the scheduler's"):
        scheduler.add_noise(x, noise, torch.tensor([17]))


@pytest.mark.parametrize("sampler, begin", [("dpmpp", 4), ("unipc", 5), ("heun", 4), ("gddim", 3), ("dpmpp", 8)])
def test_image_to_image_samples_as_the_library(unet, exported, sampler, begin):
    """From a time on, with the sampler's own first step there; told by the index, and by the first timestep."""
    x, noise = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2))
    scheduler = Scheduler.from_config(CONFIG, sampler=sampler)
    results = []
    for told in (True, False):
        scheduler.set_timesteps(9)
        times = scheduler.timesteps[begin:]
        grid = scheduler._plan["grid"][scheduler._calls[begin]["step"] :]
        if told:
            scheduler.set_begin_index(begin)
        z = scheduler.add_noise(x, noise, times[:1])
        results.append(go_on(unet, scheduler, z, times))
    assert torch.equal(*results)
    with psld.Model(exported) as model:
        if begin < 8:
            wanted = model.sample(2, sampler=sampler, time_grid=grid, init=z.numpy())
        else:
            # The closing step alone: the data estimate at the last time.
            with model.start(2, sampler="em", time_grid=[grid[0] * 1.001, grid[0]], init=z.numpy(), previews=True) as run:
                run.finish()
                wanted = run.x0
    assert np.abs(results[0].numpy() - wanted).max() < (1e-5 if begin < 8 else 1e-2) * np.abs(wanted).max()


def test_a_begin_within_a_step_is_refused():
    scheduler = Scheduler.from_config(CONFIG, sampler="heun")
    scheduler.set_timesteps(9)
    with pytest.raises(psld.ArgumentError, match="within a step of `heun`"):
        scheduler.set_begin_index(3)
    with pytest.raises(psld.ArgumentError, match="expected 0 to 8"):
        scheduler.set_begin_index(9)


@pytest.mark.parametrize("process", [None, {"kind": "psld"}, {"kind": "edm"}])
def test_image_to_image_on_normal_data(process):
    """Unit normal images stay so, and keep of the original what its noise has left: the correlation q / (1 + q), with q the
    signal-to-noise ratio at the beginning."""
    x, noise = (torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(2))
    torch.manual_seed(2)
    scheduler = Scheduler.from_config(CONFIG, process=process, sampler="em")
    scheduler.set_timesteps(150)
    begin = 110
    times = scheduler.timesteps[begin:]
    scheduler.set_begin_index(begin)
    scale, deviation = scheduler._kernel(scheduler._calls[begin])[:2]
    z = scheduler.add_noise(x, noise, times[:1])
    assert abs(z.std() - np.hypot(scale, deviation)) < 0.02
    out = go_on(Normal(), scheduler, z, times, torch.Generator().manual_seed(3))
    q = (scale / deviation) ** 2
    assert 0.2 < q / (1 + q) < 0.97
    assert abs(out.std() - 1) < 0.03 and abs((out * x).mean() - q / (1 + q)) < 0.03, (out.std(), (out * x).mean(), q)


@pytest.mark.parametrize("process", [None, {"kind": "psld"}, {"kind": "edm"}])
def test_a_pipeline_may_change_what_step_gave(process):
    """Half of an image is put back after each step, as inpainting pipelines do: states stay distributed as they are along the
    path, momenta included."""
    x, noise = (torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(2))
    torch.manual_seed(2)
    scheduler = Scheduler.from_config(CONFIG, process=process, sampler="dpmpp")
    scheduler.set_timesteps(60)
    times = scheduler.timesteps

    def put_back(z, i):
        if i == len(times) - 1:
            return z
        z = z.clone() if i % 2 else z
        z[..., :32] = scheduler.add_noise(x, noise, times[i + 1 : i + 2])[..., :32]
        if i == 30:
            # What the next call begins with: of unit normal data in either half.
            scheduler._follow(z, None)
            assert torch.allclose(scheduler._input(), z, atol=1e-5 * float(z.abs().max()))
            mean, factor = scheduler._paths[scheduler._rows[scheduler._at]["t"]]
            wanted = np.outer(mean, mean) + factor @ factor.T
            for half in (slice(0, 32), slice(32, 64)):
                blocks = [block[..., half].flatten() for block in scheduler._blocks(scheduler._states[0])]
                found = np.atleast_2d(np.cov(torch.stack(blocks).numpy()))
                assert np.allclose(found, wanted, rtol=0.06, atol=0.02 * np.sqrt(np.outer(wanted.diagonal(), wanted.diagonal())))
            seen.append(i)
        return z

    seen = []
    out = go_on(Normal(), scheduler, noise * scheduler.init_noise_sigma, times, torch.Generator().manual_seed(3), put_back)
    assert seen == [30]
    known, unknown = out[..., :32], out[..., 32:]
    assert (known - x[..., :32]).abs().max() < 0.25 and (known - x[..., :32]).std() < 0.03
    assert abs(unknown.std() - 1) < 0.05 and abs((unknown * x[..., 32:]).mean()) < 0.03


def tiny():
    """What a latent pipeline is made of, small."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    rest = dict(text_encoder=None, tokenizer=None, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return dict(unet=unet.eval(), vae=vae.eval(), **rest)


@pytest.mark.parametrize("process", [None, {"kind": "psld"}])
def test_pipelines_that_start_from_an_image(process):
    from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline

    embeddings = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    asked = dict(image=image, prompt_embeds=embeddings, guidance_scale=1.0, num_inference_steps=10, output_type="np")
    for kind, more in ((StableDiffusionImg2ImgPipeline, {}), (StableDiffusionInpaintPipeline, dict(mask_image=mask, height=16, width=16))):
        pipeline = kind(scheduler=Scheduler.from_config(CONFIG, process=process), **tiny())
        pipeline.set_progress_bar_config(disable=True)
        made = []
        for strength in (0.25, 1.0) if more else (0.25, 0.6):
            torch.manual_seed(0)
            generator = torch.Generator().manual_seed(0)
            made.append(pipeline(strength=strength, generator=generator, **asked, **more).images)
            assert made[-1].shape == (1, 16, 16, 3) and np.isfinite(made[-1]).all()
        assert (made[0] != made[1]).any()
    guided = pipeline(strength=0.6, negative_prompt_embeds=-embeddings, **{**asked, "guidance_scale": 5.0}, **more)
    assert np.isfinite(guided.images).all()


def test_what_is_refused():
    with pytest.raises(psld.ArgumentError, match="rk45"):
        Scheduler(sampler="rk45").set_timesteps(10)
    with pytest.raises(psld.ArgumentError, match="beta_schedule"):
        Scheduler(beta_schedule="other")
    with pytest.raises(psld.ArgumentError, match="prediction_type"):
        Scheduler(prediction_type="other")
    with pytest.raises(ValueError, match="set_timesteps"):
        Scheduler().step(torch.zeros(1, 3, 8, 8), 0, torch.zeros(1, 3, 8, 8))
