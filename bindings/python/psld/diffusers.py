"""The library's samplers for pipelines of the ``diffusers`` package.

>>> from psld.diffusers import Scheduler
>>> scheduler = Scheduler(sampler="dpmpp")  # of a network trained on DDPM's linear table of 1000 betas
>>> scheduler.set_timesteps(20)
>>> len(scheduler.timesteps)
20

A pipeline calls its network and hands the output to ``step``; what is done with it are the rows of the sampler's plan,
in torch, on the tensors' device.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Mapping, Optional, Union

import numpy as np

from . import ArgumentError, Model, Sampler, noise

_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}


@dataclass
class SchedulerOutput:
    """What ``step`` gives."""

    prev_sample: Any
    """The input of the next network call; after the last, the sample. The name is diffusers'."""


class Config(dict):  # type: ignore[type-arg]
    """A scheduler's configuration, by key and by attribute, as pipelines ask for it."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Scheduler:
    """A sampler of this library in the place of a scheduler of diffusers.

    ``spec`` is that of the network, as for :class:`psld.Model`; without it, the network was trained on a table of betas as
    ``config`` describes it (:meth:`from_config` takes a pipeline's own). ``process`` drives it along another path, such as
    ``{"kind": "psld"}``: the momentum then lives here, and the pipeline sees what the network is to see. ``sampler`` and
    ``options`` are those of :meth:`psld.Model.sampler`, the number of calls aside.

    Noise comes from the ``generator`` that a pipeline passes, the momenta that a phase-space path begins with from torch's own
    (``torch.manual_seed``), as a pipeline passes none before the first call. What ``step`` gave may be changed before it is given
    back as ``sample``, as pipelines do that complete images: along a phase-space path the momenta of what was changed are drawn
    anew, from their law given what the network sees. Pipelines that start from an image (``add_noise``, ``strength``) begin with the sampler's own first step
    at that time. Guidance is the pipeline's own business; along a phase-space path it cannot show its batch twice. Adaptive
    samplers are not supported.
    """

    order = 1

    def __init__(
        self,
        spec: Union[str, Mapping[str, Any], None] = None,
        *,
        process: Optional[Mapping[str, Any]] = None,
        sampler: str = "dpmpp",
        config: Optional[Mapping[str, Any]] = None,
        **options: Any,
    ) -> None:
        self.config = Config(_DEFAULTS, **(config or {}))
        spec = _of_config(self.config) if spec is None else dict(json.loads(spec) if isinstance(spec, str) else spec)
        # Coefficients depend on the process only.
        spec["data"] = {**spec.get("data", {}), "shape": [1]}
        if process is not None:
            network = dict(spec.get("network", {}))
            network.setdefault("process", spec["process"])
            spec.update(process=dict(process), network=network)
        self._told: list[float] = []
        self._model = Model(_records(self._told), spec=spec, name="the pipeline's")
        self._path = spec["process"]
        self._k = self._model.state_shape[0]
        self._sampler, self._options = sampler, options
        self._rows: list[Mapping[str, Any]] = []
        self.timesteps: Any = None
        self.num_inference_steps: Optional[int] = None
        self._prior = _prior(self._model, self._compile(None))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **arguments: Any) -> Scheduler:
        """Of a network that was made for a scheduler with this configuration (``pipeline.scheduler.config``): one with a
        table of betas, and not rescaled to noise of no signal."""
        if "beta_schedule" not in config or config.get("rescale_betas_zero_snr"):
            raise ArgumentError(100, "config: expected that of a network trained on a table of betas that is not rescaled")
        return cls(config={key: config[key] for key in _DEFAULTS if key in config}, **arguments)

    def _compile(self, nfe: Optional[int], **options: Any) -> Sampler:
        return self._model.sampler(self._sampler, **{**self._options, "nfe": nfe, **options})

    @property
    def init_noise_sigma(self) -> float:
        """What a pipeline multiplies its first noise by."""
        return float(self._prior[0, 0]) if self._k == 1 else 1.0

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """A run of so many network calls, the closing one included."""
        import torch

        with self._compile(num_inference_steps) as sampler:
            times = self._take(sampler)
        self._begun = self._noised = False
        self.timesteps = torch.tensor(times, dtype=torch.float32, device=device)
        self.num_inference_steps = len(times)
        self._calls = [row for row in self._rows if row["row"] == "eval"]
        self._paths: dict[float, Any] = {}

    def _take(self, sampler: Sampler) -> list[float]:
        """Makes ready for a sampler's plan, and gives the times that the network is told."""
        self._plan = sampler.plan
        # One run with a network that only listens.
        self._told.clear()
        self._model.sample(1, sampler=sampler)
        self._begin(self._plan["rows"])
        return list(self._told)

    def _begin(self, rows: list[Mapping[str, Any]]) -> None:
        self._rows, self._at = rows, 0
        self._states: list[Any] = [None] * self._plan["states"]
        self._slots: list[Any] = [None] * self._plan["slots"]
        self._looked = False
        # What a pipeline was given last.
        self._given: Any = None
        self._version = 0

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Goes by the last of ``timesteps`` only, from this one on, as pipelines do that start from an image: as if sampling
        began there, the sampler's own first step included. Without it, the first timestep that is given tells."""
        if self.timesteps is None:
            raise ValueError("set_timesteps comes before set_begin_index")
        self._begun = True
        if begin_index == 0:
            return
        if not 0 < begin_index < len(self._calls):
            raise ArgumentError(100, f"begin_index = {begin_index}: expected 0 to {len(self._calls) - 1}")
        first, grid = self._calls[begin_index], self._plan["grid"]
        times = self.timesteps[begin_index:].tolist()
        if first["step"] == self._plan["steps"]:
            # The closing step, which needs no step before it.
            self._begin(self._rows[self._rows.index(first) :])
            return
        points = {"time_grid": grid[first["step"] :], "t_start": None, "t_end": None, "steps": None}
        with self._compile(None, **points) as sampler:
            told = self._take(sampler)
        if len(told) != len(times) or not np.allclose(told, times, rtol=1e-4, atol=1e-4):
            raise ArgumentError(
                100, f"begin_index = {begin_index}: within a step of `{self._plan['sampler']}`, which takes several calls",
                "choose another `strength`, or a sampler of one call a step",
            )  # fmt: skip

    def add_noise(self, original_samples: Any, noise: Any, timesteps: Any) -> Any:
        """What the network is to see of images at some of ``timesteps``, one for all or one each."""
        if self.timesteps is None:
            raise ValueError("set_timesteps comes before add_noise")
        self._noised = self._noised or self._at == 0
        calls = [self._calls[self._index_of(time)] for time in timesteps.reshape(-1)]
        kernels = [self._kernel(call)[:2] for call in calls]

        def each(values: list[float]) -> Any:
            tensor = original_samples.new_tensor(values)
            return tensor.reshape(-1, *[1] * (original_samples.ndim - 1))

        scale, deviation = (each(list(values)) for values in zip(*kernels))
        return scale * original_samples + deviation * noise

    def _index_of(self, timestep: Any) -> int:
        """Which of ``timesteps`` it is; the last, where a step ends with a call at the time that the next begins with."""
        differences = [abs(time - float(timestep)) for time in self.timesteps.tolist()]
        if min(differences) > 1e-4 * max(1.0, abs(float(timestep))):
            raise ArgumentError(100, f"timestep {float(timestep):g} is none of the scheduler's `timesteps`")
        return max(i for i, difference in enumerate(differences) if difference == min(differences))

    def _kernel(self, row: Mapping[str, Any]) -> Any:
        """Of what the network sees at a call: the signal's factor, the noise's deviation; and the state's regression on it, with
        a factor of what that leaves."""
        if self._k > 1 and "input" not in row:
            raise ValueError("a network that sees momenta is shown no images: not along a phase-space path of its own")
        if not self._paths:
            self._paths = _path_at(self._path, sorted({call["t"] for call in self._calls}, reverse=True))
        mean, factor = self._paths[row["t"]]
        project = np.array(row["input"]["project"][0]) if "input" in row else np.ones(1)
        scale, covariance = float(project @ mean), factor @ factor.T
        variance = float(project @ covariance @ project)
        gain = mean / scale
        values, vectors = np.linalg.eigh(covariance - np.outer(gain, gain) * variance)
        return scale, variance**0.5, gain, vectors * np.sqrt(values.clip(0.0))

    def scale_model_input(self, sample: Any, timestep: Any = None) -> Any:
        """The network's input at the next call."""
        self._check_going(timestep)
        self._looked = True
        # What `step` gave is the next input already, also where a pipeline shows it twice, for its guidance; so is what
        # `add_noise` gave.
        if self._at > 0 or self._noised or "input" not in self._rows[0]:
            return sample
        if self._k == 1:
            return _product(self._rows[0]["input"]["project"], [self._as_work(sample)]).to(sample.dtype)
        if self._states[0] is None:
            self._start(sample, None)
        return self._input().to(sample.dtype)

    def step(
        self, model_output: Any, timestep: Any, sample: Any, generator: Any = None, return_dict: bool = True, **_: Any
    ) -> Any:
        """Goes on with a network's output, to the next network call or the end."""
        self._check_going(timestep)
        if self._states[0] is None:
            self._start(sample, generator)
        if self._states[0].shape[0] != sample.shape[0]:
            raise ValueError("the first input was shown twice, for guidance: not along a path with momenta of its own")
        if not self._looked and not self._noised and self._at == 0 and "input" in self._rows[0]:
            raise ValueError("this pipeline does not call scale_model_input: the first input of a phase-space path comes from it")
        if self._at > 0:
            self._follow(sample, generator)
        self._slots[self._rows[self._at]["slot"]] = self._as_work(model_output)
        self._at += 1
        while self._at < len(self._rows) and self._rows[self._at]["row"] != "eval":
            self._execute(self._rows[self._at], generator)
            self._at += 1
        ended = self._at == len(self._rows)
        out = (self._blocks(self._states[0])[0] if ended else self._input()).to(sample.dtype)
        self._given, self._version = out, out._version
        if ended:
            self._states = [None] * len(self._states)
        return SchedulerOutput(out) if return_dict else (out,)

    def _check_going(self, timestep: Any) -> None:
        if self.timesteps is None or self._at == len(self._rows):
            raise ValueError("set_timesteps comes before the first step")
        if not self._begun:
            self.set_begin_index(0 if timestep is None else self._index_of(timestep))

    # A state is [n, k*C, ...], in float32 whatever the network computes in.

    def _as_work(self, tensor: Any) -> Any:
        return tensor.float() if tensor.dtype.itemsize < 4 else tensor

    def _blocks(self, state: Any) -> Any:
        return state.chunk(self._k, dim=1)

    def _start(self, sample: Any, generator: Any) -> None:
        sample = self._as_work(sample)
        if self._noised:
            self._states[0] = self._seen(sample, generator)
            return
        if self._k == 1:
            self._states[0] = sample
            return
        noise = [sample, *(_randn_like(sample, generator) for _ in range(1, self._k))]
        self._states[0] = _product(self._prior.tolist(), noise)

    def _seen(self, sample: Any, generator: Any) -> Any:
        """A state of which the network sees this at the next call."""
        _, _, gain, left = self._kernel(self._rows[self._at])
        state = _product(gain[:, None].tolist(), [sample])
        if self._k == 1:
            return state
        return state + _product(left.tolist(), [_randn_like(sample, generator) for _ in range(self._k)])

    def _follow(self, sample: Any, generator: Any) -> None:
        """Takes over what a pipeline made of the last input."""
        if sample is self._given and sample._version == self._version:
            return
        row = self._rows[self._at]
        if self._k == 1 and "input" not in row:
            self._states[row["from"]] = self._as_work(sample)
            return
        same = (sample == self._input().to(sample.dtype)).repeat(1, self._k, *[1] * (sample.ndim - 2))
        anew = self._seen(self._as_work(sample), generator)
        self._states[row["from"]] = anew.where(~same, self._states[row["from"]])

    def _input(self) -> Any:
        row = self._rows[self._at]
        state = self._states[row["from"]]
        if "input" not in row:
            return state
        return _product(row["input"]["project"], self._blocks(state))

    def _execute(self, row: Mapping[str, Any], generator: Any) -> None:
        if row["row"] == "map":
            if row["kind"] != "clip":
                raise ArgumentError(100, f"a plan with a row of kind `{row['kind']}` cannot be run by a pipeline")
            first, *rest = self._blocks(self._states[row["into"]])
            self._states[row["into"]] = _cat([first.clamp(row["low"], row["high"]), *rest])
            return
        made = _product(row["A"], self._blocks(self._states[row["from"]]))
        for state, a in row.get("states", []):
            made = made + _product(a, self._blocks(self._states[state]))
        for slot, b in row["terms"]:
            output = self._slots[slot]
            made = made + _product(b, output.chunk(len(b[0]), dim=1))
        for _, _, c in row["noise"]:
            like = self._blocks(made)[0]
            made = made + _product(c, [_randn_like(like, generator) for _ in range(self._k)])
        self._states[row["into"]] = made


_DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    # What pipelines look for.
    "steps_offset": 1,
    "clip_sample": False,
}


def _of_config(config: Config) -> dict[str, Any]:
    """The spec of a network trained with such a scheduler."""
    if config.prediction_type not in _PREDICTIONS:
        raise ArgumentError(100, f"prediction_type = {config.prediction_type!r}: expected one of {', '.join(_PREDICTIONS)}")
    if config.trained_betas is not None:
        process: dict[str, Any] = {"betas": [float(beta) for beta in config.trained_betas]}
    elif config.beta_schedule in _SCHEDULES:
        process = {"schedule": _SCHEDULES[config.beta_schedule], "entries": int(config.num_train_timesteps)}
        if process["schedule"] != "cosine":
            process.update(beta_min=float(config.beta_start), beta_max=float(config.beta_end))
    else:
        raise ArgumentError(100, f"beta_schedule = {config.beta_schedule!r}: expected one of {', '.join(_SCHEDULES)}")
    return {
        "format": 1,
        "process": {"kind": "ddpm", **process},
        "network": {"prediction": _PREDICTIONS[config.prediction_type]},
    }


def _records(told: list[float]) -> Any:
    """A network that keeps the times that it is called at."""

    def network(z: Any, t: Any, *_: Any) -> Any:
        told.append(float(t[0]))
        return np.zeros_like(z)

    return network


def _prior(model: Model, sampler: Sampler) -> Any:
    """The factor of the prior: what its draws are made of the noise."""
    n, k = 4, model.state_shape[0]
    with sampler, model.start(n, sampler=sampler, dtype=np.float64) as run:
        states = run.state
    draws = np.array([noise(i, "prior", 0, (k,), dtype=np.float64) for i in range(n)])
    return np.linalg.lstsq(draws, states, rcond=None)[0].T


def _path_at(process: Mapping[str, Any], times: list[float]) -> dict[float, Any]:
    """What images become along a path, at two decreasing forward times or more: the mean's factor, and one of the noise."""
    spec = {"format": 1, "process": process, "data": {"shape": [1]}, "network": {"prediction": "epsilon"}}
    with Model(lambda z, *_: np.zeros_like(z), spec=spec, name="never called") as model:
        # Completing an image, a plan puts it into the state at the time of each step.
        with model.sampler("em", time_grid=times, denoise=False, inpaint="corrected") as sampler:
            rows = [row for row in sampler.plan["rows"] if row["row"] == "map" and row["noise"] is not None]
    return {row["t"]: (np.array(row["mean"])[:, 0], np.array(row["noise"][2])) for row in rows}


def _product(coefficients: Any, blocks: Any) -> Any:
    """A matrix of numbers times blocks of channels."""
    rows = []
    for row in coefficients:
        terms = [block * value for value, block in zip(row, blocks) if value != 0.0]
        rows.append(sum(terms[1:], terms[0]) if terms else blocks[0] * 0.0)
    return _cat(rows)


def _cat(blocks: Any) -> Any:
    import torch

    return torch.cat(list(blocks), dim=1)


def _randn_like(tensor: Any, generator: Any) -> Any:
    import torch

    if isinstance(generator, (list, tuple)):
        return torch.cat([_randn_like(row, one) for row, one in zip(tensor.split(1), generator)])
    # A generator of the CPU makes the same noise for every device.
    device = tensor.device if generator is None else generator.device
    return torch.randn(tensor.shape, generator=generator, device=device, dtype=tensor.dtype).to(tensor.device)
