"""The scheduler as one of diffusers' own: what every one of them does, their configurations, their files. Run by
scripts/test-python-torch.sh.

The first half asks for what diffusers' own tests ask of each scheduler (`SchedulerCommonTest`, which its wheel lacks;
test_theirs.py runs the real ones where the file is given).
"""

import copy
import inspect
import json
import pickle
import subprocess
import sys
import warnings

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.utils import BaseOutput
from test_torch import ROOT, SPEC, tiny

import psld
from psld.diffusers import Scheduler

TABLE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
CONFIGS = {
    "table": dict(TABLE),
    "options": {**TABLE, "sampler": "unipc", "order": 3, "clip_sample": True, "prediction_type": "v_prediction"},
    "phase space": {**TABLE, "process": {"kind": "psld"}, "sampler": "em"},
    "flow": {"num_train_timesteps": 1000, "shift": 3.0},
    "spec": {"spec": SPEC, "sampler": "dpmpp"},
}
every = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
tables = pytest.mark.parametrize("config", [CONFIGS[name] for name in ("table", "options", "flow", "spec")])


def batch():
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def steps(scheduler, calls=9, network=lambda z, t: 0.1 * z, begin=0):
    """A whole run, and what each step gave."""
    scheduler.set_timesteps(calls)
    z, seen = batch(), []
    torch.manual_seed(1)
    for t in scheduler.timesteps[begin:]:
        z = scheduler.step(network(scheduler.scale_model_input(z, t), t), t, z, torch.Generator().manual_seed(2)).prev_sample
        seen.append(z)
    return seen


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


@every
@pytest.mark.parametrize("method", ["save_config", "save_pretrained"])
def test_saved_and_loaded(config, method, tmp_path):
    scheduler = Scheduler(**config)
    unset = scheduler.config["_use_default_values"]
    getattr(scheduler, method)(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["scheduler_config.json"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = Scheduler.from_pretrained(tmp_path)
    expected = {name: value for name, value in scheduler.config.items() if name != "_use_default_values"}
    assert expected == dict(loaded.config) and unset
    assert same(steps(scheduler), steps(loaded))


@every
def test_copied_and_pickled(config):
    for duplicate in (copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))):
        scheduler = Scheduler(**config)
        fresh = duplicate(scheduler)
        assert dict(fresh.config) == dict(scheduler.config)
        assert same(steps(scheduler), steps(fresh))
        # In the middle of a run, which both then end.
        scheduler.set_timesteps(9)
        z = batch()
        torch.manual_seed(1)
        for t in scheduler.timesteps[:4]:
            z = scheduler.step(0.1 * scheduler.scale_model_input(z, t), t, z, torch.Generator().manual_seed(2)).prev_sample
        ends = []
        for one in (scheduler, duplicate(scheduler)):
            end = z.clone()
            for t in scheduler.timesteps[4:]:
                end = one.step(0.1 * one.scale_model_input(end, t), t, end, torch.Generator().manual_seed(2)).prev_sample
            ends.append(end)
        assert torch.equal(*ends), duplicate


@every
def test_compatibles(config):
    scheduler = Scheduler(**config)
    kinds = scheduler.compatibles
    assert DDIMScheduler in kinds and None not in kinds
    for kind in kinds:
        back = Scheduler.from_config(kind.from_config(scheduler.config).config)
        assert {name: value for name, value in back.config.items() if name in scheduler.config} == dict(scheduler.config), kind
        more = {name for name in back.config if name not in scheduler.config}
        assert not more & set(inspect.signature(Scheduler.__init__).parameters)


@every
def test_shapes_of_steps_anywhere(config):
    """Also at times between those of the run, and after its end: as if sampling began there."""
    scheduler = Scheduler(**config)
    scheduler.set_timesteps(25)
    z = batch()
    for t in (0, 1, 7.5, torch.tensor(1), scheduler.timesteps[3]):
        scheduler.scale_model_input(z, t)
        assert scheduler.step(0.1 * z, t, z).prev_sample.shape == z.shape


@every
def test_outputs_as_tuple_and_by_name(config):
    outs = []
    for return_dict in (True, False):
        scheduler = Scheduler(**config)
        scheduler.set_timesteps(25)
        first = scheduler.timesteps[0]
        torch.manual_seed(0)
        scheduler.scale_model_input(batch(), first)
        outs.append(scheduler.step(0.1 * batch(), first, batch(), generator=torch.manual_seed(0), return_dict=return_dict))
    named, plain = outs
    assert isinstance(named, BaseOutput) and isinstance(plain, tuple) and len(plain) == len(named.to_tuple()) == 1
    assert torch.equal(named.prev_sample, plain[0]) and torch.equal(named["prev_sample"], named[0])


@tables
def test_public_api(config):
    scheduler = Scheduler(**config)
    assert isinstance(scheduler, (diffusers.SchedulerMixin, diffusers.ConfigMixin))
    assert scheduler.init_noise_sigma > 0 and len(scheduler) == 1000 and scheduler.order == 1
    # Before a run, too.
    assert scheduler.scale_model_input(batch(), 0.0).shape == batch().shape
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.step(batch(), 0, batch())


@tables
def test_add_noise_on_the_device(config):
    scheduler = Scheduler(**config)
    scheduler.set_timesteps(100, device="cpu")
    assert scheduler.timesteps.dtype == torch.float32 and scheduler.timesteps.device.type == "cpu"
    z = scheduler.scale_model_input(batch(), 0.0)
    noised = scheduler.add_noise(z, torch.randn_like(z), scheduler.timesteps[5][None])
    assert noised.shape == z.shape and noised.dtype == z.dtype
    same_noise = scheduler.scale_noise(z, scheduler.timesteps[5][None], z)
    assert torch.equal(same_noise, scheduler.add_noise(z, z, scheduler.timesteps[5:6]))


@pytest.mark.parametrize("given", [np.array([0.1, 0.3]), [0.1, 0.3], torch.tensor([0.1, 0.3])])
def test_trained_betas(given, tmp_path):
    scheduler = Scheduler(**TABLE, trained_betas=given)
    scheduler.save_pretrained(tmp_path)
    loaded = Scheduler.from_pretrained(tmp_path)
    assert scheduler.betas.tolist() == loaded.betas.tolist() == torch.tensor([0.1, 0.3]).tolist()
    assert same(steps(scheduler), steps(loaded))


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_tables_are_those_of_diffusers(schedule):
    scheduler, theirs = (kind(beta_schedule=schedule) for kind in (Scheduler, DDPMScheduler))
    assert torch.allclose(scheduler.betas, theirs.betas, rtol=1e-4, atol=1e-7)
    assert torch.allclose(scheduler.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-4, atol=1e-7)
    # And so is the path, at every entry of a grid.
    scheduler = Scheduler(beta_schedule=schedule, sampler="em")
    scheduler.set_timesteps(timesteps=[950, 500, 100, 0])
    noised = scheduler.add_noise(batch(), -batch(), scheduler.timesteps)
    assert torch.allclose(noised, theirs.add_noise(batch(), -batch(), torch.tensor([950, 500, 100, 0])), atol=1e-4)


def test_attributes():
    scheduler = Scheduler(**TABLE)
    scheduler.dummy = 5
    scheduler.register_to_config(registered=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scheduler.dummy == 5 and scheduler.save_pretrained == getattr(scheduler, "save_pretrained")
    with pytest.warns(FutureWarning, match="registered"):
        assert scheduler.registered == 6
    with pytest.raises(AttributeError, match="'Scheduler' object has no attribute 'nothing'"):
        scheduler.nothing
    with pytest.raises(AttributeError):
        Scheduler(shift=3.0).betas
    assert "kwargs" not in inspect.signature(Scheduler.__init__).parameters and not Scheduler._deprecated_kwargs
    assert json.loads(scheduler.to_json_string())["_class_name"] == "Scheduler" and "registered" in repr(scheduler)


def test_the_number_of_steps_may_be_left_out():
    scheduler = Scheduler(**TABLE, nfe=7)
    scheduler.set_timesteps(None)
    assert len(scheduler.timesteps) == scheduler.num_inference_steps == 7
    scheduler = Scheduler(**TABLE)
    scheduler.set_timesteps()
    assert len(scheduler.timesteps) > 7
    scheduler.set_timesteps(1)
    assert scheduler.timesteps.tolist() == [999.0]
    z = batch()
    alpha = float(DDPMScheduler().alphas_cumprod[-1]) ** 0.5
    out = scheduler.step(0.1 * z, scheduler.timesteps[0], z).prev_sample
    assert torch.allclose(out, (z - 0.1 * (1 - alpha**2) ** 0.5 * z) / alpha, rtol=1e-3)
    for config in ({"shift": 3.0}, {"shift": 3.0, "shift_terminal": 0.1}):
        scheduler = Scheduler(**config)
        for arguments in ({"num_inference_steps": 1}, {"sigmas": [1.0]}, {"sigmas": torch.tensor([1.0, 0.0])}):
            scheduler.set_timesteps(**arguments)
            assert len(scheduler.timesteps) == 1 and scheduler.timesteps[0] > 990
            out = scheduler.step(0.1 * z, scheduler.timesteps[0], z).prev_sample
            assert torch.allclose(out, z - 0.1 * z, rtol=1e-2)
    for n in (0, -1, 2.5):
        with pytest.raises(psld.ArgumentError, match="num_inference_steps"):
            scheduler.set_timesteps(n)


def test_a_changed_configuration_is_followed():
    """Pipelines of Stable Diffusion take `clip_sample` out of it."""
    scheduler = Scheduler(**TABLE, sampler="dpmpp")
    scheduler.set_timesteps(5)
    assert scheduler._plan["sampler"] == "dpmpp"
    scheduler.register_to_config(sampler="heun")
    scheduler.set_timesteps(5)
    assert scheduler._plan["sampler"] == "heun"


# Configurations of diffusers.


# Two need packages that are not here.
@pytest.mark.parametrize("name", sorted(set(Scheduler._compatibles) - {"LMSDiscreteScheduler", "DPMSolverSDEScheduler"}))
def test_every_table_of_diffusers(name):
    theirs = getattr(diffusers, name)(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    with warnings.catch_warnings():
        # Of what nobody has set nothing is said.
        warnings.simplefilter("error")
        scheduler = Scheduler.from_config(theirs.config)
    assert set(theirs.config) <= {*psld.diffusers._CONFIG, "_use_default_values"}
    assert torch.allclose(scheduler.betas, theirs.betas, rtol=1e-5)
    assert np.isfinite(steps(scheduler)[-1]).all()


@pytest.mark.parametrize(
    "config, said",
    [
        ({"timestep_spacing": "trailing"}, "timestep_spacing = 'trailing'"),
        ({"set_alpha_to_one": False}, "set_alpha_to_one = False"),
        ({"final_sigmas_type": "sigma_min", "use_beta_sigmas": True}, "final_sigmas_type = 'sigma_min', use_beta_sigmas = True"),
        ({"solver_order": 3}, "solver_order = 3"),
        ({"variance_type": "fixed_large"}, "variance_type"),
        ({"something_new": 3}, "something_new = 3"),
        ({"algorithm_type": "deis", "solver_type": "midpoint"}, "algorithm_type = 'deis', solver_type = 'midpoint'"),
    ],
)
def test_what_is_not_done_is_named(config, said):
    for theirs in ({**TABLE, **config}, {**DDPMScheduler().config, **config}):
        theirs["_use_default_values"] = [name for name in theirs.get("_use_default_values", []) if name not in config]
        with pytest.warns(UserWarning, match=said) as warned:
            scheduler = Scheduler.from_config(theirs)
        assert [w.filename for w in warned] == [__file__]
        # It goes on to the next scheduler, and is not said again.
        assert all(scheduler.config[name] == value for name, value in config.items())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Scheduler.from_config(scheduler.config)


def test_what_is_not_done_is_named_by_keyword():
    for config in ({"timestep_spacing": "trailing"}, dict(DDIMScheduler(timestep_spacing="trailing").config)):
        with pytest.warns(UserWarning, match="timestep_spacing = 'trailing'") as warned:
            Scheduler(**config)
        assert [w.filename for w in warned] == [__file__]


def test_what_is_done_is_not_named():
    done = {"use_karras_sigmas": True, "solver_order": 3, "solver_type": "bh1", "lower_order_final": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = Scheduler.from_config(UniPCMultistepScheduler(**done).config, sampler="unipc")
        alike = {"algorithm_type": "dpmsolver++", "solver_type": "midpoint", "solver_order": 2, "variance_type": "fixed_small"}
        Scheduler.from_config({**TABLE, **alike}, sampler="dpmpp")
        Scheduler.from_config({**TABLE, "timestep_spacing": "leading"}, time_grid="uniform")
    assert scheduler._options == {"time_grid": "karras", "order": 3, "variant": "bh1", "lower_order_final": False}
    # What is asked for by name goes first.
    scheduler = Scheduler.from_config(scheduler.config, order=2, time_grid="uniform")
    assert scheduler._options == {"time_grid": "uniform", "order": 2, "variant": "bh1", "lower_order_final": False}


@pytest.mark.parametrize(
    "config, said",
    [
        (diffusers.LCMScheduler().config, "LCM"),
        (diffusers.TCDScheduler().config, "TCD"),
        ({**diffusers.LCMScheduler().config, "_class_name": "LCMScheduler"}, "LCMScheduler"),
        ({"_class_name": "CMStochasticIterativeScheduler", "num_train_timesteps": 40}, "CMStochasticIterativeScheduler"),
        (diffusers.EDMEulerScheduler().config, "EDM"),
        (diffusers.CogVideoXDDIMScheduler().config, "signal is not shifted"),
        (DDIMScheduler(rescale_betas_zero_snr=True).config, "table of betas"),
        (diffusers.EulerDiscreteScheduler(timestep_type="continuous").config, "timestep_type"),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True).config, "invert_sigmas"),
        ({"num_train_timesteps": 1000}, "table of betas"),
        ({**TABLE, "beta_schedule": "laplace"}, "beta_schedule = 'laplace'"),
        ({**TABLE, "prediction_type": "other"}, "prediction_type = 'other'"),
        ("a/folder", "from_pretrained"),
    ],
)
def test_what_makes_another_network_is_refused(config, said):
    with pytest.raises(psld.ArgumentError, match=said):
        Scheduler.from_config(config)


def small(z, t):
    """A network of some shape, in its time, too."""
    return torch.tanh(0.7 * z) + 0.1 * float(t) / 1000


def theirs(scheduler, **arguments):
    scheduler.set_timesteps(**arguments)
    z = batch()
    for t in scheduler.timesteps:
        shown = scheduler.scale_model_input(z, t) if hasattr(scheduler, "scale_model_input") else z
        z = scheduler.step(small(shown, t), t, z).prev_sample
    return z


@pytest.mark.parametrize(
    "config, mu",
    [
        ({}, None),
        ({"shift": 3.0}, None),
        ({"use_dynamic_shifting": True}, 0.8),
        ({"use_dynamic_shifting": True, "time_shift_type": "linear"}, 0.8),
        ({"use_dynamic_shifting": True, "shift_terminal": 0.1}, 0.8),
    ],
)
def test_flow_matching_as_diffusers_does_it(config, mu):
    own = FlowMatchEulerDiscreteScheduler(**config)
    arguments = {"sigmas": np.linspace(0.99, 0.1, 10).tolist(), **({} if mu is None else {"mu": mu})}
    scheduler = Scheduler.from_config(own.config, sampler="euler")
    a, b = theirs(own, **arguments), theirs(scheduler, **arguments)
    assert (a - b).abs().max() < 1e-5 and torch.allclose(own.timesteps, scheduler.timesteps, atol=1e-3)
    # By their number they go as far, and a path with momenta tells the network flow times, too.
    rest = {} if mu is None else {"mu": mu}
    for process in (None, {"kind": "psld"}):
        scheduler = Scheduler.from_config(own.config, process=process)
        scheduler.set_timesteps(10, **rest)
        assert len(scheduler.timesteps) == 10 and 990 < scheduler.timesteps[0] < 1000
        assert abs(float(scheduler.timesteps[-1]) - 1000 * config.get("shift_terminal", 0.0)) < 10
    if mu is not None:
        with pytest.raises(psld.ArgumentError, match="mu"):
            scheduler.set_timesteps(10)


def test_flow_sigmas_of_other_schedulers():
    own = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0)
    scheduler = Scheduler.from_config(own.config)
    scheduler.set_timesteps(8)
    plain = Scheduler.from_config({**own.config, "flow_shift": 1.0})
    plain.set_timesteps(8)
    sigmas = plain.timesteps[1:-1] / 1000
    assert torch.allclose(scheduler.timesteps[1:-1], 5000 * sigmas / (1 + 4 * sigmas), rtol=1e-4)


def test_times_and_noise_levels_of_the_callers():
    times = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    scheduler, own = (kind.from_config({**TABLE, "clip_sample": False}, **more) for kind, more in (
        (Scheduler, {"sampler": "ddim"}), (DDIMScheduler, {}),
    ))  # fmt: skip
    scheduler.set_timesteps(timesteps=times)
    assert scheduler.timesteps.tolist() == times
    # A step of DDIM's between any two of them; the last to the data.
    z, alphas = batch(), [*own.alphas_cumprod[times].tolist(), 1.0]
    wanted = z.double()
    for t, now, after in zip(scheduler.timesteps, alphas, alphas[1:]):
        z = scheduler.step(small(z, t), t, z).prev_sample
        eps = small(wanted, t)
        wanted = after**0.5 * (wanted - (1 - now) ** 0.5 * eps) / now**0.5 + (1 - after) ** 0.5 * eps
    assert (z - wanted).abs().max() < 1e-3 * wanted.abs().max()
    sigmas = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.0]
    scheduler.set_timesteps(sigmas=sigmas)
    alphas = 1 / (1 + np.square(sigmas[:-1]))
    entries = np.interp(-np.log(alphas), -np.log(own.alphas_cumprod.double().numpy()), np.arange(1000))
    assert np.allclose(scheduler.timesteps, entries, atol=0.01)
    # A phase-space path is led by the same times of the network's.
    scheduler = Scheduler(**TABLE, process={"kind": "psld"})
    scheduler.set_timesteps(timesteps=times[1:])
    assert scheduler.timesteps.tolist() == times[1:]
    scheduler.set_timesteps(sigmas=sigmas)
    assert np.allclose(scheduler.timesteps, entries, atol=0.01)
    scheduler.set_timesteps(timesteps=[500])
    assert scheduler.timesteps.tolist() == [500]


def test_the_first_noise_is_that_of_the_first_time():
    """Along a path whose noise grows; the network of a table is shown what has a variance of one."""
    scheduler = Scheduler(**TABLE, process={"kind": "edm"}, sampler="dpmpp")
    for sigmas in ([80.0, 1.0], [14.615, 1.0], [2.0]):
        scheduler.set_timesteps(sigmas=sigmas)
        assert abs(scheduler.init_noise_sigma / np.hypot(sigmas[0], 1.0) - 1) < 1e-3
        z = batch()
        shown = scheduler.scale_model_input(scheduler.init_noise_sigma * z, scheduler.timesteps[0])
        assert torch.allclose(shown, z, rtol=1e-3)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"timesteps": [300, 500]}, "less noise"),
        ({"timesteps": []}, "at least one"),
        ({"timesteps": [1200]}, "none of the network's"),
        ({"sigmas": [-1.0]}, "at least 0"),
        ({"sigmas": [float("nan")]}, "at least 0"),
        ({"timesteps": [5, 4], "sigmas": [1.0]}, "not both"),
        ({"num_inference_steps": 3, "timesteps": [5, 4]}, "there are 2 times"),
    ],
)
def test_times_that_are_none(arguments, said):
    with pytest.raises(psld.ArgumentError, match=said):
        Scheduler(**TABLE).set_timesteps(**arguments)


@pytest.mark.parametrize("flag", ["use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas"])
def test_grids_as_diffusers(flag):
    own = diffusers.DPMSolverMultistepScheduler(**{flag: True})
    own.set_timesteps(8)
    scheduler = Scheduler.from_config(own.config)
    scheduler.set_timesteps(8)
    assert np.allclose(scheduler._ratios_at(scheduler._plan["grid"]), own.sigmas[:-1], rtol=1e-4)


def test_a_spec_under_a_configuration():
    """The network is as the spec says, the rest as configured."""
    own = DDIMScheduler(clip_sample_range=0.5, beta_end=0.5)
    scheduler = Scheduler.from_config(own.config, spec=SPEC, sampler="unipc")
    assert scheduler._spec["process"] == SPEC["process"] and scheduler._options == {"clip": True, "lower_order_final": True}
    assert steps(scheduler, network=lambda z, t: -z)[-1].abs().max() <= 0.5
    scheduler = Scheduler(SPEC, sampler="unipc")
    assert scheduler._options == {"lower_order_final": False} and scheduler.config.num_train_timesteps == 1000
    assert np.isfinite(text_to_image(Scheduler({**SPEC, "data": {"shape": [4, 8, 8]}}))).all()


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_a_learned_variance_is_left_alone(variance):
    scheduler, plain = Scheduler(**TABLE, variance_type=variance), Scheduler(**TABLE)
    assert same(steps(scheduler, network=lambda z, t: torch.cat([0.1 * z, z], dim=1)), steps(plain))


# In pipelines.


def text_to_image(scheduler, **arguments):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(scheduler=scheduler, **tiny())
    pipeline.set_progress_bar_config(disable=True)
    embeddings = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    asked = {"num_inference_steps": 6, "negative_prompt_embeds": -embeddings, "output_type": "np", **arguments}
    generator = [torch.Generator().manual_seed(i) for i in range(2)]
    return pipeline(prompt_embeds=embeddings, height=16, width=16, generator=generator, **asked).images


@pytest.mark.parametrize("process", [None, {"kind": "psld"}, {"kind": "edm"}])
def test_guidance_from_text(process):
    scheduler = Scheduler.from_config({**TABLE, "clip_sample": False}, process=process)
    guided, plain = (text_to_image(scheduler, guidance_scale=scale) for scale in (5.0, 1.0))
    assert guided.shape == (2, 16, 16, 3) and np.isfinite(guided).all() and (guided != plain).any()
    # Twice the same condition is no guidance.
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(scheduler=scheduler, **tiny())
    pipeline.set_progress_bar_config(disable=True)
    embeddings = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    made = []
    for more in ({"guidance_scale": 1.0}, {"guidance_scale": 3.0, "negative_prompt_embeds": embeddings}):
        torch.manual_seed(0)
        generator = [torch.Generator().manual_seed(i) for i in range(2)]
        asked = dict(prompt_embeds=embeddings, num_inference_steps=6, output_type="np", height=16, width=16)
        made.append(pipeline(generator=generator, **asked, **more).images)
    assert np.abs(made[0] - made[1]).max() < 1e-4


@pytest.mark.parametrize("process", [None, {"kind": "psld"}])
def test_times_of_a_pipeline(process):
    scheduler = Scheduler.from_config({**TABLE, "clip_sample": False}, process=process)
    times = [999, 700, 400, 100]
    a, b = (text_to_image(scheduler, guidance_scale=5.0, num_inference_steps=4, **more) for more in (
        {"timesteps": times}, {"sigmas": [float(((1 - c) / c) ** 0.5) for c in scheduler.alphas_cumprod[times]]},
    ))  # fmt: skip
    assert np.isfinite(a).all() and np.abs(a - b).max() < 1e-3
    assert torch.allclose(scheduler.timesteps, torch.tensor(times, dtype=torch.float32), atol=0.1)


@pytest.mark.parametrize("process", [None, {"kind": "psld"}])
@pytest.mark.parametrize("kind", ["Flux", "StableDiffusion3"])
def test_pipelines_of_flow_matching(kind, process):
    """They give noise levels and a shift; SD 3 shows its batch twice, for guidance."""
    torch.manual_seed(0)
    rest = dict(num_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32)
    blocks = dict(down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",))
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=32, shift_factor=0.1, scaling_factor=1.5,
        use_quant_conv=False, use_post_quant_conv=False, **blocks,
    )  # fmt: skip
    embeddings = dict(prompt_embeds=torch.randn(1, 4, 32), pooled_prompt_embeds=torch.randn(1, 32))
    nothing = {name: None for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")}
    config = {"shift": 3.0, "use_dynamic_shifting": kind == "Flux"}
    scheduler = Scheduler.from_config(FlowMatchEulerDiscreteScheduler(**config).config, process=process, sampler="euler")
    if kind == "Flux":
        transformer = diffusers.FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_single_layers=1, axes_dims_rope=(4, 4, 8), guidance_embeds=False, **rest
        )
    else:
        nothing.update(text_encoder_3=None, tokenizer_3=None)
        embeddings.update(negative_prompt_embeds=-embeddings["prompt_embeds"], negative_pooled_prompt_embeds=torch.zeros(1, 32))
        transformer = diffusers.SD3Transformer2DModel(
            sample_size=32, patch_size=1, in_channels=4, out_channels=4, caption_projection_dim=32, pos_embed_max_size=96, **rest
        )
    images = []
    for one in (scheduler, FlowMatchEulerDiscreteScheduler(**config)):
        pipeline = getattr(diffusers, kind + "Pipeline")(transformer=transformer.eval(), vae=vae.eval(), scheduler=one, **nothing)
        pipeline.set_progress_bar_config(disable=True)
        asked = dict(height=32, width=32, num_inference_steps=5, output_type="np", generator=torch.manual_seed(0))
        if process is not None:
            # They have no place for it.
            with pytest.raises(ValueError, match="scale_model_input"):
                pipeline(**embeddings, **asked)
            return
        images.append(pipeline(**embeddings, **asked).images)
    assert images[0].shape == (1, 32, 32, 3) and np.isfinite(images[0]).all()
    # They begin at time 1 with a step of diffusers', at 0.999 here, and those of SD 3 end elsewhere.
    assert np.abs(images[0] - images[1]).max() < (0.01 if kind == "Flux" else 0.2)


def test_the_guide():
    """Its block on schedulers, as it stands."""
    with open(f"{ROOT}/docs/guide/python.md") as file:
        [block] = [block for block in file.read().split("```python\n")[1:] if "psld.diffusers" in block.split("```")[0]]
    pipeline = type("Pipeline", (), {"scheduler": DDIMScheduler()})()
    exec(block.split("```")[0], {"pipeline": pipeline})
    assert isinstance(pipeline.scheduler, Scheduler) and pipeline.scheduler.config["options"] == {"order": 3}


def test_parts_that_are_equal_were_shown_again():
    """Twice, three times, or a batch whose samples are the same."""
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for shown, given in ((torch.cat([x] * 2), x), (torch.cat([x] * 3), x), (x[:1].repeat(4, 1, 1, 1), x[:1].repeat(2, 1, 1, 1))):
        scheduler = Scheduler(**TABLE, process={"kind": "psld"}, sampler="dpmpp")
        scheduler.set_timesteps(5)
        z = given
        torch.manual_seed(0)
        for i, t in enumerate(scheduler.timesteps):
            seen = scheduler.scale_model_input(shown if i == 0 else torch.cat([z] * (len(shown) // len(given))), t)
            assert seen.shape == shown.shape
            z = scheduler.step(0.1 * seen[: len(given)], t, z).prev_sample
        assert z.shape == given.shape and z.isfinite().all()
    scheduler.set_timesteps(5)
    first = scheduler.timesteps[0]
    scheduler.scale_model_input(x, first)
    with pytest.raises(ValueError, match="expected 2"):
        scheduler.step(x[:1], first, x[:1])


@pytest.mark.parametrize("process", [None, {"kind": "psld"}])
def test_pipelines_are_saved_and_loaded(process, tmp_path):
    from diffusers import StableDiffusionPipeline

    scheduler = Scheduler.from_config({**TABLE, "clip_sample": False}, process=process, sampler="dpmpp", order=2)
    modules = tiny()
    first = StableDiffusionPipeline(scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1), **modules)
    first.save_pretrained(tmp_path / "theirs")
    # Put into another's place, then saved as its own.
    more = dict(safety_checker=None, text_encoder=None, tokenizer=None, local_files_only=True)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "theirs", scheduler=scheduler, **more)
    assert pipeline.scheduler is scheduler
    pipeline.save_pretrained(tmp_path / "ours")
    index = json.loads((tmp_path / "ours" / "model_index.json").read_text())
    assert index["scheduler"] == ["psld.diffusers", "Scheduler"]
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "ours", **more)
    assert isinstance(loaded.scheduler, Scheduler) and same(steps(loaded.scheduler), steps(scheduler))
    assert loaded.scheduler.config["process"] == process and loaded.scheduler.config["options"] == {"order": 2}
    # And back to one of diffusers'.
    assert DDIMScheduler.from_config(loaded.scheduler.config).config.beta_schedule == "linear"


def test_without_diffusers(tmp_path):
    """It imports, and says what it needs when it is used."""
    (tmp_path / "diffusers").mkdir()
    (tmp_path / "diffusers" / "__init__.py").write_text("raise ImportError('not here')")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from psld.diffusers import Scheduler\n"
        "for make in (Scheduler, lambda: Scheduler.from_config({'beta_schedule': 'linear'})):\n"
        "    try: make()\n"
        "    except ImportError as error: print(error)\n"
    )
    made = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert made.returncode == 0 and made.stdout.count("needs the packages diffusers and torch") == 2, made.stderr


# What diffusers clips and ends as these do.


def narrow(scheduler):
    """The epsilon of normal data of standard deviation 0.2, at mean 0.3, as each scheduler's times have it."""
    left = scheduler.alphas_cumprod.double()

    def network(z, t):
        alpha = left[round(float(t))]
        eps = (1 - alpha).sqrt() * (z.double() - 0.3 * alpha.sqrt()) / (0.04 * alpha + 1 - alpha)
        if scheduler.config.prediction_type == "epsilon":
            return eps.float()
        x = (z - (1 - alpha).sqrt() * eps) / alpha.sqrt()
        return (x if scheduler.config.prediction_type == "sample" else alpha.sqrt() * eps - (1 - alpha).sqrt() * x).float()

    return network


def lined_up(own, scheduler, calls, to=(), **more):
    """How far apart both end on the times of theirs, whatever their grids."""
    own.set_timesteps(calls)
    times = [float(t) for t in own.timesteps]
    scheduler.set_timesteps(timesteps=[*times, *to])
    network = narrow(own)
    a = b = batch() * 2 - 1
    for t in own.timesteps:
        a = own.step(network(own.scale_model_input(a, t), t), t, a, **more).prev_sample
        b = scheduler.step(network(scheduler.scale_model_input(b, float(t)), t), float(t), b).prev_sample
    return float((a - b).abs().max() / a.abs().max())


def replacing(own, **arguments):
    """This library's scheduler for theirs, without a word on its grid."""
    arguments.setdefault("time_grid", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Scheduler.from_config(own.config, **arguments)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp", "unipc", "heun", "em", "auto"])
def test_clipping_as_configured(sampler):
    """Outputs that are far out end within the bounds, also where a run starts with next to no signal."""
    for bound, more in ((1.0, {}), (0.5, {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100})):
        own = DDIMScheduler(clip_sample_range=bound, **more)
        scheduler = Scheduler.from_config(own.config, sampler=sampler)
        scheduler.set_timesteps(8)
        z = 3 * batch()
        for t in scheduler.timesteps:
            z = scheduler.step(-z, t, z, torch.Generator().manual_seed(2)).prev_sample
        assert 0.99 * bound < z.abs().max() <= bound * (1 + 1e-6)
    off = Scheduler.from_config(own.config, sampler=sampler, clip=False)
    off.set_timesteps(8)
    z = off.step(-3 * batch(), off.timesteps[0], 3 * batch()).prev_sample
    assert z.isfinite().all()


@pytest.mark.parametrize(
    "config",
    [
        {"clip_sample": True},
        {"clip_sample": True, "clip_sample_range": 0.4, "prediction_type": "v_prediction"},
        {"clip_sample": True, "clip_sample_range": 0.4, "prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2"},
        {"clip_sample": False, "thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9},
        {"clip_sample": False, "thresholding": True},
    ],
)
def test_ddim_clips_as_diffusers(config):
    own = DDIMScheduler(timestep_spacing="trailing", **config)
    assert lined_up(own, replacing(own, sampler="ddim"), 10, use_clipped_model_output=True) < 1e-4


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_as_diffusers(order):
    own = UniPCMultistepScheduler(solver_order=order, timestep_spacing="trailing")
    assert lined_up(own, replacing(own, sampler="unipc", published=True), 12) < 1e-4


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("kind", ["bh1", "bh2"])
@pytest.mark.parametrize("final", [True, False])
def test_unipc_that_ends_in_noise(order, kind, final):
    """As far as theirs goes with `bh1`, or without lower orders at the end."""
    rest = dict(lower_order_final=final, final_sigmas_type="sigma_min", timestep_spacing="trailing")
    own = UniPCMultistepScheduler(solver_order=order, solver_type=kind, **rest)
    assert lined_up(own, replacing(own, sampler="unipc", published=True, denoise=False), 12, to=[0.0]) < 1e-4


@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpmpp_as_diffusers(order):
    own = diffusers.DPMSolverMultistepScheduler(solver_order=order, timestep_spacing="trailing")
    assert lined_up(own, replacing(own, sampler="dpmpp", published=True), 12) < 1e-4
