"""How far `auto` and the probe are from the best of diffusers' and k-diffusion's schedulers, on the networks of models/study/.

    python3 scripts/peers.py [NETWORK ...] [-n 64] [--nfe 5,8,10,15,20]

Needs psld, numpy, torch, onnx, onnxruntime, diffusers and, for its samplers, k-diffusion (`--no-deps` is enough, with scipy,
torchsde and torchdiffeq). All start from the same noise at the same time and make the same number of network calls; the error is
the median over the samples of the root mean square distance to the converged solution, `psld study`'s. Of each family the best of
all its orders and noise schedules counts, so that a peer is as good as whoever knows the answer could make it.
"""

import argparse
import importlib.machinery
import importlib.util
import itertools
import json
import pathlib
import sys
import types
import warnings

import diffusers
import numpy as np
import onnx
import onnxruntime
import psld
import torch

STUDY = pathlib.Path(__file__).resolve().parent.parent / "models" / "study"


def k_diffusion():
    """Its samplers, without what else the package imports; None where it is not there."""
    if "k_diffusion.sampling" in sys.modules:
        return sys.modules["k_diffusion.sampling"]
    found = importlib.util.find_spec("k_diffusion")
    if found is None:
        return None
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(found.submodule_search_locations)
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]
    package.utils = utils
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    return importlib.import_module("k_diffusion.sampling")


class Network:
    """The file as its users call it, and the calls that were made."""

    def __init__(self, name):
        path = STUDY / f"{name}.onnx"
        self.spec = json.loads({p.key: p.value for p in onnx.load(path).metadata_props}["psld.spec"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.model, self.calls = psld.Model(path, threads=1), 0

    def __call__(self, z, t):
        self.calls += 1
        t = torch.as_tensor(t, dtype=torch.float32).expand(len(z)).contiguous()
        feed = {"z": z.float().numpy(), "t": t.numpy()}
        return torch.from_numpy(self.session.run(None, feed)[0])


def tables(network):
    """Peers of a network along a table of betas: name, function of noise and calls. VP's is the table of 1000 entries that it is the
    limit of."""
    process = network.spec["process"]
    index = (lambda t: t) if process["kind"] == "ddpm" else (lambda t: (t + 1) / 1000)
    common = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    spacings = [{"timestep_spacing": s} for s in ("linspace", "trailing")]
    schedules = [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]
    final = [{"lower_order_final": True}, {"lower_order_final": False}]

    def run(make, options):
        def sample(noise, calls):
            scheduler = make(**common, **options)
            scheduler.set_timesteps(calls)
            if isinstance(scheduler, (diffusers.HeunDiscreteScheduler, diffusers.KDPM2DiscreteScheduler)):
                scheduler.set_timesteps((calls + 1) // 2)
            x = noise * scheduler.init_noise_sigma
            if scheduler.init_noise_sigma != 1:
                # Theirs are sigma / alpha, psld's start is of variance 1 in all.
                x = noise * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
            for t in scheduler.timesteps:
                x = scheduler.step(network(scheduler.scale_model_input(x, t), index(t)), t, x).prev_sample
            return x

        return sample

    families = {
        "UniPC": (diffusers.UniPCMultistepScheduler, [{"solver_order": o} for o in (2, 3)], schedules, final),
        "DPM-Solver++": (
            diffusers.DPMSolverMultistepScheduler, [{"solver_order": o} for o in (2, 3)],
            [*schedules, {"use_lu_lambdas": True}], final,
        ),
        "DEIS": (diffusers.DEISMultistepScheduler, [{"solver_order": o} for o in (2, 3)], schedules, final),
        "Heun": (diffusers.HeunDiscreteScheduler, [{}], schedules, [{}]),
        "LMS": (diffusers.LMSDiscreteScheduler, [{}], schedules, [{}]),
        "DDIM": (diffusers.DDIMScheduler, [{"clip_sample": False, "set_alpha_to_one": True}], [{}], [{}]),
    }  # fmt: skip
    for family, (make, *choices) in families.items():
        for parts in itertools.product(*choices, spacings):
            options = {key: value for part in parts for key, value in part.items()}
            yield family, options, run(make, options)


def sigmas(network):
    """k-diffusion's samplers along sigma; and those of diffusers for EDM."""
    kind = network.spec["process"]["kind"]
    if kind == "edm":
        data, low, high = network.spec["network"]["sigma_data"], 0.002, 80.0

        def denoise(x, sigma, **_):
            s = float(sigma[0])
            total = (s * s + data * data) ** 0.5
            return data**2 / total**2 * x + s * data / total * network(x / total, np.log(s) / 4)

        scale = high
    elif kind in ("vp", "ddpm"):
        bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
        levels = np.sqrt(1 / bars - 1)
        low, high = levels[0], levels[-1]

        def denoise(x, sigma, **_):
            s = float(sigma[0])
            entry = float(np.interp(np.log(s), np.log(levels), np.arange(1000)))
            t = entry if kind == "ddpm" else (entry + 1) / 1000
            return x - s * network(x / (1 + s * s) ** 0.5, t)

        scale = (1 + high**2) ** 0.5
    else:
        low, high, scale = 1e-3 / (1 - 1e-3), 1e3, 1e3

        def denoise(x, sigma, **_):
            s = float(sigma[0])
            t = s / (1 + s)
            z = (1 - t) * x
            return z - t * network(z, t)

    k = k_diffusion()
    if k is not None:
        ks = {
            "karras": lambda n: k.get_sigmas_karras(n, low, high),
            "exponential": lambda n: k.get_sigmas_exponential(n, low, high),
        }
        samplers = {"dpmpp_2m": (k.sample_dpmpp_2m, 1), "lms": (k.sample_lms, 1), "heun": (k.sample_heun, 2)}
        samplers |= {"dpm_2": (k.sample_dpm_2, 2), "euler": (k.sample_euler, 1)}
        for (name, (sample, each)), (schedule, make) in itertools.product(samplers.items(), ks.items()):

            def run(noise, calls, sample=sample, each=each, make=make):
                return sample(denoise, noise * scale, make(calls if each == 1 else (calls + 1) // 2), disable=True)

            yield "k-diffusion", {"sampler": name, "sigmas": schedule}, run
    if kind == "edm":
        for order, schedule, final in itertools.product((1, 2, 3), ("karras", "exponential"), (True, False)):
            options = {"solver_order": order, "sigma_schedule": schedule, "lower_order_final": final}

            def run(noise, calls, options=options):
                scheduler = diffusers.EDMDPMSolverMultistepScheduler(sigma_data=data, **options)
                scheduler.set_timesteps(calls)
                x = noise * scale
                for i, t in enumerate(scheduler.timesteps):
                    sigma = float(scheduler.sigmas[i])
                    scaled = scheduler.scale_model_input(x, t)
                    x = scheduler.step(network(scaled, np.log(sigma) / 4), t, x).prev_sample
                return x

            yield "EDMDPMSolver", options, run


def flows(network):
    """diffusers' for flow matching; shift 1 is the schedule that the network was trained on."""
    for shift in (1.0, 3.0):

        def euler(noise, calls, shift=shift):
            scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
            scheduler.set_timesteps(calls)
            x = noise
            for t in scheduler.timesteps:
                x = scheduler.step(network(x, t / 1000), t, x).prev_sample
            return x

        def heun(noise, calls, shift=shift):
            scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=shift)
            scheduler.set_timesteps((calls + 1) // 2)
            x = noise
            for t in scheduler.timesteps:
                x = scheduler.step(network(x, t / 1000), t, x).prev_sample
            return x

        yield "FlowMatchEuler", {"shift": shift}, euler
        yield "FlowMatchHeun", {"shift": shift}, heun
        for make, family in ((diffusers.UniPCMultistepScheduler, "UniPC"), (diffusers.DPMSolverMultistepScheduler, "DPM-Solver++")):
            for order, final in itertools.product((2, 3), (True, False)):
                options = {"solver_order": order, "lower_order_final": final, "flow_shift": shift}

                def run(noise, calls, make=make, options=options):
                    scheduler = make(prediction_type="flow_prediction", use_flow_sigmas=True, **options)
                    scheduler.set_timesteps(calls)
                    x = noise
                    for t in scheduler.timesteps:
                        x = scheduler.step(network(x, t / 1000), t, x).prev_sample
                    return x

                yield family, options, run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", default=["digits-ddpm", "fashion-vp", "mnist-edm", "cifar-flow", "reaches-ddpm"])
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("--nfe", default="5,8,10,15,20")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    diffusers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for name in args.networks:
        network = Network(name)
        model, kind = network.model, network.spec["process"]["kind"]
        noise = torch.from_numpy(np.stack([psld.noise(i, "prior", 0, model.state_shape) for i in range(args.n)]))
        exact = model.sample(args.n, sampler="rk45", rtol=1e-6, atol=1e-6).astype(float)

        def error(x):
            away = (np.asarray(x, float) - exact) ** 2
            return float(np.median(np.sqrt(away.reshape(args.n, -1).mean(1))))

        peers = [*(flows(network) if kind == "flow" else []), *(tables(network) if kind in ("vp", "ddpm") else [])]
        peers += sigmas(network)
        print(f"{name}: median RMS distance to the converged solution, {args.n} starts")
        for calls in map(int, args.nfe.split(",")):
            best = {}
            for family, options, sample in peers:
                network.calls = 0
                try:
                    found = error(sample(noise, calls))
                except Exception:  # Such as an order that so few steps do not reach: theirs, not ours.
                    continue
                if network.calls <= calls and np.isfinite(found) and found < best.get(family, (np.inf,))[0]:
                    best[family] = found, options
            family, (least, options) = min(best.items(), key=lambda item: item[1])
            auto = error(model.sample(args.n, sampler="auto", nfe=calls))
            probed = error(model.sample(args.n, **{**model.probe(nfe=calls, seed=1_000_000), "seed": 0}))
            print(
                f"  {calls:>3} calls: auto {auto:.5f} ({auto / least:.2f}), probe {probed:.5f} ({probed / least:.2f});"
                f" best peer {family} {least:.5f} {json.dumps(options)}; "
                + ", ".join(f"{f} {e:.4f}" for f, (e, _) in sorted(best.items(), key=lambda item: item[1][0])),
                flush=True,
            )


main()
