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
    (``torch.manual_seed``), as a pipeline passes none before the first call. What is given as ``sample`` counts at the first call
    only. Guidance is the pipeline's own business; along a phase-space path it cannot show its batch twice. Adaptive samplers, and
    pipelines that start from an image, are not supported.
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

    def _compile(self, nfe: Optional[int]) -> Sampler:
        return self._model.sampler(self._sampler, nfe=nfe, **self._options)

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
            plan = sampler.plan
            # One run with a network that only listens: what it is told of the time.
            self._told.clear()
            self._model.sample(1, sampler=sampler)
        self._rows = plan["rows"]
        self.timesteps = torch.tensor(self._told, dtype=torch.float32, device=device)
        self.num_inference_steps = len(self._told)
        self._states: list[Any] = [None] * plan["states"]
        self._slots: list[Any] = [None] * plan["slots"]
        self._at = 0
        self._looked = False

    def scale_model_input(self, sample: Any, timestep: Any = None) -> Any:
        """The network's input at the next call."""
        self._check_going()
        self._looked = True
        # What `step` gave is the next input already, also where a pipeline shows it twice, for its guidance.
        if self._at > 0 or "input" not in self._rows[0]:
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
        self._check_going()
        if self._states[0] is None:
            self._start(sample, generator)
        if self._states[0].shape[0] != sample.shape[0]:
            raise ValueError("the first input was shown twice, for guidance: not along a path with momenta of its own")
        if not self._looked and self._at == 0 and "input" in self._rows[0]:
            raise ValueError("this pipeline does not call scale_model_input: the first input of a phase-space path comes from it")
        self._slots[self._rows[self._at]["slot"]] = self._as_work(model_output)
        self._at += 1
        while self._at < len(self._rows) and self._rows[self._at]["row"] != "eval":
            self._execute(self._rows[self._at], generator)
            self._at += 1
        ended = self._at == len(self._rows)
        out = (self._blocks(self._states[0])[0] if ended else self._input()).to(sample.dtype)
        if ended:
            self._states = [None] * len(self._states)
        return SchedulerOutput(out) if return_dict else (out,)

    def _check_going(self) -> None:
        if self.timesteps is None or self._at == len(self._rows):
            raise ValueError("set_timesteps comes before the first step")

    # A state is [n, k*C, ...], in float32 whatever the network computes in.

    def _as_work(self, tensor: Any) -> Any:
        return tensor.float() if tensor.dtype.itemsize < 4 else tensor

    def _blocks(self, state: Any) -> Any:
        return state.chunk(self._k, dim=1)

    def _start(self, sample: Any, generator: Any) -> None:
        sample = self._as_work(sample)
        if self._k == 1:
            self._states[0] = sample
            return
        noise = [sample, *(_randn_like(sample, generator) for _ in range(1, self._k))]
        self._states[0] = _product(self._prior.tolist(), noise)

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
