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
import warnings
from typing import Any, Mapping, NamedTuple, Optional, Sequence, Union

import numpy as np

from . import ArgumentError, Model, Sampler, noise

try:
    from diffusers.configuration_utils import ConfigMixin, FrozenDict
    from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
    from diffusers.utils import DummyObject

    _missing: Optional[ImportError] = None
except ImportError as error:
    _missing = error

    class ConfigMixin:  # type: ignore[no-redef]
        """In the place of that of diffusers, which is not here."""

    class SchedulerMixin:  # type: ignore[no-redef]
        """In the place of that of diffusers, which is not here."""


# What diffusers' schedulers are told of the network, with psld's defaults; and what pipelines look for.
_NETWORK = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "lower_order_final": True,
    "steps_offset": 1,
}
# Of those, what pipelines look for whatever the network.
_SEEN = {name: _NETWORK[name] for name in ("num_train_timesteps", "clip_sample", "steps_offset")}
# Those that only a network of flow matching is told.
_FLOW = {
    "shift": 1.0,
    "flow_shift": 1.0,
    "use_flow_sigmas": False,
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
    "shift_terminal": None,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
# Those that this library's own samplers and grids have in another form: the option, and of which samplers.
_OPTIONS = {
    "solver_order": ("order", ("dpmpp", "unipc", "sde_dpmpp")),
    "solver_type": ("variant", ("unipc",)),
    "use_karras_sigmas": ("time_grid", None),
    "use_exponential_sigmas": ("time_grid", None),
    "use_lu_lambdas": ("time_grid", None),
}
_GRIDS = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "log_snr", "use_lu_lambdas": "log_snr"}
# Those that it does not have, with the value that asks for nothing; `...` where every value asks for something.
_OTHERS: dict[str, Any] = {
    "timestep_spacing": ...,
    "set_alpha_to_one": True,
    "final_sigmas_type": "zero",
    "use_beta_sigmas": False,
    "sigma_min": None,
    "sigma_max": None,
    "lambda_min_clipped": -np.inf,
    "interpolation_type": "linear",
    "algorithm_type": ...,
    "predictor_order": ...,
    "corrector_order": ...,
    "tau_func": None,
    "solver_p": None,
    "predict_x0": True,
    "disable_corrector": [],
    "euler_at_final": False,
    "skip_prk_steps": True,
    # Learned ones are left alone, see `step`.
    "variance_type": ...,
    "stochastic_sampling": False,
    "use_noise_sampler_seed": None,
    "noise_sampler_seed": None,
}
# What a sampler does anyhow.
_LIKE: dict[str, dict[str, tuple[Any, ...]]] = {
    "algorithm_type": {"dpmpp": ("dpmsolver++",), "sde_dpmpp": ("sde-dpmsolver++",), "deis": ("deis",)},
    "solver_type": {"dpmpp": ("midpoint",)},
}
# What is about the points of a grid, and nothing to one who gives a grid.
_POINTS = ("timestep_spacing", "use_beta_sigmas", "sigma_min", "sigma_max")
# What other values than these make another network, which no sampler here is for.
_REFUSED: dict[str, tuple[Any, str]] = {
    "rescale_betas_zero_snr": (False, "a table of betas that is not rescaled to noise of no signal"),
    "snr_shift_scale": (1.0, "a table of betas whose signal is not shifted"),
    "timestep_type": ("discrete", "times of the table, not noise levels"),
    "invert_sigmas": (False, "noise at the largest time"),
}
_TABLES = (
    "DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler", "PNDMScheduler", "LMSDiscreteScheduler",
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DPMSolverSDEScheduler",
    "DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler",
)  # fmt: skip
_FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
# What schedulers of other kinds are known by where a configuration does not name its class.
_KINDS = {
    "original_inference_steps": "LCMScheduler or TCDScheduler",
    "timestep_scaling": "LCMScheduler or TCDScheduler",
    "upscale_mode": "FlowMatchLCMScheduler",
    "scale_factors": "FlowMatchLCMScheduler",
    "stages": "HeliosScheduler",
    "sigma_data": "a scheduler of EDM networks",
    "sampling_eps": "ScoreSdeVeScheduler",
    "s_churn": "KarrasVeScheduler",
}
_LEARNED = ("learned", "learned_range")
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine", "sigmoid": None}
_CONFIG = {*_NETWORK, *_FLOW, *_OPTIONS, *_OTHERS, *_REFUSED, *_KINDS}


class _Network(NamedTuple):
    """What a configuration makes of a run."""

    spec: dict[str, Any]
    options: dict[str, Any]
    flow: bool


class Scheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """A sampler of this library in the place of a scheduler of diffusers.

    ``spec`` is that of the network, as for :class:`psld.Model`; without it, the network was trained as the keywords of diffusers'
    schedulers describe it, such as ``beta_schedule`` and ``prediction_type`` (:meth:`from_config` takes a pipeline's own).
    ``process`` drives it along another path, such as ``{"kind": "psld"}``: the momentum then lives here, and the pipeline sees
    what the network is to see. ``sampler`` and ``options`` (or keywords) are those of :meth:`psld.Model.sampler`, the number of
    calls aside. It is saved and loaded, copied and pickled as those of diffusers are, also in the middle of a run.

    Noise comes from the ``generator`` that a pipeline passes, the momenta that a phase-space path begins with from torch's own
    (``torch.manual_seed``), as a pipeline passes none before the first call. What ``step`` gave may be changed before it is given
    back as ``sample``, as pipelines do that complete images: along a phase-space path the momenta of what was changed are drawn
    anew, from their law given what the network sees. Pipelines that start from an image (``add_noise``, ``strength``) begin with
    the sampler's own first step at that time. Guidance is the pipeline's own business; a first input whose parts are equal was
    shown twice for it, and its parts share their momenta. Adaptive samplers are not supported.
    """

    order = 1
    # The rest takes no configuration but its own.
    _compatibles = [name for name in _TABLES if "Parallel" not in name and name != "SASolverScheduler"]

    def __init__(
        self,
        spec: Union[str, Mapping[str, Any], None] = None,
        *,
        process: Optional[Mapping[str, Any]] = None,
        sampler: str = "auto",
        options: Optional[Mapping[str, Any]] = None,
        **keywords: Any,
    ) -> None:
        _needs_diffusers()
        config = {name: value for name, value in keywords.items() if name in _CONFIG}
        more = {name: value for name, value in keywords.items() if name not in _CONFIG and not name.startswith("_")}
        own = {
            "spec": json.loads(spec) if isinstance(spec, str) else _plain(spec),
            "process": _plain(process),
            "sampler": sampler,
            "options": _plain({**(options or {}), **more}) or None,
        }
        default = {"spec": None, "process": None, "sampler": "auto", "options": None}
        unset = sorted(name for name in own if own[name] == default[name])
        if own["spec"] is not None:
            described: Mapping[str, Any] = _SEEN
        elif _is_flow(config):
            described = {"num_train_timesteps": 1000, "shift": 1.0}
        else:
            described = _NETWORK
        config = {**described, **config}
        if not keywords.get("_quiet"):
            given = {name: value for name, value in config.items() if name not in keywords.get("_use_default_values", ())}
            _name_others({**given, **more, "sampler": sampler, "options": options}, {}, 3)
        self.register_to_config(**own, **_plain(config), **({"_use_default_values": unset} if unset else {}))
        self._told: list[float] = []
        self._built: Optional[dict[str, Any]] = None
        self._rows: list[Mapping[str, Any]] = []
        self._at = 0
        self.timesteps: Any = None
        self.num_inference_steps: Optional[int] = None
        self._build()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], return_unused_kwargs: bool = False, **arguments: Any) -> Any:
        """Of a network that was made for a scheduler with this configuration (``pipeline.scheduler.config``): one with a table of
        betas that is not rescaled to noise of no signal, or of flow matching. ``arguments`` are those of the class.

        The noise and the network are as configured, and so are ``clip_sample`` and ``thresholding`` (the option ``clip``),
        ``lower_order_final``, ``shift`` and its kin; ``solver_order``, ``solver_type`` and ``use_karras_sigmas`` where ``sampler``
        has the like. What else was set there and is not as here is named in a warning; what makes another network is an
        :class:`psld.ArgumentError`.
        """
        _needs_diffusers()
        if not isinstance(config, Mapping):
            raise ArgumentError(100, f"config = {config!r}: expected a mapping", "from_pretrained takes a folder")
        given = {name: value for name, value in config.items() if name != "_use_default_values"}
        own = ("spec", "process", "sampler", "options")
        theirs = not set(own) & set(given)
        if given.get("options"):
            # Options by name go before those that were saved.
            arguments = {**given.pop("options"), **arguments.pop("options", {}), **arguments}
        unset = set(config.get("_use_default_values", ()))
        _refuse(given)
        keywords = {name: value for name, value in given.items() if name in _NETWORK or name in _FLOW or name in _REFUSED}
        if "steps_offset" in unset:
            keywords.pop("steps_offset", None)
        keywords.update({name: value for name, value in given.items() if name in {*_OPTIONS, *_OTHERS} - unset})
        keywords.update({name: given[name] for name in own if name in given and name not in unset})
        if theirs:
            keywords.setdefault("lower_order_final", True)
        keywords.update(arguments)
        if theirs:
            known = {*_CONFIG, *own, *unset}
            unknown = {name: v for name, v in given.items() if name not in known and not name.startswith("_")}
            _name_others(keywords, unknown, 3)
        scheduler = cls(_quiet=True, **keywords)
        # What this class makes nothing of goes on to the next, as among diffusers' own.
        made = dict(scheduler.config)
        made.update({name: value for name, value in given.items() if name not in {*made, *_KINDS, *unset}})
        if "_class_name" in made:
            made["_class_name"] = cls.__name__
        made["_use_default_values"] = sorted(set(own) - set(keywords) - ({"options"} if made["options"] else set()))
        if not made["_use_default_values"]:
            del made["_use_default_values"]
        scheduler._internal_dict = FrozenDict(made)
        scheduler._built = made
        return (scheduler, {}) if return_unused_kwargs else scheduler

    @classmethod
    def _get_compatibles(cls) -> list[Any]:
        # Without those that stand for what needs a package that is not here.
        found = super()._get_compatibles()
        return [kind for kind in found if not isinstance(kind, DummyObject)]

    def _build(self) -> None:
        """Reads the configuration, again where a pipeline has changed it."""
        if self._built == dict(self.config):
            return
        network = _network(self.config)
        spec = network.spec
        # Coefficients depend on the process only.
        spec["data"] = {**spec.get("data", {}), "shape": [1]}
        if self.config["process"] is not None:
            described = dict(spec.get("network", {}))
            described.setdefault("process", spec["process"])
            spec.update(process=dict(self.config["process"]), network=described)
        self._spec, self._options, self._flow = spec, network.options, network.flow
        with self._open() as model, self._compile(model, None) as sampler:
            self._k = model.state_shape[0]
            self._prior = _prior(model, sampler)
        self._built = dict(self.config)

    def _open(self) -> Model:
        # Made when it is needed: what holds none can be copied and pickled.
        return Model(_records(self._told), spec=self._spec, name="the pipeline's")

    def _compile(self, model: Model, calls: Optional[int], **options: Any) -> Sampler:
        # A number of calls that is asked for goes before one among the options.
        number = {} if calls is None else {"nfe": calls, "steps": None}
        asked = {**self._options, **number, **options}
        steps = len(asked["time_grid"]) - 1 if "time_grid" in options else None if calls is None else calls - 1
        if steps and asked.get("order") and ("time_grid" in options or "order" not in (self.config["options"] or {})):
            # What is left of a run, or an order that nobody asked this sampler for: as high as there are steps.
            asked["order"] = min(asked["order"], steps)
        return model.sampler(self.config["sampler"], **asked)

    def __getstate__(self) -> dict[str, Any]:
        # A copy goes its own way from here.
        lists = {name: list(value) for name, value in self.__dict__.items() if isinstance(value, list)}
        return {**self.__dict__, **lists}

    @property
    def init_noise_sigma(self) -> float:
        """What a pipeline multiplies its first noise by."""
        return float(self._prior[0, 0]) if self._k == 1 else 1.0

    @property
    def betas(self) -> Any:
        """The table that the network was trained on."""
        import torch

        if self.config["spec"] is not None or self._flow:
            raise AttributeError("betas: the network was not trained on a table of betas")
        return torch.tensor(_betas(self.config), dtype=torch.float32)

    @property
    def alphas_cumprod(self) -> Any:
        """What is left of an image's variance at each entry of the table."""
        return (1.0 - self.betas).cumprod(0)

    def __len__(self) -> int:
        return int(self.config.get("num_train_timesteps", 1000))

    def set_timesteps(
        self,
        num_inference_steps: Optional[int] = None,
        device: Any = None,
        *,
        timesteps: Optional[Sequence[float]] = None,
        sigmas: Optional[Sequence[float]] = None,
        mu: Optional[float] = None,
    ) -> None:
        """A run of so many network calls, the closing one included; without a number, of as many as the options say.

        Or one whose steps begin at these ``timesteps``, as the network is told them, or at these ``sigmas``, the noise per signal
        (of flow matching, the noise's part), a last 0 aside. ``mu`` is the shift that a pipeline gives where the configuration
        says that it depends on the image's size.
        """
        import torch

        self._build()
        if num_inference_steps is not None and (num_inference_steps != int(num_inference_steps) or num_inference_steps < 1):
            raise ArgumentError(100, f"num_inference_steps = {num_inference_steps}: expected a whole number of at least 1")
        if timesteps is not None and sigmas is not None:
            raise ArgumentError(100, "set_timesteps: expected `timesteps` or `sigmas`, not both")
        points = exact = None
        if timesteps is not None:
            exact = [float(time) for time in np.ravel(np.asarray(_plain(timesteps), np.float64))]
            points = self._times_of("timesteps", exact, self._told_at)
        elif sigmas is not None:
            values = [float(sigma) for sigma in np.ravel(np.asarray(_plain(sigmas), np.float64))]
            points = self._times_of_sigmas(values[:-1] if values and values[-1] == 0.0 else values)
        if self._flow:
            shifted = self._shift(points, num_inference_steps, mu)
            if shifted is not points:
                points, exact = shifted, None
        with self._open() as model:
            if points is None and num_inference_steps == 1:
                # The closing call at the noise that others begin with.
                with self._compile(model, 2) as sampler:
                    points = sampler.plan["grid"][:1]
            if points is None:
                with self._compile(model, num_inference_steps) as sampler:
                    times = self._take(model, sampler)
                    self._prior = _prior(model, sampler)
            else:
                times = self._take_points(model, points)
                # Noise of a grid of one's own is that of its first point.
                first = min(points[0], self._limits(model)[1] * (1.0 - 1e-6))
                with model.sampler("em", time_grid=[first, 0.5 * first]) as sampler:
                    self._prior = _prior(model, sampler)
        if points is not None and num_inference_steps not in (None, len(times), len(points)):
            raise ArgumentError(100, f"num_inference_steps = {num_inference_steps}: there are {len(points)} times")
        if exact is not None and len(exact) == len(times):
            # To the network exactly what was asked for.
            times = exact
        self._whole = (self._plan, self._rows)
        self._begun = self._noised = False
        self.timesteps = torch.tensor(times, dtype=torch.float32, device=device)
        self.num_inference_steps = len(times)
        self._calls = [row for row in self._rows if row["row"] == "eval"]
        self._paths: dict[float, Any] = {}

    def _take(self, model: Model, sampler: Sampler) -> list[float]:
        """Makes ready for a sampler's plan, and gives the times that the network is told."""
        self._plan = sampler.plan
        # One run with a network that only listens.
        self._told.clear()
        model.sample(1, sampler=sampler)
        self._begin(self._plan["rows"])
        return list(self._told)

    def _take_points(self, model: Model, points: list[float]) -> list[float]:
        """As `_take`, for steps that begin at these times; the last is the closing one."""
        if len(points) > 1:
            with self._compile(model, None, time_grid=points, t_start=None, t_end=None, steps=None, nfe=None) as sampler:
                return self._take(model, sampler)
        # The closing step needs one before it, which is not taken.
        _, high = self._limits(model)
        last = min(points[0], high * (1.0 - 1e-6))
        clip = {name: value for name, value in self._options.items() if name == "clip"}
        with model.sampler("em", time_grid=[min(high, (1.0 + 1e-6) * last), last], **clip) as sampler:
            told = self._take(model, sampler)
        closing = next(i for i, row in enumerate(self._rows) if row["row"] == "eval" and row["step"] == 1)
        self._begin(self._rows[closing:])
        return self._told_at([points[0], 0.5 * points[0]])[:1] if points[0] > last else told[-1:]

    def _begin(self, rows: list[Mapping[str, Any]]) -> None:
        self._rows, self._at = rows, 0
        self._states: list[Any] = [None] * self._plan["states"]
        self._slots: list[Any] = [None] * self._plan["slots"]
        self._looked = 0
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
        with self._open() as model:
            told = self._take_points(model, grid[first["step"] :])
        if len(told) != len(times) or not np.allclose(told, times, rtol=1e-4, atol=1e-4):
            raise ArgumentError(
                100, f"begin_index = {begin_index}: within a step of `{self._plan['sampler']}`, which takes several calls",
                "choose another `strength`, or a sampler of one call a step",
            )  # fmt: skip

    def _begin_at(self, timestep: Any) -> None:
        """Begins at a timestep: one of `timesteps`, or else from there on as they do."""
        index = self._place(timestep)
        if index is not None:
            self.set_begin_index(index)
            return
        self._begun = True
        [time] = self._times_of("timestep", [float(timestep)], self._told_at)
        with self._open() as model:
            self._take_points(model, [time, *(point for point in self._plan["grid"] if point < time)])

    # Times, by what they are to a network.

    def _limits(self, model: Model) -> tuple[float, float]:
        """The least and the largest time of the path."""
        ends = []
        for tried, among in ((0, (1e-7, 2.5e-5, 1e-3)), (1, (1.0, 0.999))):
            for time in among:
                try:
                    model.sampler("em", time_grid=[0.5, time] if tried == 0 else [time, 0.5]).close()
                except ArgumentError:
                    continue
                ends.append(time)
                break
            else:
                with self._compile(model, None) as sampler:
                    ends.append(sampler.plan["grid"][-1 if tried == 0 else 0])
        return ends[0], ends[1]

    def _told_at(self, times: list[float]) -> list[float]:
        """What the network is told at decreasing times."""
        with self._open() as model, model.sampler("euler", time_grid=times) as sampler:
            self._told.clear()
            model.sample(1, sampler=sampler)
            return list(self._told)

    def _ratios_at(self, times: list[float]) -> list[float]:
        """The noise per signal of what the network sees at decreasing times."""
        if self._is_flow_time:
            return [time / (1.0 - time) for time in times]
        paths = _path_at(self._path, times)
        return [float(mean @ np.linalg.solve(factor @ factor.T, mean)) ** -0.5 for mean, factor in paths.values()]

    @property
    def _path(self) -> Mapping[str, Any]:
        path: Mapping[str, Any] = self._spec["process"]
        return path

    @property
    def _is_flow_time(self) -> bool:
        """Whether a time is the noise's part."""
        return self._flow and self._path["kind"] == "flow"

    def _times_of_sigmas(self, sigmas: list[float]) -> list[float]:
        ratios = [sigma / (1.0 - sigma) if sigma < 1.0 else np.inf for sigma in sigmas] if self._flow else sigmas
        return self._times_of("sigmas", ratios, self._ratios_at, sigmas)

    def _times_of(self, name: str, values: Sequence[float], at: Any, said: Optional[Sequence[float]] = None) -> list[float]:
        """The forward times at which a function of them, which is monotone, has these values."""
        said = values if said is None else said
        if not values or any(not value >= 0.0 for value in values):
            raise ArgumentError(100, f"{name} = {list(said)}: expected numbers of at least 0, and at least one")
        with self._open() as model:
            low, high = self._limits(model)
        at_high, at_low = at([high, low])
        up = at_high >= at_low
        (least, first), (largest, last) = ((at_low, low), (at_high, high))[:: 1 if up else -1]
        slack = 2e-3
        brackets: list[tuple[float, float]] = []
        for value, shown in zip(values, said):
            if not least - slack * abs(largest) <= value <= largest * (1.0 + slack) and not (self._flow and value > largest):
                raise ArgumentError(100, f"{name}: {shown:g} is none of the network's, which go from {least:g} to {largest:g}")
            end = first if value <= least else last if value >= largest else None
            brackets.append((low, high) if end is None else (end, end))
        for _ in range(8):
            points = sorted({float(x) for a, b in brackets if a < b for x in np.linspace(a, b, 17)}, reverse=True)
            if len(points) < 2:
                break
            found = dict(zip(points, at(points)))
            for i, (a, b) in enumerate(brackets):
                if a < b:
                    inside = [x for x in points if a <= x <= b]
                    below = [x for x in inside if (found[x] <= values[i]) == up]
                    above = [x for x in inside if (found[x] <= values[i]) != up]
                    brackets[i] = (max(below, default=a), min(above, default=b))
        times = [(a + b) / 2 for a, b in brackets]
        if any(a <= b for a, b in zip(times, times[1:])):
            raise ArgumentError(100, f"{name} = {list(said)}: expected each to have less noise than the one before it")
        return times

    def _shift(self, points: Optional[list[float]], nfe: Optional[int], mu: Optional[float]) -> Optional[list[float]]:
        """The times of a network of flow matching, more of them at much noise, as its configuration says."""
        config = self.config
        shift = float(config.get("flow_shift" if config.get("use_flow_sigmas") else "shift", 1.0))
        if config.get("use_dynamic_shifting"):
            if mu is None:
                raise ArgumentError(100, "mu: expected, as the configuration says `use_dynamic_shifting`")
            shift = float(np.exp(mu)) if config.get("time_shift_type", "exponential") == "exponential" else float(mu)
        terminal = config.get("shift_terminal")
        if shift == 1.0 and not terminal:
            return points
        ends = 0
        if points is None:
            with self._open() as model, self._compile(model, None if nfe is None else max(nfe, 2)) as sampler:
                points, ends = sampler.plan["grid"], 1
        ratios = np.array(self._ratios_at(points) if len(points) > 1 else self._ratios_at([*points, 0.5 * points[0]])[:1])
        sigmas = ratios / (1.0 + ratios)
        moved = shift * sigmas / (1.0 + (shift - 1.0) * sigmas)
        if ends and nfe == 1:
            points, sigmas, moved = points[:1], sigmas[:1], moved[:1]
        # A grid of the sampler's own ends where it ends.
        moved[-1] = sigmas[-1] if ends and not terminal else moved[-1]
        if terminal and len(moved) > 1:
            moved = 1.0 - (1.0 - moved) * (1.0 - terminal) / (1.0 - moved[-1])
        return self._times_of_sigmas(moved.tolist())

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

    def scale_noise(self, sample: Any, timestep: Any, noise: Any) -> Any:
        """:meth:`add_noise`, as pipelines of flow matching call it."""
        return self.add_noise(sample, noise, timestep)

    def _index_of(self, timestep: Any) -> int:
        index = self._place(timestep)
        if index is None:
            raise ArgumentError(100, f"timestep {float(timestep):g} is none of the scheduler's `timesteps`")
        return index

    def _place(self, timestep: Any) -> Optional[int]:
        """Which of ``timesteps`` it is; the last, where a step ends with a call at the time that the next begins with."""
        differences = [abs(time - float(timestep)) for time in self.timesteps.tolist()]
        if min(differences) > 1e-4 * max(1.0, abs(float(timestep))):
            return None
        return max(i for i, difference in enumerate(differences) if difference == min(differences))

    def _kernel(self, row: Mapping[str, Any]) -> Any:
        """Of what the network sees at a call: the signal's factor, the noise's deviation; and the state's regression on it, with
        a factor of what that leaves."""
        if self._k > 1 and "input" not in row:
            raise ValueError("a network that sees momenta is shown no images: not along a phase-space path of its own")
        if row["t"] not in self._paths:
            times = {call["t"] for call in (*self._calls, row)}
            # A second one where there is one only.
            self._paths = _path_at(self._path, sorted(times | {0.5 * max(times)} if len(times) == 1 else times, reverse=True))
        mean, factor = self._paths[row["t"]]
        project = np.array(row["input"]["project"][0]) if "input" in row else np.ones(1)
        scale, covariance = float(project @ mean), factor @ factor.T
        variance = float(project @ covariance @ project)
        gain = mean / scale
        values, vectors = np.linalg.eigh(covariance - np.outer(gain, gain) * variance)
        return scale, variance**0.5, gain, vectors * np.sqrt(values.clip(0.0))

    def scale_model_input(self, sample: Any, timestep: Any = None) -> Any:
        """The network's input at the next call."""
        if self.timesteps is None and self._k == 1 and self.config["process"] is None:
            # Before a run: of a network on its own path it is what there is.
            return sample
        self._check_going(timestep)
        if not self._looked:
            self._looked = sample.shape[0]
        # What `step` gave is the next input already, also where a pipeline shows it twice, for its guidance; so is what
        # `add_noise` gave.
        if self._at > 0 or self._noised or "input" not in self._rows[0]:
            return sample
        if self._k == 1:
            return _product(self._rows[0]["input"]["project"], [self._as_work(sample)]).to(sample.dtype)
        if self._states[0] is None:
            self._start(sample[: _period(sample)], None)
        shown = self._input().to(sample.dtype)
        return shown.repeat(sample.shape[0] // shown.shape[0], *[1] * (sample.ndim - 1))

    def step(
        self, model_output: Any, timestep: Any, sample: Any, generator: Any = None, return_dict: bool = True, **_: Any
    ) -> Any:
        """Goes on with a network's output, to the next network call or the end. After the end it begins anew, at this timestep."""
        self._check_going(timestep)
        if self._states[0] is None:
            self._start(sample, generator)
        held, n = self._states[0].shape[0], sample.shape[0]
        if held != n:
            # Its equal parts were seen as one, of which a pipeline may hold several.
            if self._at > 0 or n % held or self._looked % n:
                raise ValueError(f"sample: expected {held} as the input before, got {n}")
            self._states[0] = self._states[0].repeat(n // held, *[1] * (sample.ndim - 1))
        if not self._looked and not self._noised and self._at == 0 and "input" in self._rows[0]:
            raise ValueError("this pipeline does not call scale_model_input: the first input of a phase-space path comes from it")
        if self._at > 0:
            self._follow(sample, generator)
        if model_output.shape[1] == 2 * sample.shape[1] and self.config.get("variance_type") in _LEARNED:
            # A learned variance behind it, which no sampler here takes.
            model_output = model_output[:, : sample.shape[1]]
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
        return SchedulerOutput(prev_sample=out) if return_dict else (out,)

    def _check_going(self, timestep: Any) -> None:
        if self.timesteps is None:
            raise ValueError("set_timesteps comes before the first step")
        if self._at == len(self._rows):
            self._plan, rows = self._whole
            self._begin(rows)
            self._begun = self._noised = False
        if not self._begun:
            if timestep is None:
                self.set_begin_index(0)
            else:
                self._begin_at(timestep)

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
            if row["kind"] == "threshold":
                self._threshold(row)
                return
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

    def _threshold(self, row: Mapping[str, Any]) -> None:
        """Clips what a call's output says of the data."""
        output = self._slots[row["into"]]
        outputs = output.chunk(len(row["B"]), dim=1)
        estimate = _product(row["X"], self._blocks(self._states[row["from"]])) + _product(row["Y"], outputs)
        middle, half = (row["low"] + row["high"]) / 2, (row["high"] - row["low"]) / 2
        if row.get("percentile") is None:
            clipped = estimate.clamp(row["low"], row["high"])
        else:
            distance = (estimate - middle) / half
            bound = _percentile(distance.abs().flatten(1), row["percentile"]).clamp(1.0, row.get("max"))
            bound = bound.reshape(-1, *[1] * (estimate.ndim - 1))
            clipped = middle + half * distance.clamp(-bound, bound) / bound
        self._slots[row["into"]] = output + _product(row["B"], [clipped - estimate])


def _percentile(values: Any, percentile: float) -> Any:
    """Of each row, interpolated between neighbours."""
    place = percentile * (values.shape[1] - 1)
    below = int(place)
    low = values.kthvalue(below + 1, dim=1).values
    if place == below:
        return low
    return low + (place - below) * (values.kthvalue(below + 2, dim=1).values - low)


def _needs_diffusers() -> None:
    if _missing is not None:
        raise ImportError(f"psld.diffusers needs the packages diffusers and torch: {_missing}") from _missing


def _is_flow(config: Mapping[str, Any]) -> bool:
    """Whether it describes a network of flow matching."""
    said = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return bool(said) or ("shift" in config and "beta_schedule" not in config and config.get("trained_betas") is None)


def _refuse(config: Mapping[str, Any]) -> None:
    """Refuses the configurations of networks that no sampler here is for."""
    import diffusers

    kind = config.get("_class_name")
    if kind not in (*_TABLES, *_FLOWS):
        other = kind if isinstance(kind, str) and hasattr(diffusers, kind) else None
        other = other or next((_KINDS[name] for name in config if name in _KINDS), None)
        if other is not None:
            raise ArgumentError(
                100, f"config: that of {other}: its networks or its steps are of another kind",
                f"expected that of a network trained on a table of betas or by flow matching, as of {_TABLES[0]} or {_FLOWS[0]}",
            )  # fmt: skip
    if not {"beta_schedule", "trained_betas"} & set(config) and not _is_flow(config) and config.get("spec") is None:
        raise ArgumentError(100, "config: expected that of a network trained on a table of betas, or by flow matching")
    for name, (value, expected) in _REFUSED.items():
        if name in config and config[name] != value:
            raise ArgumentError(100, f"config: {name} = {config[name]!r}: expected {expected}")


def _name_others(keywords: Mapping[str, Any], unknown: Mapping[str, Any], level: int) -> None:
    """Warns of what was set of another scheduler's steps that these do not do."""
    options = {**(keywords.get("options") or {}), **keywords}
    sampler = options.get("sampler", "auto")
    named = dict(unknown)
    for name, nothing in _OTHERS.items():
        if name in keywords and not (name in _POINTS and "time_grid" in options):
            value = keywords[name]
            likes = [*_LIKE.get(name, {}).get(sampler, ()), *([] if nothing is ... else [nothing])]
            if value not in likes and not (name == "variance_type" and value in (None, "fixed_small", *_LEARNED)):
                named[name] = value
    for name, (option, _) in _OPTIONS.items():
        value = keywords.get(name)
        done = option in options or value in _LIKE.get(name, {}).get(sampler, ())
        if value and not done and _option_of(name, keywords) is None:
            named[name] = value
    if named:
        listed = ", ".join(f"{name} = {value!r}" for name, value in named.items())
        warnings.warn(
            f"psld.diffusers.Scheduler does not do what this configuration says of {listed}: its steps are those of its own "
            "sampler, chosen by `sampler`, `time_grid`, `order` and the like",
            stacklevel=level,
        )


def _option_of(name: str, config: Mapping[str, Any]) -> Any:
    """The value of the option that stands for a key of a configuration, or `None`."""
    value, samplers = config.get(name), _OPTIONS[name][1]
    if not value or (samplers is not None and config.get("sampler", "auto") not in samplers):
        return None
    if name == "solver_type":
        return value if value in ("bh1", "bh2") else None
    if name in _GRIDS:
        return None if _is_flow(config) else _GRIDS[name]
    return value


def _network(config: Mapping[str, Any]) -> _Network:
    """The network that such a scheduler is for, and the options of a sampler that its configuration stands for."""
    options = dict(config["options"] or {})
    for name, (option, _) in _OPTIONS.items():
        value = _option_of(name, config)
        if value is not None:
            options.setdefault(option, value)
    if config["sampler"] in ("dpmpp", "unipc"):
        # As diffusers does by default; a network that a spec describes comes without a word on it.
        options.setdefault("lower_order_final", bool(config.get("lower_order_final", config["spec"] is None)))
    spec: dict[str, Any] = {"format": 1} if config["spec"] is None else json.loads(json.dumps(config["spec"]))
    if config.get("thresholding"):
        dynamic = {"percentile": config.get("dynamic_thresholding_ratio", 0.995), "max": config.get("sample_max_value", 1.0)}
        options.setdefault("clip", dynamic)
    elif config.get("clip_sample"):
        options.setdefault("clip", True)
        bound = float(config.get("clip_sample_range", 1.0))
        spec["data"] = {**spec.get("data", {}), "range": [-bound, bound]}
    if config["spec"] is not None:
        return _Network(spec, options, False)
    _refuse(config)
    entries = int(config.get("num_train_timesteps", 1000))
    if _is_flow(config):
        if config["process"] is None:
            # A shift is one of evenly spaced times.
            options.setdefault("time_grid", "uniform")
        spec.update(process={"kind": "flow"}, network={"prediction": "velocity", "time_scale": entries})
        return _Network(spec, options, True)
    prediction, schedule = config["prediction_type"], config["beta_schedule"]
    if prediction not in _PREDICTIONS:
        raise ArgumentError(100, f"prediction_type = {prediction!r}: expected one of {', '.join(_PREDICTIONS)}")
    if config["trained_betas"] is not None or schedule == "sigmoid":
        process: dict[str, Any] = {"betas": _betas(config)}
    elif schedule in _SCHEDULES:
        process = {"schedule": _SCHEDULES[schedule], "entries": entries}
        if schedule != "squaredcos_cap_v2":
            process.update(beta_min=float(config["beta_start"]), beta_max=float(config["beta_end"]))
    else:
        raise ArgumentError(100, f"beta_schedule = {schedule!r}: expected one of {', '.join(_SCHEDULES)}")
    spec.update(process={"kind": "ddpm", **process}, network={"prediction": _PREDICTIONS[prediction]})
    return _Network(spec, options, False)


def _betas(config: Mapping[str, Any]) -> list[float]:
    """The table that a configuration describes."""
    if config["trained_betas"] is not None:
        return [float(beta) for beta in config["trained_betas"]]
    first, last, entries = float(config["beta_start"]), float(config["beta_end"]), int(config["num_train_timesteps"])
    schedule = config["beta_schedule"]
    if schedule == "linear":
        betas = np.linspace(first, last, entries)
    elif schedule == "scaled_linear":
        betas = np.linspace(first**0.5, last**0.5, entries) ** 2
    elif schedule == "sigmoid":
        betas = first + (last - first) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, entries)))
    else:
        left = np.cos((np.arange(entries + 1) / entries + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1.0 - left[1:] / left[:-1], 0.999)
    return [float(beta) for beta in betas]


def _plain(value: Any) -> Any:
    """As JSON holds it."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)) or type(value).__module__ == "torch":
        return value.tolist() if hasattr(value, "tolist") else value
    return value


def _period(sample: Any) -> int:
    """How many samples a batch begins with that it then only repeats."""
    n = int(sample.shape[0])
    for period in range(1, n // 2 + 1):
        if n % period == 0 and bool((sample[period:] == sample[:-period]).all()):
            return period
    return n


def _records(told: list[float]) -> Any:
    """A network that keeps the times that it is called at."""

    def network(z: Any, t: Any, *_: Any) -> Any:
        told.append(float(t[0]))
        return np.zeros_like(z)

    return network


def _prior(model: Model, sampler: Sampler) -> Any:
    """The factor of the prior: what its draws are made of the noise."""
    n, k = 4, model.state_shape[0]
    with model.start(n, sampler=sampler, dtype=np.float64) as run:
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
