"""Samplers of phase-space diffusion models over ONNX Runtime.

>>> import psld
>>> model = psld.Model(MODEL)
>>> model.shape
(3, 2, 2)
>>> model.sample(4, sampler="em", nfe=20, seed=0).shape
(4, 3, 2, 2)

Arrays are numpy's, ``[n, C, ...]``. Sample i has seed + i, and the same bits from every language.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes as c
import glob
import importlib.util
import inspect
import itertools
import json
import os
import signal
import threading
import time
import traceback
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt

from . import _abi
from ._abi import (
    ArgumentError,
    Cancelled,
    CheckpointError,
    DeadlineExceeded,
    InternalError,
    ModelError,
    NumericError,
    OnnxRuntimeError,
    OutOfMemory,
    Partial,
    PsldError,
    QueueFull,
    RunError,
    call,
    lib,
)
from ._export import export
from ._images import samples_to_pil
from ._version import __version__

if TYPE_CHECKING:
    from PIL import Image

_abi.check_version(__version__)

__all__ = [
    "ArgumentError",
    "Cancel",
    "Cancelled",
    "CheckpointError",
    "DeadlineExceeded",
    "Engine",
    "InternalError",
    "Model",
    "ModelError",
    "NumericError",
    "OnnxRuntimeError",
    "OutOfMemory",
    "Partial",
    "Progress",
    "PsldError",
    "QueueFull",
    "Run",
    "RunError",
    "Sampler",
    "Ticket",
    "export",
    "live_handles",
    "load_runtime",
    "noise",
    "samplers",
    "samples_to_pil",
]

Array = npt.NDArray[Any]
_OUTPUTS = {"data": 0, "state": 1, "x0": 2}
_PURPOSES = {"prior": 0, "solver": 1, "inpaint": 2, "probe": 3}


def _named(table: Mapping[str, int], name: str, what: str) -> int:
    try:
        return table[name]
    except KeyError:
        raise ArgumentError(100, f"{what} = {name!r}: expected one of {', '.join(table)}") from None


def _dtype(dtype: npt.DTypeLike) -> int:
    kind = np.dtype(dtype)
    if kind not in (np.float32, np.float64):
        raise ArgumentError(100, f"dtype = {kind}: expected float32 or float64")
    return int(kind == np.float64)


def samplers() -> list[dict[str, Any]]:
    """The samplers of the library, with order, network calls a step, paper and options.

    >>> [s["name"] for s in psld.samplers()][:2]
    ['em', 'sscs']
    """
    listed: list[dict[str, Any]] = json.loads(_abi.text(lib.psld_samplers_json))
    return listed


def noise(
    seed: int,
    purpose: str = "prior",
    draw: int = 0,
    shape: Sequence[int] = (1,),
    *,
    first: int = 0,
    dtype: npt.DTypeLike = np.float32,
) -> Array:
    """The noise that a run of this seed draws: of one sample's whole state, ``[k*C, ...]``.

    >>> round(float(psld.noise(7, "prior", 0, (6, 2, 2), dtype="float64").ravel()[0]), 6) == round(
    ...     float(psld.noise(7, "prior", 0, (1,))[0]), 6)
    True
    """
    out = np.empty(tuple(shape), dtype)
    which = _named(_PURPOSES, purpose, "purpose")
    seed, first = int(_whole(seed, np.uint64, "seed")), int(_whole(first, np.uint64, "first"))
    draw = int(_whole(draw, np.uint32, "draw"))
    call(lib.psld_noise_fill, seed, which, draw, first, _dtype(out.dtype), out.ctypes.data, out.size)
    return out


def live_handles() -> int:
    """Handles of the library that are not freed yet, for leak checks."""
    return int(lib.psld_debug_live_handles())


def load_runtime(path: Optional[str] = None) -> dict[str, Any]:
    """Loads ONNX Runtime, once for the process, and says which one it is.

    Without a path: what PSLD_ONNXRUNTIME or ORT_DYLIB_PATH name, else the library of the installed ``onnxruntime`` wheel,
    else what the library finds by itself. Models in ONNX form do it when the first one is loaded.
    """
    global _runtime
    if path is None and _runtime is None:
        path = _of_the_wheel()
    handle = c.c_void_p()
    call(lib.psld_runtime_load, None if path is None else os.fsencode(path), c.byref(handle))
    try:
        info = _abi.document(lib.psld_runtime_info_json, handle)
    finally:
        lib.psld_runtime_free(handle)
    _runtime = info["library"]
    return info


_runtime: Optional[str] = None


def _of_the_wheel() -> Optional[str]:
    if any(os.environ.get(name) for name in ("PSLD_ONNXRUNTIME", "ORT_DYLIB_PATH")):
        return None
    # Found, not imported: nothing of its Python is needed.
    spec = importlib.util.find_spec("onnxruntime")
    for folder in (spec and spec.submodule_search_locations) or ():
        for library in sorted(glob.glob(os.path.join(folder, "capi", "libonnxruntime.so*"))):
            return library
    return None


class _Handle:
    """The owner of a handle: frees it when it is closed, left, or collected."""

    _free: Callable[[Any], int]

    def __init__(self, handle: c.c_void_p) -> None:
        self._handle: Optional[c.c_void_p] = handle

    @property
    def _open(self) -> c.c_void_p:
        handle: Optional[c.c_void_p] = getattr(self, "_handle", None)
        if handle is None:
            raise ValueError(f"this {type(self).__name__} is closed")
        return handle

    def close(self) -> None:
        """Frees it; what was made from it lives on."""
        handle, self._handle = getattr(self, "_handle", None), None
        if handle is not None:
            type(self)._free(handle)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Cancel(_Handle):
    """A request to stop, from any thread. Sticky: one that comes early is not lost."""

    _free = lib.psld_cancel_free

    def __init__(self) -> None:
        handle = c.c_void_p()
        call(lib.psld_cancel_create, c.byref(handle))
        super().__init__(handle)

    def cancel(self) -> None:
        """Stops the runs that hold this token, also within a network call."""
        lib.psld_cancel_cancel(self._open)


@dataclass(frozen=True)
class Progress:
    """How far a run is: see ``psld_progress``."""

    step: int
    of: int
    nfe: int
    done: bool
    fraction: float
    t: float
    samples_done: int
    samples: int

    @classmethod
    def _of(cls, p: _abi.Progress) -> Progress:
        return cls(p.step, p.of, p.nfe, bool(p.done), p.fraction, p.t, p.samples_done, p.samples)


# Who is told how far a call is: a function, or with True a bar of tqdm.
Tells = Union[bool, Callable[[Progress], Any], None]


@contextlib.contextmanager
def _long_call(cancel: Cancel, progress: Tells) -> Iterator[Any]:
    """Around a call of the library that takes its time: gives the callback to pass, and raises what that raised, or Ctrl+C,
    when the library has stopped."""
    raised: list[BaseException] = []
    with contextlib.ExitStack() as stack:
        tell = stack.enter_context(_bar()) if progress is True else None if progress is False else progress

        def told(_: Any, p: int) -> int:
            try:
                if tell is not None:
                    return int(tell(Progress._of(_abi.Progress.from_address(p))) is False)
            except BaseException as e:
                raised.append(e)
                return 1
            return 0

        with _interrupts(cancel) as interrupted:
            try:
                yield _abi.progress_callback(told)
            except Cancelled:
                if not raised and not interrupted:
                    raise
    if raised:
        raise raised[0] from None
    if interrupted:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    """Who shows a bar of tqdm."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm: pip install tqdm, or pass a function of psld.Progress") from None
    parts = 1000
    with tqdm(total=parts, bar_format="{percentage:3.0f}% |{bar}| {desc}{elapsed} (left {remaining})") as bar:

        def tell(p: Progress) -> None:
            bar.set_description_str(f"step {p.step}/{p.of} " if p.of else f"step {p.step} ", refresh=False)
            bar.update(round(parts * p.fraction) - bar.n)

        yield tell


Network = Callable[..., npt.ArrayLike]
# The networks in Python that the library may call, by the number that it knows them by.
_networks: dict[int, Any] = {}
_numbers = itertools.count(1)


def _release(number: int, networks: dict[int, Any] = _networks) -> None:
    # Its own reference: at the end of the interpreter the module's are gone.
    networks.pop(number, None)


_released = _abi.release_callback(_release)


def _caller(network: Network, spec: Any) -> Any:
    """The callback that calls a network in Python."""
    try:
        data = tuple((json.loads(spec) if isinstance(spec, str) else spec)["data"]["shape"])
    except (ValueError, TypeError, KeyError):
        data = ()  # The library says what is wrong with the spec, and never calls the network.

    def arrays(e: _abi.Evaluation) -> Iterator[Array]:
        for pointer, elements in ((e.z, e.z_elements), (e.out, e.out_elements)):
            kind = c.c_double if e.dtype else c.c_float
            flat = np.ctypeslib.as_array(c.cast(pointer, c.POINTER(kind)), (elements,))
            blocks = elements // (e.n * int(np.prod(data)))
            yield flat.reshape(e.n, blocks * data[0], *data[1:])

    # Asked for by name: a network that wants none of them is called as ever.
    try:
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = {name for name, p in inspect.signature(network).parameters.items() if p.kind in kinds}
    except (TypeError, ValueError):
        parameters = set()
    wanted = [name for name in ("indices", "tags") if name in parameters]

    def evaluate(_: Any, pointer: int) -> int:
        try:
            e = _abi.Evaluation.from_address(pointer)
            z, out = arrays(e)
            given = [z, *(np.ctypeslib.as_array(array, (e.n,)) for array in (e.t, e.labels) if array)]
            named = {name: np.ctypeslib.as_array(getattr(e, name), (e.n,)) for name in wanted}
            for array in (*given, *named.values()):
                array.flags.writeable = False
            made = np.asarray(network(*given, **named))
            if made.shape != out.shape:
                raise ValueError(f"the network returned an array of {made.shape}: expected {out.shape}")
            out[...] = made
        except BaseException as exception:
            _abi.raise_later(exception)
            said = _said(exception).encode()[: max(0, e.message_capacity - 1)]
            c.memmove(e.message, said + b"\0", min(e.message_capacity, len(said) + 1))
            return 1
        return 0

    return _abi.network_callback(evaluate)


def _said(exception: BaseException) -> str:
    """An exception in a line, with where it comes from."""
    line = traceback.format_exception_only(type(exception), exception)[-1].strip()
    frames = traceback.extract_tb(exception.__traceback__)
    return f"{line} ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else line


class Model(_Handle):
    """A network with its spec: an ``.onnx`` file, a ``.json`` of an analytic mixture, or the bytes of either.

    Or a function ``network(z, t)``, with ``spec``: of ``z``, ``[n, k*C, ...]``, and the times ``t``, ``[n]``, as the spec says
    that the network takes them (and labels ``y``, ``[n]``, where it has them), it returns what the spec says that it predicts.
    A network with a parameter ``indices`` is told by it which samples these are, ``[n]``: their numbers when the run (or
    :meth:`sample`, whatever its ``batch``; or the engine's request) was started, by which it looks up conditions of its own; and
    one with a parameter ``tags``, ``[n]``, the ``tag=`` of each sample's run, which tells an engine's requests apart.
    The arrays are the library's: to be read, through the call. What it raises, the call that sampled raises. ``name`` tells it from
    others in plans and saved runs: change it with the weights.

    >>> spec = {"format": 1, "process": {"kind": "vp"}, "data": {"shape": [2]}, "network": {"prediction": "x0"}}
    >>> psld.Model(lambda z, t: np.full_like(z, 3.0), spec=spec).sample(1, nfe=30, seed=1).round(2)
    array([[3., 3.]], dtype=float32)

    ``providers`` such as ``"cuda"`` or ``"cuda,cpu"``: the first, or an error; fallbacks are what is listed behind it.
    ``threads`` 1 starts none. Any thread, at once.
    """

    _free = lib.psld_model_free

    def __init__(
        self,
        model: Union[str, os.PathLike[str], bytes, Network],
        *,
        spec: Union[str, Mapping[str, Any], None] = None,
        name: Optional[str] = None,
        providers: Union[str, Sequence[str], None] = None,
        device: int = 0,
        threads: int = 0,
        concurrent_calls: int = 0,
    ) -> None:
        options = _abi.struct(_abi.ModelOptions, "model_options")
        if spec is not None:
            options.spec_json = (spec if isinstance(spec, str) else json.dumps(spec)).encode()
        if providers is not None:
            options.providers = (providers if isinstance(providers, str) else ",".join(providers)).encode()
        options.device, options.threads, options.concurrent_calls = device, threads, concurrent_calls
        handle = c.c_void_p()
        if callable(model):
            known = getattr(model, "__qualname__", type(model).__qualname__) if name is None else str(name)
            number = next(_numbers)
            _networks[number] = callback = _caller(model, spec)
            call(lib.psld_model_create, callback, number, _released, known.encode(), c.byref(options), c.byref(handle))
            super().__init__(handle)
            return
        if name is not None:
            raise ArgumentError(100, "name: only a network in Python is given one")
        analytic = (
            model.lstrip()[:1] == b"{" if isinstance(model, bytes) else os.fspath(model).lower().endswith(".json")
        )
        if not analytic and _runtime is None:
            load_runtime()
        if isinstance(model, bytes):
            call(lib.psld_model_load_memory, None, model, len(model), c.byref(options), c.byref(handle))
        else:
            call(lib.psld_model_load_file, None, os.fsencode(model), c.byref(options), c.byref(handle))
        super().__init__(handle)

    @property
    def info(self) -> dict[str, Any]:
        """Spec, blocks of a state, what runs it, hash.

        >>> model.info["spec"]["process"]["kind"]
        'psld'
        """
        return _abi.document(lib.psld_model_info_json, self._open)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, ``(C, ...)``."""
        return _abi.shape(lib.psld_model_shape, self._open, 0)

    @property
    def state_shape(self) -> tuple[int, ...]:
        """The shape of one state, ``(k*C, ...)``."""
        return _abi.shape(lib.psld_model_shape, self._open, 1)

    def sampler(
        self,
        sampler: str = "em",
        *,
        inpaint: Optional[str] = None,
        guidance: Optional[str] = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        restore: Optional[Mapping[str, Any]] = None,
        **options: Any,
    ) -> Sampler:
        """Compiles a sampler; the options are those of the JSON form (``steps``, ``nfe``, ``time_grid``, ``eta``, ...).

        ``guidance`` is ``"cfg"`` or ``"classifier"``; it acts at forward times in ``guidance_interval``, and its runs need
        ``scales``. ``restore`` says what was measured of images, such as ``{"operator": {"kind": "average", "factor": 4}, "noise":
        0.05}`` (``blur`` with ``std``, ``convolve`` with ``kernel``, ``mask``); its runs need a ``measurement``: an array, or for
        ``mask`` a pair with where it was measured.

        >>> model.sampler("sscs", steps=50).nfe
        51
        """
        given = {name: value for name, value in options.items() if value is not None}
        fields = _abi.struct(_abi.SamplerOptions, "sampler_options")
        fields.options_json = json.dumps({"sampler": sampler, **given}, default=_plain).encode()
        if inpaint is not None:
            fields.inpaint = inpaint.encode()
        if guidance is not None:
            fields.guidance = guidance.encode()
        if guidance is not None or guidance_interval != (0.0, 1.0) or guidance_rescale != 0.0:
            fields.guidance_from, fields.guidance_to = guidance_interval
            fields.guidance_rescale = guidance_rescale
        if restore is not None:
            fields.restore = json.dumps(restore, default=_plain).encode()
        handle = c.c_void_p()
        call(lib.psld_sampler_create, self._open, c.byref(fields), c.byref(handle))
        return Sampler(handle)

    def sampler_of_plan(self, plan: Union[str, Mapping[str, Any]]) -> Sampler:
        """A sampler that executes a plan of the caller's."""
        text = plan if isinstance(plan, str) else json.dumps(plan)
        handle = c.c_void_p()
        call(lib.psld_sampler_create_from_plan, self._open, text.encode(), c.byref(handle))
        return Sampler(handle)

    def start(
        self,
        n: int = 1,
        *,
        sampler: Union[str, Sampler] = "em",
        dtype: npt.DTypeLike = np.float32,
        batch: int = 0,
        previews: bool = False,
        anytime: bool = False,
        deadline: float = 0.0,
        max_memory: int = 0,
        cancel: Optional[Cancel] = None,
        init: Optional[npt.ArrayLike] = None,
        from_image: Optional[npt.ArrayLike] = None,
        noise: Optional[npt.ArrayLike] = None,
        labels: Union[int, Sequence[int], None] = None,
        inpaint: Optional[tuple[npt.ArrayLike, npt.ArrayLike]] = None,
        measurement: Union[npt.ArrayLike, tuple[npt.ArrayLike, npt.ArrayLike], None] = None,
        scales: Union[float, Sequence[float], None] = None,
        guide: Optional[Model] = None,
        **options: Any,
    ) -> Run:
        """Begins a run of ``n`` samples; ``for step in run`` advances it."""
        made, run_options, keep = self._prepare(
            n, sampler, options, dtype, batch, previews, anytime, deadline, max_memory, cancel, init, from_image, noise,
            labels, inpaint, measurement, scales, guide,
        )  # fmt: skip
        handle = c.c_void_p()
        call(lib.psld_run_start, self._open, made._open, c.byref(run_options), c.byref(handle))
        del keep
        return Run(handle, np.dtype(dtype))

    def load_run(
        self, saved: bytes, *, sampler: Union[str, Sampler] = "em", guide: Optional[Model] = None, **options: Any
    ) -> Run:
        """The run that :meth:`Run.save` gave, under the same sampler and guidance network: as if it had never stopped."""
        made = sampler if isinstance(sampler, Sampler) else self.sampler(sampler, **options)
        handle = c.c_void_p()
        network = None if guide is None else guide._open
        call(lib.psld_run_load_guided, self._open, made._open, network, bytes(saved), len(saved), c.byref(handle))
        return Run(handle, np.dtype(np.float32))

    def sample(
        self,
        n: int = 1,
        *,
        sampler: Union[str, Sampler] = "em",
        output: str = "data",
        dtype: npt.DTypeLike = np.float32,
        batch: int = 0,
        progress: Tells = None,
        anytime: bool = False,
        deadline: float = 0.0,
        max_memory: int = 0,
        cancel: Optional[Cancel] = None,
        init: Optional[npt.ArrayLike] = None,
        from_image: Optional[npt.ArrayLike] = None,
        noise: Optional[npt.ArrayLike] = None,
        labels: Union[int, Sequence[int], None] = None,
        inpaint: Optional[tuple[npt.ArrayLike, npt.ArrayLike]] = None,
        measurement: Union[npt.ArrayLike, tuple[npt.ArrayLike, npt.ArrayLike], None] = None,
        scales: Union[float, Sequence[float], None] = None,
        guide: Optional[Model] = None,
        **options: Any,
    ) -> Array:
        """``n`` samples, the whole way at once: ``[n, C, ...]``, or the state with ``output="state"``.

        ``progress`` is told of each step; returning ``False`` stops with :class:`Cancelled`. ``True`` shows a bar, which needs
        tqdm. With ``anytime`` a deadline gives the best data estimates so far. Ctrl+C stops after the step.

        >>> a = model.sample(3, sampler="heun", nfe=21, seed=5)
        >>> b = model.sample(1, sampler="heun", nfe=21, seed=6)
        >>> bool((a[1] == b[0]).all())
        True
        """
        what = _named({"data": 0, "state": 1}, output, "output")
        if cancel is None:
            cancel = Cancel()
        made, run_options, keep = self._prepare(
            n, sampler, options, dtype, batch, False, anytime, deadline, max_memory, cancel, init, from_image, noise, labels,
            inpaint, measurement, scales, guide,
        )
        shape = self.shape if what == 0 else self.state_shape
        if n < 1:
            raise ArgumentError(100, f"n = {n}: expected at least one sample")
        out = np.empty((n, *shape), dtype)
        with _long_call(cancel, progress) as told, contextlib.suppress(Partial):
            call(
                lib.psld_sample, self._open, made._open, c.byref(run_options), what, _dtype(out.dtype),
                out.ctypes.data, out.size, told, None,
            )  # fmt: skip
        del keep
        return out

    def images(self, samples: npt.ArrayLike) -> list[Image.Image]:
        """Samples as images of Pillow, one each, with the pixels that ``psld sample`` writes.

        >>> images = model.images(model.sample(2, nfe=20))
        >>> [image.size for image in images]
        [(2, 2), (2, 2)]
        """
        low, high = self.info["spec"]["data"]["range"]
        return samples_to_pil(samples, range=(low, high))

    def interpolate(self, latents: npt.ArrayLike, at: Sequence[float]) -> Array:
        """Latents on the way through others: place 0.5 is half way from ``latents[0]`` to ``latents[1]``.

        >>> images = model.sample(2, sampler="gddim", nfe=40)
        >>> latents = model.sample(2, sampler="gddim", nfe=40, encode=True, from_image=images, output="state")
        >>> way = model.interpolate(latents, [0.0, 0.5, 1.0])
        >>> bool((way[2] == latents[1]).all())
        True
        >>> model.sample(3, sampler="gddim", nfe=40, init=way).shape
        (3, 3, 2, 2)
        """
        keep: list[Any] = []
        tensor = _tensor(latents, keep)
        places = np.ascontiguousarray(at, np.float64)
        out = np.empty((places.size, *self.state_shape), keep[0].dtype)
        call(
            lib.psld_model_interpolate, self._open, c.byref(tensor), places.ctypes.data_as(c.POINTER(c.c_double)),
            places.size, _dtype(out.dtype), out.ctypes.data, out.size,
        )  # fmt: skip
        return out

    def likelihood(
        self,
        images: npt.ArrayLike,
        *,
        probes: int = 1,
        dequantise: bool = False,
        sampler: Union[str, Sampler] = "gddim",
        dtype: npt.DTypeLike = np.float32,
        batch: int = 0,
        labels: Union[int, Sequence[int], None] = None,
        progress: Tells = None,
        cancel: Optional[Cancel] = None,
        **options: Any,
    ) -> tuple[Array, Optional[Array]]:
        """Bits per dimension of each image, the lower the likelier, and from two ``probes`` on their standard errors; ``progress``
        as in :meth:`sample`.

        >>> bits, errors = model.likelihood(model.sample(2, nfe=40), probes=2, nfe=20)
        >>> bits.shape, errors.shape
        ((2,), (2,))
        """
        n = np.asarray(images).shape[0]
        if cancel is None:
            cancel = Cancel()
        made, run_options, keep = self._prepare(
            n, sampler, options, dtype, batch, False, False, 0.0, 0, cancel, None, images, None, labels, None, None, None, None
        )
        bits, errors = np.empty(n), np.empty(n) if probes > 1 else None
        double = c.POINTER(c.c_double)
        with _long_call(cancel, progress) as told:
            call(
                lib.psld_likelihood, self._open, made._open, c.byref(run_options), probes, int(dequantise),
                bits.ctypes.data_as(double), None if errors is None else errors.ctypes.data_as(double), n, told, None,
            )  # fmt: skip
        del keep
        return bits, errors

    def memory(
        self,
        n: int,
        *,
        sampler: Union[str, Sampler] = "em",
        dtype: npt.DTypeLike = np.float32,
        noise: Optional[npt.ArrayLike] = None,
        inpaint: Optional[tuple[npt.ArrayLike, npt.ArrayLike]] = None,
        measurement: Union[npt.ArrayLike, tuple[npt.ArrayLike, npt.ArrayLike], None] = None,
        **options: Any,
    ) -> int:
        """The bytes of the arrays that a run of ``n`` samples holds, those among them that it is given and keeps.

        >>> image, mask = np.zeros((1, *model.shape)), np.ones((1, *model.shape))
        >>> model.memory(9, inpaint=(image, mask)) - model.memory(9) == 4 * (image.size + mask.size)
        True
        """
        made, run_options, _ = self._prepare(
            n, sampler, options, dtype, 0, False, False, 0.0, 0, None, None, None, noise, None, inpaint, measurement, None, None
        )
        needed = c.c_uint64()
        call(lib.psld_run_memory, made._open, c.byref(run_options), c.byref(needed))
        return needed.value

    def _prepare(
        self,
        n: int,
        sampler: Union[str, Sampler],
        options: Mapping[str, Any],
        dtype: npt.DTypeLike,
        batch: int,
        previews: bool,
        anytime: bool,
        deadline: float,
        max_memory: int,
        cancel: Optional[Cancel],
        init: Optional[npt.ArrayLike],
        from_image: Optional[npt.ArrayLike],
        noise: Optional[npt.ArrayLike],
        labels: Union[int, Sequence[int], None],
        inpaint: Optional[tuple[npt.ArrayLike, npt.ArrayLike]],
        measurement: Union[npt.ArrayLike, tuple[npt.ArrayLike, npt.ArrayLike], None],
        scales: Union[float, Sequence[float], None],
        guide: Optional[Model],
    ) -> tuple[Sampler, _abi.RunOptions, list[Any]]:
        """The sampler, the C struct, and what the struct points to."""
        options = dict(options)
        tag = int(_whole(options.pop("tag", 0), np.uint64, "tag"))
        if isinstance(sampler, Sampler):
            seed = int(options.get("seed", 0))
            unknown = set(options) - {"seed"}
            if unknown:
                raise ArgumentError(100, f"{', '.join(sorted(unknown))}: the sampler is compiled already")
            made = sampler
        else:
            seed = 0
            method = None if inpaint is None else options.get("inpaint_method", "corrected")
            rest = {name: value for name, value in options.items() if name != "inpaint_method"}
            made = self.sampler(sampler, inpaint=method, **rest)
        fields = _abi.struct(_abi.RunOptions, "run_options")
        keep: list[Any] = []
        fields.n, fields.seed, fields.precision = n, seed, _dtype(dtype)
        fields.tag = tag
        fields.batch, fields.max_memory, fields.deadline_seconds = batch, max_memory, deadline
        fields.previews, fields.anytime = int(previews), int(anytime)
        if cancel is not None:
            fields.cancel = cancel._open
        image, mask = inpaint if inpaint is not None else (None, None)
        measured, where = measurement if isinstance(measurement, tuple) else (measurement, None)
        given = {
            "init": init, "from_image": from_image, "noise": noise, "inpaint_image": image, "inpaint_mask": mask,
            "measurement": measured, "measurement_mask": where,
        }  # fmt: skip
        for name, array in given.items():
            if array is not None:
                setattr(fields, name, c.pointer(_tensor(array, keep)))
        if labels is not None:
            classes = np.atleast_1d(_whole(labels, np.int64, "labels"))
            fields.labels = classes.ctypes.data_as(c.POINTER(c.c_int64))
            fields.labels_len = classes.size
            keep.append(classes)
        if scales is not None:
            weights = np.atleast_1d(np.asarray(scales, np.float64))
            fields.scales = weights.ctypes.data_as(c.POINTER(c.c_double))
            fields.scales_len = weights.size
            keep.append(weights)
        if guide is not None:
            fields.guide = guide._open
        return made, fields, keep


class Sampler(_Handle):
    """A compiled sampler: immutable, any thread. From :meth:`Model.sampler`."""

    _free = lib.psld_sampler_free

    @property
    def plan(self) -> dict[str, Any]:
        """The plan: each network call and update, with its coefficients.

        >>> model.sampler("em", steps=3).plan["nfe"]
        4
        """
        return _abi.document(lib.psld_sampler_plan_json, self._open)

    @property
    def hash(self) -> str:
        """SHA-256 of what it does: equal hashes are equal numbers."""
        return _abi.text(lib.psld_sampler_hash, self._open)

    @property
    def nfe(self) -> int:
        """Network calls of a run; 0 for an adaptive sampler."""
        nfe = c.c_int32()
        call(lib.psld_sampler_nfe, self._open, c.byref(nfe))
        return nfe.value


class Run(_Handle):
    """One batch of samples in flight, one thread at a time. From :meth:`Model.start`.

    >>> with model.start(2, sampler="sscs", steps=4, seed=1) as run:
    ...     for step in run:
    ...         print(step.step, end=" ")
    ...     run.data.shape
    1 2 3 4 5 (2, 3, 2, 2)
    """

    _free = lib.psld_run_free

    def __init__(self, handle: c.c_void_p, dtype: np.dtype[Any]) -> None:
        super().__init__(handle)
        self._precision = dtype

    def step(self, max_steps: int = 1) -> Progress:
        """Advances by at most so many steps; 0 tells how far it is. Ctrl+C is raised after them, and the run can go on."""
        progress = _abi.struct(_abi.Progress, "progress")
        with _interrupts(None) as interrupted:
            call(lib.psld_run_step, self._open, max_steps, c.byref(progress))
        if interrupted:
            raise KeyboardInterrupt
        return Progress._of(progress)

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self.step(0)

    def __iter__(self) -> Iterator[Progress]:
        progress = self.progress
        while not progress.done:
            progress = self.step()
            yield progress

    def finish(self) -> Progress:
        """To the end; Ctrl+C stops after the step, and the run can go on."""
        progress = self.progress
        for progress in self:
            pass
        return progress

    def read(self, what: str = "data", dtype: Optional[npt.DTypeLike] = None) -> Array:
        """``"data"``, ``"state"`` or ``"x0"`` (the data estimate), also between steps."""
        which = _named(_OUTPUTS, what, "what")
        out = np.empty(_abi.shape(lib.psld_run_shape, self._open, which), self._precision if dtype is None else dtype)
        call(lib.psld_run_read, self._open, which, _dtype(out.dtype), out.ctypes.data, out.size)
        return out

    @property
    def data(self) -> Array:
        """The position half of the state: after the last step, the samples."""
        return self.read("data")

    @property
    def state(self) -> Array:
        """The whole state."""
        return self.read("state")

    @property
    def x0(self) -> Array:
        """The data estimate at the last network call; needs ``previews=True``."""
        return self.read("x0")

    def gather(self, indices: Sequence[int], seeds: Optional[Sequence[int]] = None) -> None:
        """Makes sample ``i`` what sample ``indices[i]`` was, with seed ``seeds[i]`` from here on: between two steps, to copy
        and drop samples by a reward of one's own. Without ``seeds`` they follow the samples.

        >>> with model.start(3, sampler="sscs", steps=4, seed=1) as run:
        ...     first = run.data[0]
        ...     run.gather([0, 0], seeds=[10, 11])
        ...     bool((run.data == first).all())
        True
        """
        order = _whole(indices, np.int64, "indices")
        new = None if seeds is None else _whole(seeds, np.uint64, "seeds")
        if order.ndim != 1 or (new is not None and new.shape != order.shape):
            raise ArgumentError(100, "gather: expected a list of indices, and as many seeds")
        pointer = None if new is None else new.ctypes.data_as(c.POINTER(c.c_uint64))
        call(lib.psld_run_gather, self._open, order.ctypes.data_as(c.POINTER(c.c_int64)), order.size, pointer)

    def save(self) -> bytes:
        """The run as bytes, for :meth:`Model.load_run`."""
        return _abi.query(lib.psld_run_save, self._open)

    @property
    def provenance(self) -> dict[str, Any]:
        """What made these samples: versions, hashes, options, seeds."""
        return _abi.document(lib.psld_run_provenance_json, self._open)

    def resume(self, *, deadline: float = 0.0, cancel: Optional[Cancel] = None) -> None:
        """Another deadline and token for an interrupted run."""
        call(lib.psld_run_resume, self._open, None if cancel is None else cancel._open, deadline)


# Engines that are open. A network in Python must not be called when the interpreter is gone.
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_engines() -> None:
    for engine in list(_engines):
        engine.close()


class Engine(_Handle):
    """Many callers, one network: what is due of requests of any size, sampler, length and class goes into one call.

    Each request gets what :meth:`Model.sample` alone would give, to the bit on analytic networks and within rounding through
    ONNX Runtime. A call has ``max_batch`` samples at most (default 64); ``queue`` requests (default 256) may be in the engine at
    once, one more is :class:`QueueFull`; the first call after a pause waits ``max_wait`` seconds for company. A network in Python is
    called on the engine's thread. Any thread, at once; closing it cancels what it is at.

    >>> with psld.Engine(model) as engine:
    ...     tickets = [engine.submit(n, sampler="sscs", nfe=20, seed=n) for n in (1, 2, 3)]
    ...     [ticket.result().shape[0] for ticket in tickets]
    [1, 2, 3]
    """

    @staticmethod
    def _free(handle: Any) -> int:
        # Also what its tickets wait for: who leaves `with`, or Python, is done with it.
        lib.psld_engine_close(handle, None)
        return int(lib.psld_engine_free(handle))

    def __init__(self, model: Model, *, max_batch: int = 0, queue: int = 0, max_wait: float = 0.0) -> None:
        options = _abi.struct(_abi.EngineOptions, "engine_options")
        options.max_batch, options.queue, options.max_wait_seconds = max_batch, queue, max_wait
        handle = c.c_void_p()
        call(lib.psld_engine_create, model._open, c.byref(options), c.byref(handle))
        super().__init__(handle)
        self._model = model
        _engines.add(self)

    def submit(
        self,
        n: int = 1,
        *,
        sampler: Union[str, Sampler] = "em",
        priority: int = 0,
        dtype: npt.DTypeLike = np.float32,
        previews: bool = False,
        anytime: bool = False,
        deadline: float = 0.0,
        max_memory: int = 0,
        cancel: Optional[Cancel] = None,
        init: Optional[npt.ArrayLike] = None,
        from_image: Optional[npt.ArrayLike] = None,
        noise: Optional[npt.ArrayLike] = None,
        labels: Union[int, Sequence[int], None] = None,
        inpaint: Optional[tuple[npt.ArrayLike, npt.ArrayLike]] = None,
        measurement: Union[npt.ArrayLike, tuple[npt.ArrayLike, npt.ArrayLike], None] = None,
        scales: Union[float, Sequence[float], None] = None,
        guide: Optional[Model] = None,
        **options: Any,
    ) -> Ticket:
        """Hands in a request for ``n`` samples, without waiting for the network; the arguments are those of
        :meth:`Model.start`. Who submits often compiles the sampler once. ``priority`` is -10 to 10, more is served earlier."""
        made, run_options, keep = self._model._prepare(
            n, sampler, options, dtype, 0, previews, anytime, deadline, max_memory, cancel, init, from_image, noise, labels,
            inpaint, measurement, scales, guide,
        )  # fmt: skip
        handle = c.c_void_p()
        call(lib.psld_engine_submit, self._open, made._open, c.byref(run_options), priority, c.byref(handle))
        del keep
        return Ticket(handle, np.dtype(dtype))

    @property
    def stats(self) -> dict[str, int]:
        """What it has done so far: ``requests`` (in it now), ``submitted``, ``completed``, ``failed``, ``calls`` of the network and
        ``samples`` in all of them."""
        # Not asked for its size first: it may grow in between.
        buffer = c.create_string_buffer(256)
        call(lib.psld_engine_stats_json, self._open, buffer, len(buffer), None)
        stats: dict[str, int] = json.loads(buffer.value)
        return stats


# For so long a wait is deaf to signals.
_DEAF_SECONDS = 0.1


class Ticket(_Handle):
    """A request in an engine: any thread. From :meth:`Engine.submit`. One that has not ended is cancelled when it is closed.

    >>> with psld.Engine(model) as engine, engine.submit(2, steps=5, seed=7) as ticket:
    ...     ticket.wait().nfe
    ...     bool((ticket.result() == model.sample(2, steps=5, seed=7)).all())
    6
    True
    """

    _free = lib.psld_ticket_free

    def __init__(self, handle: c.c_void_p, dtype: np.dtype[Any]) -> None:
        super().__init__(handle)
        self._precision = dtype

    @property
    def id(self) -> int:
        """The number by which messages call it."""
        number = c.c_uint64()
        call(lib.psld_ticket_id, self._open, c.byref(number))
        return number.value

    def wait(self, timeout: Optional[float] = None) -> Progress:
        """Waits for its end, for ``timeout`` seconds at most: ``done`` says whether it came. Raises what it ended with otherwise,
        such as :class:`Cancelled`, also where the engine was closed. Ctrl+C ends the wait, and not the request."""
        if timeout is not None and not timeout >= 0.0:
            raise ArgumentError(100, f"timeout = {timeout}: expected at least 0 seconds")
        end = None if timeout is None else time.monotonic() + timeout
        progress = _abi.struct(_abi.Progress, "progress")
        while True:
            left = _DEAF_SECONDS if end is None else end - time.monotonic()
            call(lib.psld_ticket_wait, self._open, max(0.0, min(left, _DEAF_SECONDS)), c.byref(progress))
            if progress.done or left < _DEAF_SECONDS:
                return Progress._of(progress)

    def result(self, timeout: Optional[float] = None) -> Array:
        """Waits, and gives the samples, ``[n, C, ...]``; or the data estimates of a request with ``anytime`` that was late. After
        ``timeout`` seconds a :class:`TimeoutError`."""
        try:
            if not self.wait(timeout).done:
                raise TimeoutError(f"request {self.id} has not ended after {timeout} s")
        except Partial:
            return self.read("x0")
        return self.read("data")

    @property
    def progress(self) -> Progress:
        """How far it is, also after it failed."""
        progress = _abi.struct(_abi.Progress, "progress")
        # Why it failed is said by `wait`.
        lib.psld_ticket_wait(self._open, 0.0, c.byref(progress), None)
        return Progress._of(progress)

    def cancel(self) -> None:
        """Asks for its end, with :class:`Cancelled`."""
        lib.psld_ticket_cancel(self._open)

    def read(self, what: str = "data", dtype: Optional[npt.DTypeLike] = None) -> Array:
        """``"data"`` or ``"state"`` of a request that is complete; ``"x0"`` (the data estimate) at any time, of one with
        ``previews`` or ``anytime``."""
        which = _named(_OUTPUTS, what, "what")
        out = np.empty(_abi.shape(lib.psld_ticket_shape, self._open, which), self._precision if dtype is None else dtype)
        call(lib.psld_ticket_read, self._open, which, _dtype(out.dtype), out.ctypes.data, out.size)
        return out

    @property
    def x0(self) -> Array:
        """The data estimate at the last network call."""
        return self.read("x0")

    @property
    def provenance(self) -> dict[str, Any]:
        """What made these samples: versions, hashes, options, seeds."""
        return _abi.document(lib.psld_ticket_provenance_json, self._open)


def _plain(value: Any) -> Any:
    """What JSON does not know: numpy's numbers and arrays, and paths."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{value!r} is no value of an option")


def _whole(values: npt.ArrayLike, kind: npt.DTypeLike, what: str) -> Array:
    """Whole numbers as C has them; numpy would cut off what does not fit."""
    given = np.asarray(values)
    if given.dtype.kind in "biuf" or given.size == 0:
        with np.errstate(invalid="ignore"):
            whole = given.astype(kind, order="C")
        if np.array_equal(whole, given):
            return whole
    raise ArgumentError(100, f"{what} = {values!r}: expected whole numbers that {np.dtype(kind)} holds")


def _tensor(array: npt.ArrayLike, keep: list[Any]) -> _abi.Tensor:
    """A view of an array, which is copied only where its type or layout is not C's."""
    values = np.asarray(array)
    values = np.ascontiguousarray(values, np.float64 if values.dtype == np.float64 else np.float32)
    shape = (c.c_int64 * values.ndim)(*values.shape)
    tensor = _abi.struct(_abi.Tensor, "tensor")
    tensor.data, tensor.dtype, tensor.ndim, tensor.shape = values.ctypes.data, _dtype(values.dtype), values.ndim, shape
    keep += [values, shape, tensor]
    return tensor


class _interrupts:
    """Ctrl+C while the library works: the handler runs at the start of a callback, where an exception would be lost, so it
    cancels instead where there is a token, and the caller raises."""

    def __init__(self, cancel: Optional[Cancel]) -> None:
        self._cancel = cancel
        self._seen: list[int] = []
        self._previous: Any = None

    def __enter__(self) -> list[int]:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self._seen

    def _handle(self, number: int, _: Any) -> None:
        self._seen.append(number)
        if self._cancel is not None:
            self._cancel.cancel()

    def __exit__(self, *_: Any) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
