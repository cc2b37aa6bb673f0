"""Samplers of phase-space diffusion models over ONNX Runtime.

>>> import psld
>>> model = psld.Model(MODEL)
>>> model.shape
(3, 2, 2)
>>> model.sample(4, seed=0).shape
(4, 3, 2, 2)

Arrays are numpy's, ``[n, C, ...]``. Sample i has seed + i, and the same bits from every language.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes as c
import glob
import importlib.util
import inspect
import itertools
import json
import os
import threading
import time
import traceback
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, NoReturn, Optional, Sequence, TypeVar, Union

import numpy as np
import numpy.typing as npt

from . import _abi, _arguments, _life
from ._abi import (
    ArgumentError,
    Cancelled,
    CheckpointError,
    DeadlineExceeded,
    FileMissing,
    InternalError,
    ModelError,
    NumericError,
    OnnxRuntimeError,
    OnnxRuntimeMissing,
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
from ._interrupts import Interrupts
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
    "FileMissing",
    "InternalError",
    "Model",
    "ModelError",
    "NumericError",
    "OnnxRuntimeError",
    "OnnxRuntimeMissing",
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


def _code(dtype: np.dtype[Any]) -> int:
    """The number of a type of elements."""
    return int(dtype == np.float64)


def samplers() -> list[dict[str, Any]]:
    """The samplers of the library, with order, network calls a step, and paper.

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
    out = _arguments.empty(_arguments.shape(shape, "shape"), _arguments.dtype(dtype))
    which, seed = _arguments.named(_PURPOSES, purpose, "purpose"), _arguments.seed(seed)
    draw, first = _arguments.whole(draw, "draw", _arguments.U32), _arguments.whole(first, "first", _arguments.U64)
    call(lib.psld_noise_fill, seed, which, draw, first, _code(out.dtype), out.ctypes.data, out.size)
    return out


def live_handles() -> int:
    """Handles of the library that are not freed yet, for leak checks."""
    return int(lib.psld_debug_live_handles())


def load_runtime(path: Union[str, os.PathLike[str], None] = None) -> dict[str, Any]:
    """Loads ONNX Runtime, once for the process, and says which one it is.

    Without a path: what PSLD_ONNXRUNTIME or ORT_DYLIB_PATH name, else the library of the installed ``onnxruntime`` wheel,
    else what the library finds by itself. Models in ONNX form do it when the first one is loaded.
    """
    global _runtime
    if path is None and _runtime is None:
        path = _of_the_wheel()
    owner = _life.Owner(lib.psld_runtime_free)
    call(lib.psld_runtime_load, None if path is None else _arguments.path(path, "path"), c.byref(owner.handle))
    info = _abi.document(lib.psld_runtime_info_json, owner.handle)
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


_Self = TypeVar("_Self", bound="_Handle")


class _Handle:
    """The owner of a handle, or one of several: it is freed when the last is closed, left, or collected. A process that was
    forked since does not free it, and cannot use it."""

    _free: Callable[[Any], Any]
    _owner: Optional[_life.Owner] = None
    # Whether a process that is forked from the one that made it can use it.
    _inherited = False
    # Why it is not copied.
    _unique = ""

    @classmethod
    def _place(cls) -> _life.Owner:
        """For a handle that is going to be made."""
        return _life.Owner(cls._free)

    @property
    def _open(self) -> c.c_void_p:
        owner, what = self._owner, type(self).__name__
        if owner is None:
            raise ArgumentError(102, f"this {what} is closed")
        if owner.process != os.getpid() and not self._inherited:
            raise ArgumentError(
                111, f"this {what} belongs to the process that this one was forked from",
                "load the model and start the work anew in this process, or start it without fork (spawn)",
            )  # fmt: skip
        return owner.handle

    def close(self) -> None:
        """Frees it; what was made from it lives on."""
        self._owner = None

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        owner = self._owner
        if owner is None:
            said = "closed"
        elif owner.process != os.getpid() and not self._inherited:
            said = f"of process {owner.process}"
        else:
            try:
                said = self._said()
            except PsldError as e:  # Such as of a run that another thread steps.
                said = str(e.args[0])
        return f"<psld.{type(self).__name__}: {said}>"

    def _said(self) -> str:
        return "open"

    def __copy__(self) -> Any:
        self._refuse("copied")

    def __deepcopy__(self, _: Any) -> Any:
        self._refuse("copied")

    def __reduce_ex__(self, _: Any) -> Any:
        self._refuse("pickled")

    def _twin(self: _Self) -> _Self:
        """Another owner of the same."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def _refuse(self, what: str) -> NoReturn:
        raise ArgumentError(110, f"a {type(self).__name__} is not {what}", self._unique)


class Cancel(_Handle):
    """A request to stop, from any thread. Sticky: one that comes early is not lost."""

    _free = lib.psld_cancel_free
    _unique = "it stops runs of the process that made it; make one in each"

    def __init__(self) -> None:
        owner = self._place()
        call(lib.psld_cancel_create, c.byref(owner.handle))
        self._owner = owner
        self._asked = False
        # Of the calls that hold it, each its own: Ctrl+C ends a call, and not the others.
        self._calls: weakref.WeakSet[Cancel] = weakref.WeakSet()

    def cancel(self) -> None:
        """Stops the runs that hold this token, also within a network call."""
        handle = self._open
        # First: a call that comes later finds it.
        self._asked = True
        lib.psld_cancel_cancel(handle)
        while True:
            # Without a lock, which whoever is interrupted here might hold.
            with contextlib.suppress(RuntimeError):  # A call has come meanwhile.
                calls = list(self._calls)
                break
        for one in calls:
            one.cancel()

    def _said(self) -> str:
        return "cancelled" if self._asked else "not cancelled"

    @staticmethod
    def _of_call(cancel: Optional[Cancel]) -> Cancel:
        """The token of one call, which is cancelled with the caller's."""
        token = Cancel()
        if cancel is not None:
            _arguments.instance(cancel, Cancel, "cancel")._open
            cancel._calls.add(token)
            if cancel._asked:
                token.cancel()
        return token


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


# Who is told by the calls that are under way, by the number that the library knows them by, and what they raised.
_told: dict[int, tuple[Callable[[Progress], Any], list[BaseException]]] = {}
_numbers = itertools.count(1)


def _tell(number: int, progress: int) -> int:
    tell, raised = _told[number]
    try:
        return int(_theirs(tell, Progress._of(_abi.Progress.from_address(progress))) is False)
    except BaseException as e:
        _abi.calling.python = False
        raised.append(e)
        return 1


def _check_callbacks(what: str) -> None:
    if not _life.can_call_back:
        raise ArgumentError(
            110, f"{what}: the library cannot call into a sub-interpreter of Python",
            "use the main one (of mod_wsgi: `WSGIApplicationGroup %{GLOBAL}`), or a model in ONNX form",
        )  # fmt: skip


def _theirs(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Calls what is the caller's, in a callback."""
    me, calling = threading.get_ident(), _abi.calling
    if _life.refuses():
        raise SystemExit
    nested = me in _life.computing
    try:
        _life.computing.add(me)
        # From here on Ctrl+C raises.
        calling.python = True
        return function(*arguments, **named)
    finally:
        calling.python = False
        if not nested:
            _life.computing.discard(me)


# One for all, and never freed: the library may hold it longer than the interpreter holds this module.
_TELL = _life.for_ever(_abi.progress_callback(_tell))


@contextlib.contextmanager
def _long_call(token: Cancel, progress: Tells) -> Iterator[tuple[Optional[int], Optional[int]]]:
    """Around a call of the library that takes its time: gives the callback to pass and what it is given, and raises what it
    raised, or Ctrl+C, when the library has stopped."""
    raised: list[BaseException] = []
    with contextlib.ExitStack() as stack:
        told: tuple[Optional[int], Optional[int]] = (None, None)
        if progress is True:
            progress = stack.enter_context(_bar())
        if callable(progress):
            _check_callbacks("progress")
            number = next(_numbers)
            _told[number] = (progress, raised)
            stack.callback(_told.pop, number)
            told = (_TELL, number)
        elif progress is not None and progress is not False:
            _arguments.refuse("progress", progress, "a function of psld.Progress, True, False or None")
        with Interrupts(token.cancel) as interrupted:
            try:
                yield told
            except (Cancelled, KeyboardInterrupt):
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


class _Network:
    """A network in Python. It lives as long as anything of this package that may have it called: the model, its runs, its
    engines, and no longer, also where it refers to one of them."""

    def __init__(self, function: Network, spec: bytes) -> None:
        self.function = function
        self.number = next(_numbers)
        try:
            self.data = tuple(json.loads(spec)["data"]["shape"])
        except (ValueError, TypeError, KeyError):
            self.data = ()  # The library says what is wrong with the spec, and never calls the network.
        # Asked for by name: a network that wants none of them is called as ever.
        try:
            kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            parameters = {name for name, p in inspect.signature(function).parameters.items() if p.kind in kinds}
        except (TypeError, ValueError):
            parameters = set()
        self.wanted = [name for name in ("indices", "tags") if name in parameters]
        _networks[self.number] = self

    def compute(self, e: _abi.Evaluation) -> None:
        z, out = self._arrays(e)
        given = [z, *(np.ctypeslib.as_array(array, (e.n,)) for array in (e.t, e.labels) if array)]
        named = {name: np.ctypeslib.as_array(getattr(e, name), (e.n,)) for name in self.wanted}
        for array in (*given, *named.values()):
            array.flags.writeable = False
        out[...] = _arguments.output(_theirs(self.function, *given, **named), out.shape)

    def _arrays(self, e: _abi.Evaluation) -> Iterator[Array]:
        for pointer, elements in ((e.z, e.z_elements), (e.out, e.out_elements)):
            kind = c.c_double if e.dtype else c.c_float
            flat = np.ctypeslib.as_array(c.cast(pointer, c.POINTER(kind)), (elements,))
            blocks = elements // (e.n * int(np.prod(self.data)))
            yield flat.reshape(e.n, blocks * self.data[0], *self.data[1:])


# The networks in Python that the library may call, by the number that it knows them by.
_networks: weakref.WeakValueDictionary[int, _Network] = weakref.WeakValueDictionary()


def _evaluate(number: int, pointer: int) -> int:
    try:
        e = _abi.Evaluation.from_address(pointer)
        _networks[number].compute(e)
    except BaseException as exception:
        _abi.calling.python = False
        _abi.raise_later(exception)
        said = _said(exception).encode(errors="replace")[: max(0, e.message_capacity - 1)]
        c.memmove(e.message, said + b"\0", min(e.message_capacity, len(said) + 1))
        return 1
    return 0


_EVALUATE = _life.for_ever(_abi.network_callback(_evaluate))


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
        written = None if spec is None else _arguments.document(spec, "spec")
        options.spec_json = written
        if isinstance(providers, (list, tuple)):
            providers = ",".join(_arguments.text(one, "providers").decode() for one in providers)
        if providers is not None:
            options.providers = _arguments.text(providers, "providers")
        options.device = _arguments.whole(device, "device", _arguments.I32)
        options.threads = _arguments.whole(threads, "threads", _arguments.I32)
        options.concurrent_calls = _arguments.whole(concurrent_calls, "concurrent_calls", _arguments.I32)
        owner = self._place()
        self._networks: tuple[_Network, ...] = ()
        self._limits: Optional[tuple[float, float]] = None
        self._spec: Optional[bytes] = written
        if isinstance(model, (bytearray, memoryview)):
            model = bytes(model)
        if callable(model):
            if model is not _no_network:
                _check_callbacks("a network in Python")
            name = getattr(model, "__qualname__", type(model).__qualname__) if name is None else name
            known = _arguments.text(name, "name")
            network = _Network(model, written or b"")
            call(lib.psld_model_create, _EVALUATE, network.number, None, known, c.byref(options), c.byref(owner.handle))
            self._networks, self._title = (network,), name
        elif name is not None:
            raise ArgumentError(100, "name: only a network in Python is given one")
        elif isinstance(model, bytes):
            self._load_runtime(model.lstrip()[:1] == b"{")
            call(lib.psld_model_load_memory, None, model, len(model), c.byref(options), c.byref(owner.handle))
            self._title = f"{len(model)} bytes"
        else:
            path = _arguments.path(model, "model")
            self._load_runtime(path.lower().endswith(b".json"))
            call(lib.psld_model_load_file, None, path, c.byref(options), c.byref(owner.handle))
            self._title = repr(os.fsdecode(path))
            # As another process finds it.
            model = os.path.abspath(os.fsdecode(path))
        self._owner = owner
        # What makes it again.
        self._made_of: dict[str, Any] = {
            "model": model, "spec": None if written is None else written.decode(), "name": name, "providers": providers,
            "device": device, "threads": threads, "concurrent_calls": concurrent_calls,
        }  # fmt: skip

    def close(self) -> None:
        """Frees it; what was made from it lives on."""
        super().close()
        if self._networks:
            # With the function, and all that it holds.
            self._networks, self._made_of = (), {}

    def _load_runtime(self, analytic: bool) -> None:
        if not analytic and _runtime is None:
            load_runtime()

    # A copy shares the network: what it was made from is not changed by either. Of a function that is copied, it is another.
    def __copy__(self) -> Model:
        return self._twin()

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        for network in self._networks:
            function = copy.deepcopy(network.function, memo)
            if function is not network.function and self._owner is not None:
                return _model_of(type(self), {**self._made_of, "model": function})
        return self._twin()

    def __reduce_ex__(self, _: Any) -> Any:
        if self._owner is None:
            raise ArgumentError(102, "this Model is closed")
        return _model_of, (type(self), self._made_of)

    def _said(self) -> str:
        return f"{self._title}, samples of {list(self.shape)}"

    def _described(self) -> bytes:
        """The spec."""
        if self._spec is None:
            with contextlib.ExitStack() as stack:
                usable = self._owner is not None and self._owner.process == os.getpid()
                model = self if usable else stack.enter_context(_model_of(Model, self._made_of))
                self._spec = json.dumps(model.info["given"]).encode()
        return self._spec

    def _range(self) -> tuple[float, float]:
        """The data's range."""
        if self._limits is None:
            low, high = self.info["spec"]["data"]["range"]
            self._limits = (low, high)
        return self._limits

    @property
    def info(self) -> dict[str, Any]:
        """Spec (with its defaults, and as it was given), blocks of a state, what runs it, hash.

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
        sampler: Optional[str] = None,
        *,
        inpaint: Optional[str] = None,
        guidance: Optional[str] = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        restore: Optional[Mapping[str, Any]] = None,
        **options: Any,
    ) -> Sampler:
        """Compiles a sampler, by default ``auto`` with 30 network calls; the options are those of the JSON form (``steps``,
        ``nfe``, ``time_grid``, ``eta``, ...).

        ``guidance`` is ``"cfg"`` or ``"classifier"``; it acts at forward times in ``guidance_interval``, and its runs need
        ``scales``. ``restore`` says what was measured of images, such as ``{"operator": {"kind": "average", "factor": 4}, "noise":
        0.05}`` (``blur`` with ``std``, ``convolve`` with ``kernel``, ``mask``); its runs need a ``measurement``: an array, or for
        ``mask`` a pair with where it was measured.

        >>> model.sampler("sscs", steps=50).nfe
        51
        """
        return self._compile(
            Model.sampler, sampler, inpaint=inpaint, guidance=guidance, guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale, restore=restore, **options,
        )  # fmt: skip

    def _compile(
        self,
        function: Callable[..., Any],
        sampler: Any,
        /,
        *,
        inpaint: Any = None,
        guidance: Any = None,
        guidance_interval: Any = (0.0, 1.0),
        guidance_rescale: Any = 0.0,
        restore: Any = None,
        **options: Any,
    ) -> Sampler:
        """For a function of the caller's, whose arguments messages speak of."""
        given = _arguments.options({"sampler": sampler, **options})
        # A run's: a seed of 0 that is given is not the sampler's.
        seed = given.pop("seed", 0)
        request: dict[str, Any] = {"options_json": json.dumps(given).encode()}
        if inpaint is not None:
            request["inpaint"] = _arguments.text(inpaint, "inpaint")
        if guidance is not None:
            request["guidance"] = _arguments.text(guidance, "guidance")
        interval = _arguments.pair(guidance_interval, "guidance_interval")
        rescale = _arguments.number(guidance_rescale, "guidance_rescale")
        if guidance is not None or interval != (0.0, 1.0) or rescale != 0.0:
            request["guidance_from"], request["guidance_to"] = interval
            request["guidance_rescale"] = rescale
        if restore is not None:
            request["restore"] = _arguments.document(restore, "restore")
        with _hints(options, function):
            return self._made(request, given.get("sampler", "unipc" if given.get("encode") else "auto"), seed)

    def _made(self, request: Mapping[str, Any], title: str, seed: int) -> Sampler:
        owner = Sampler._place()
        if "plan" in request:
            call(lib.psld_sampler_create_from_plan, self._open, request["plan"], c.byref(owner.handle))
        else:
            fields = _abi.struct(_abi.SamplerOptions, "sampler_options")
            for name, value in request.items():
                setattr(fields, name, value)
            call(lib.psld_sampler_create, self._open, c.byref(fields), c.byref(owner.handle))
        return Sampler(owner, self, request, title, seed)

    def sampler_of_plan(self, plan: Union[str, Mapping[str, Any]]) -> Sampler:
        """A sampler that executes a plan of the caller's."""
        return self._made({"plan": _arguments.document(plan, "plan")}, "a plan", 0)

    def start(
        self,
        n: int = 1,
        *,
        sampler: Union[str, Sampler, None] = None,
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
        tag: int = 0,
        **options: Any,
    ) -> Run:
        """Begins a run of ``n`` samples; ``for step in run`` advances it."""
        token = Cancel._of_call(cancel)
        made, run_options, keep, networks = self._prepare(
            Model.start, n, sampler, options, dtype, token, batch=batch, previews=previews, anytime=anytime, deadline=deadline,
            max_memory=max_memory, init=init, from_image=from_image, noise=noise, labels=labels, inpaint=inpaint,
            measurement=measurement, scales=scales, guide=guide, tag=tag,
        )  # fmt: skip
        owner = Run._place()
        call(lib.psld_run_start, self._open, made._open, c.byref(run_options), c.byref(owner.handle))
        del keep
        return Run(owner, _arguments.dtype(dtype), networks, cancel, token, run_options.deadline_seconds)

    def load_run(
        self, saved: bytes, *, sampler: Union[str, Sampler, None] = None, guide: Optional[Model] = None, **options: Any
    ) -> Run:
        """The run that :meth:`Run.save` gave, under the same sampler and guidance network: as if it had never stopped."""
        if not isinstance(saved, (bytes, bytearray, memoryview)):
            _arguments.refuse("saved", saved, "the bytes that Run.save gave")
        content = bytes(saved)
        made = sampler if isinstance(sampler, Sampler) else self._compile(Model.load_run, sampler, **options)
        owner = Run._place()
        models = [self] if guide is None else [self, _arguments.instance(guide, Model, "guide")]
        call(
            lib.psld_run_load_guided, self._open, made._open, None if guide is None else guide._open, content, len(content),
            c.byref(owner.handle),
        )  # fmt: skip
        run = Run(owner, np.dtype(np.float32), _networks_of(models), None, Cancel._of_call(None), 0.0)
        run.resume()
        return run

    def sample(
        self,
        n: int = 1,
        *,
        sampler: Union[str, Sampler, None] = None,
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
        tag: int = 0,
        **options: Any,
    ) -> Array:
        """``n`` samples, the whole way at once: ``[n, C, ...]``, or the state with ``output="state"``.

        ``progress`` is told of each step; returning ``False`` stops with :class:`Cancelled`. ``True`` shows a bar, which needs
        tqdm. With ``anytime`` a deadline gives the best data estimates so far. Ctrl+C ends it at
        once, also within a network call, and what was given is as usable as before.

        >>> a = model.sample(3, sampler="heun", nfe=21, seed=5)
        >>> b = model.sample(1, sampler="heun", nfe=21, seed=6)
        >>> bool((a[1] == b[0]).all())
        True
        """
        what = _arguments.named({"data": 0, "state": 1}, output, "output")
        token = Cancel._of_call(cancel)
        made, run_options, keep, _ = self._prepare(
            Model.sample, n, sampler, options, dtype, token, batch=batch, anytime=anytime, deadline=deadline,
            max_memory=max_memory, init=init, from_image=from_image, noise=noise, labels=labels, inpaint=inpaint,
            measurement=measurement, scales=scales, guide=guide, tag=tag,
        )  # fmt: skip
        shape = self.shape if what == 0 else self.state_shape
        out = _arguments.empty((run_options.n, *shape), _arguments.dtype(dtype))
        with _long_call(token, progress) as told, contextlib.suppress(Partial):
            call(
                lib.psld_sample, self._open, made._open, c.byref(run_options), what, _code(out.dtype), out.ctypes.data, out.size,
                *told,
            )  # fmt: skip
        del keep
        return out

    def images(self, samples: npt.ArrayLike) -> list[Image.Image]:
        """Samples as images of Pillow, one each, with the pixels that ``psld sample`` writes.

        >>> images = model.images(model.sample(2, nfe=20))
        >>> [image.size for image in images]
        [(2, 2), (2, 2)]
        """
        return samples_to_pil(samples, range=self._range())

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
        tensor = _tensor(_arguments.state(latents, "latents"), keep)
        places = _arguments.numbers(at, "at").ravel()
        out = _arguments.empty((places.size, *self.state_shape), keep[0].dtype)
        call(
            lib.psld_model_interpolate, self._open, c.byref(tensor), places.ctypes.data_as(c.POINTER(c.c_double)),
            places.size, _code(out.dtype), out.ctypes.data, out.size,
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
        given = _arguments.image(images, "images", self._range)
        if given.ndim == 0:
            _arguments.refuse("images", given, "an array [n, C, ...]")
        n, probes = len(given), _arguments.whole(probes, "probes", _arguments.I32)
        token = Cancel._of_call(cancel)
        made, run_options, keep, _ = self._prepare(
            Model.likelihood, n, sampler, options, dtype, token, batch=batch, from_image=given, labels=labels
        )
        bits, errors = np.empty(n), np.empty(n) if probes > 1 else None
        double = c.POINTER(c.c_double)
        with _long_call(token, progress) as told:
            call(
                lib.psld_likelihood, self._open, made._open, c.byref(run_options), probes,
                int(_arguments.flag(dequantise, "dequantise")), bits.ctypes.data_as(double),
                None if errors is None else errors.ctypes.data_as(double), n, *told,
            )  # fmt: skip
        del keep
        return bits, errors

    def probe(
        self,
        nfe: Optional[int] = None,
        *,
        labels: Union[int, Sequence[int], None] = None,
        progress: Tells = None,
        cancel: Optional[Cancel] = None,
        **options: Any,
    ) -> dict[str, Any]:
        """The best of some sixty samplers, orders and grids at so many network calls, tried on a few starts: the options, for
        :meth:`sample`. Takes as long as some tens of network calls on 64 samples for each 10 of ``nfe``; the model keeps the answer.

        ``options`` are what the samples will be drawn with besides (``clip``, ``t_start``, ...); a given ``sampler``, ``order`` or
        ``time_grid`` is kept. ``labels``: classes of the starts, in turn.

        >>> best = model.probe(nfe=8)
        >>> sorted(best)
        ['nfe', 'order', 'sampler', 'time_grid']
        >>> model.sample(2, **best).shape
        (2, 3, 2, 2)
        """
        given = json.dumps(_arguments.options({"nfe": nfe, **options})).encode()
        classes = np.empty(0, np.int64) if labels is None else np.atleast_1d(_arguments.wholes(labels, np.int64, "labels"))
        token = Cancel._of_call(cancel)
        with _long_call(token, progress) as told, _hints(options, Model.probe):
            return _abi.document(
                lib.psld_model_probe, self._open, given, classes.ctypes.data_as(c.POINTER(c.c_int64)), classes.size, token._open,
                *told,
            )  # fmt: skip

    def memory(
        self,
        n: int,
        *,
        sampler: Union[str, Sampler, None] = None,
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
        made, run_options, keep, _ = self._prepare(
            Model.memory, n, sampler, options, dtype, None, noise=noise, inpaint=inpaint, measurement=measurement
        )
        needed = c.c_uint64()
        call(lib.psld_run_memory, made._open, c.byref(run_options), c.byref(needed))
        del keep
        return needed.value

    def _prepare(
        self,
        function: Callable[..., Any],
        n: int,
        sampler: Union[str, Sampler, None],
        options: Mapping[str, Any],
        dtype: npt.DTypeLike,
        token: Optional[Cancel],
        *,
        batch: int = 0,
        previews: bool = False,
        anytime: bool = False,
        deadline: float = 0.0,
        max_memory: int = 0,
        init: Optional[npt.ArrayLike] = None,
        from_image: Optional[npt.ArrayLike] = None,
        noise: Optional[npt.ArrayLike] = None,
        labels: Union[int, Sequence[int], None] = None,
        inpaint: Optional[tuple[npt.ArrayLike, npt.ArrayLike]] = None,
        measurement: Union[npt.ArrayLike, tuple[npt.ArrayLike, npt.ArrayLike], None] = None,
        scales: Union[float, Sequence[float], None] = None,
        guide: Optional[Model] = None,
        tag: int = 0,
    ) -> tuple[Sampler, _abi.RunOptions, list[Any], tuple[_Network, ...]]:
        """For a function of the caller's: the sampler, the C struct, what the struct points to, and the networks in Python."""
        if inpaint is not None and not (isinstance(inpaint, (tuple, list)) and len(inpaint) == 2):
            _arguments.refuse("inpaint", inpaint, "a pair, image and mask")
        if isinstance(sampler, Sampler):
            unknown = ", ".join(sorted(set(options) - {"seed"}))
            if unknown:
                raise ArgumentError(100, f"{unknown}: the sampler is compiled already", "give it to `Model.sampler`")
            made, seed = sampler, options.get("seed")
            seed = made._seed if seed is None else _arguments.seed(seed)
        else:
            method = None if inpaint is None else options.get("inpaint_method", "corrected")
            rest = {name: value for name, value in options.items() if name != "inpaint_method"}
            made = self._compile(function, sampler, inpaint=method, **rest)
            seed = made._seed
        fields = _abi.struct(_abi.RunOptions, "run_options")
        keep: list[Any] = []
        fields.n, fields.seed = _arguments.whole(n, "n", _arguments.I64, 1), seed
        fields.tag = _arguments.whole(tag, "tag", _arguments.U64)
        fields.precision = _code(_arguments.dtype(dtype))
        fields.batch = _arguments.whole(batch, "batch")
        fields.max_memory = _arguments.whole(max_memory, "max_memory", _arguments.U64)
        fields.deadline_seconds = _arguments.seconds(deadline, "deadline")
        fields.previews = int(_arguments.flag(previews, "previews"))
        fields.anytime = int(_arguments.flag(anytime, "anytime"))
        if token is not None:
            fields.cancel = token._open

        def put(field: str, array: Array) -> None:
            setattr(fields, field, c.pointer(_tensor(array, keep)))

        if init is not None:
            put("init", _arguments.state(init, "init"))
        if noise is not None:
            put("noise", _arguments.state(noise, "noise"))
        if from_image is not None:
            put("from_image", _arguments.image(from_image, "from_image", self._range))
        if inpaint is not None:
            put("inpaint_image", _arguments.image(inpaint[0], "inpaint", self._range))
            put("inpaint_mask", _arguments.mask(inpaint[1], "inpaint: the mask"))
        if measurement is not None:
            values, where = measurement if isinstance(measurement, tuple) else (measurement, None)
            put("measurement", _arguments.image(values, "measurement", self._range))
            if where is not None:
                put("measurement_mask", _arguments.mask(where, "measurement: the mask"))
        if labels is not None:
            classes = np.atleast_1d(_arguments.wholes(labels, np.int64, "labels"))
            fields.labels = classes.ctypes.data_as(c.POINTER(c.c_int64))
            fields.labels_len = classes.size
            keep.append(classes)
        if scales is not None:
            weights = np.atleast_1d(_arguments.numbers(scales, "scales"))
            fields.scales = weights.ctypes.data_as(c.POINTER(c.c_double))
            fields.scales_len = weights.size
            keep.append(weights)
        models = [self]
        if guide is not None:
            fields.guide = _arguments.instance(guide, Model, "guide")._open
            models.append(guide)
        return made, fields, keep, _networks_of(models)


@contextlib.contextmanager
def _hints(options: Mapping[str, Any], function: Callable[..., Any]) -> Iterator[None]:
    """The library knows the names of options, and not those of a function's other arguments: this hints at all of them."""
    try:
        yield
    except ArgumentError as e:
        unknown = next((name for name in options if f"unknown field `{name}`" in e.args[0]), None)
        if unknown is None:
            raise
        raise ArgumentError(e.status, e.args[0], _arguments.did_you_mean(unknown, function)) from None


def _networks_of(models: Sequence[Model]) -> tuple[_Network, ...]:
    return tuple(network for model in models for network in model._networks)


def _model_of(kind: type[Model], made_of: dict[str, Any]) -> Model:
    """A model once more, as in another process."""
    return kind(**made_of)


def _sampler_of(spec: bytes, request: Mapping[str, Any], title: str, seed: int) -> Sampler:
    """A sampler once more; of its model, only the spec matters."""
    model = Model(_no_network, spec=spec.decode())
    return model._made(request, title, seed)


def _no_network(*_: Any) -> npt.ArrayLike:
    raise NotImplementedError("it is there for its spec")


class Sampler(_Handle):
    """A compiled sampler: immutable, any thread. From :meth:`Model.sampler`."""

    _free = lib.psld_sampler_free
    _inherited = True

    def __init__(self, owner: _life.Owner, model: Model, request: Mapping[str, Any], title: str, seed: int) -> None:
        self._owner = owner
        # What makes it again.
        self._model, self._request, self._title, self._seed = model, request, title, seed

    # Nothing changes it: a copy is of the same.
    def __copy__(self) -> Sampler:
        return self._twin()

    def __deepcopy__(self, _: Any) -> Sampler:
        return self._twin()

    def __reduce_ex__(self, _: Any) -> Any:
        if self._owner is None:
            raise ArgumentError(102, "this Sampler is closed")
        return _sampler_of, (self._model._described(), dict(self._request), self._title, self._seed)

    def _said(self) -> str:
        return f"{self._title}, {self.nfe} network calls" if self.nfe else f"{self._title}, adaptive"

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
    _unique = "keep what `save()` gives, from which Model.load_run makes it again"

    def __init__(
        self,
        owner: _life.Owner,
        dtype: np.dtype[Any],
        networks: tuple[_Network, ...],
        cancel: Optional[Cancel],
        token: Cancel,
        deadline: float,
    ) -> None:
        self._owner = owner
        self._precision, self._networks = dtype, networks
        self._watch(cancel, token, deadline)

    def _watch(self, cancel: Optional[Cancel], token: Cancel, deadline: float) -> None:
        # Of the caller's, and the run's own, which Ctrl+C uses up.
        self._cancel, self._token = cancel, token
        self._end = time.monotonic() + deadline if deadline > 0.0 else None

    def close(self) -> None:
        """Frees it."""
        super().close()
        self._networks = ()

    def _said(self) -> str:
        p = self.progress
        return f"{p.samples} samples, step {p.step}{f' of {p.of}' if p.of else ''}{', done' if p.done else ''}"

    def step(self, max_steps: int = 1) -> Progress:
        """Advances by at most so many steps; 0 tells how far it is. Ctrl+C ends it at once, also within a network call, and the
        run can go on."""
        steps = _arguments.whole(max_steps, "max_steps", _arguments.I32, 0)
        progress = _abi.struct(_abi.Progress, "progress")
        if steps == 0:
            call(lib.psld_run_step, self._open, 0, c.byref(progress))
            return Progress._of(progress)
        with Interrupts(self._token.cancel) as interrupted:
            try:
                call(lib.psld_run_step, self._open, steps, c.byref(progress))
            except (Cancelled, KeyboardInterrupt):
                if not interrupted:
                    raise
        if interrupted:
            left = 0.0 if self._end is None else max(1e-9, self._end - time.monotonic())
            self.resume(deadline=left, cancel=self._cancel)
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
        """To the end; Ctrl+C ends it at once, and the run can go on."""
        progress = self.progress
        for progress in self:
            pass
        return progress

    def read(self, what: str = "data", dtype: Optional[npt.DTypeLike] = None) -> Array:
        """``"data"``, ``"state"`` or ``"x0"`` (the data estimate), also between steps."""
        which = _arguments.named(_OUTPUTS, what, "what")
        sizes = _abi.shape(lib.psld_run_shape, self._open, which)
        out = _arguments.empty(sizes, self._precision if dtype is None else _arguments.dtype(dtype))
        call(lib.psld_run_read, self._open, which, _code(out.dtype), out.ctypes.data, out.size)
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
        order = _arguments.wholes(indices, np.int64, "indices")
        new = None if seeds is None else _arguments.wholes(seeds, np.uint64, "seeds")
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
        seconds, token = _arguments.seconds(deadline, "deadline"), Cancel._of_call(cancel)
        call(lib.psld_run_resume, self._open, token._open, seconds)
        self._watch(cancel, token, seconds)


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
    def _free(handle: c.c_void_p) -> None:
        # Also what its tickets wait for: who leaves `with`, or Python, is done with it.
        lib.psld_engine_close(handle, None)
        lib.psld_engine_free(handle)

    _unique = "it has a thread of its own; make one in each process, of the model, which can be pickled"

    def __init__(self, model: Model, *, max_batch: int = 0, queue: int = 0, max_wait: float = 0.0) -> None:
        options = _abi.struct(_abi.EngineOptions, "engine_options")
        options.max_batch = _arguments.whole(max_batch, "max_batch", _arguments.I32)
        options.queue = _arguments.whole(queue, "queue", _arguments.I32)
        options.max_wait_seconds = _arguments.seconds(max_wait, "max_wait")
        # Its own, which stays when the caller's is closed.
        self._model = _arguments.instance(model, Model, "model")._twin()
        # Those of guides join them: it may call them as long as it lives.
        self._networks = set(model._networks)
        owner = self._place()
        if _life.ends():
            raise RunError(503, "the interpreter ends: no engine is started any more")
        call(lib.psld_engine_create, model._open, c.byref(options), c.byref(owner.handle))
        self._owner = owner
        _life.engines.add(self)

    def _said(self) -> str:
        return f"{self.stats['requests']} requests of {self._model!r}"

    def close(self) -> None:
        """Ends it, and the requests that are in it."""
        super().close()
        self._model.close()
        self._networks.clear()

    def submit(
        self,
        n: int = 1,
        *,
        sampler: Union[str, Sampler, None] = None,
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
        tag: int = 0,
        **options: Any,
    ) -> Ticket:
        """Hands in a request for ``n`` samples, without waiting for the network; the arguments are those of
        :meth:`Model.start`. Who submits often compiles the sampler once. ``priority`` is -10 to 10, more is served earlier."""
        # Said first of the engine.
        engine, token = self._open, Cancel._of_call(cancel)
        made, run_options, keep, networks = self._model._prepare(
            Engine.submit, n, sampler, options, dtype, token, previews=previews, anytime=anytime, deadline=deadline,
            max_memory=max_memory, init=init, from_image=from_image, noise=noise, labels=labels, inpaint=inpaint,
            measurement=measurement, scales=scales, guide=guide, tag=tag,
        )  # fmt: skip
        level = _arguments.whole(priority, "priority", _arguments.I32)
        self._networks.update(networks)
        owner = Ticket._place()
        call(lib.psld_engine_submit, engine, made._open, c.byref(run_options), level, c.byref(owner.handle))
        del keep
        return Ticket(owner, _arguments.dtype(dtype), self, token)

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
    _unique = "keep its `result()`"

    def __init__(self, owner: _life.Owner, dtype: np.dtype[Any], engine: Engine, token: Cancel) -> None:
        self._owner = owner
        # An engine that nobody holds is closed; the token is cancelled with the caller's.
        self._precision, self._token = dtype, token
        self._engine: Optional[Engine] = engine

    def close(self) -> None:
        """Frees it; a request that has not ended is cancelled."""
        super().close()
        self._engine = None

    def _said(self) -> str:
        p = self.progress
        return f"request {self.id}, step {p.step}{f' of {p.of}' if p.of else ''}{', done' if p.done else ''}"

    @property
    def id(self) -> int:
        """The number by which messages call it."""
        number = c.c_uint64()
        call(lib.psld_ticket_id, self._open, c.byref(number))
        return number.value

    def wait(self, timeout: Optional[float] = None) -> Progress:
        """Waits for its end, for ``timeout`` seconds at most: ``done`` says whether it came. Raises what it ended with otherwise,
        such as :class:`Cancelled`, also where the engine was closed. Ctrl+C ends the wait, and not the request."""
        end = None if timeout is None else time.monotonic() + _arguments.seconds(timeout, "timeout")
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
        which = _arguments.named(_OUTPUTS, what, "what")
        sizes = _abi.shape(lib.psld_ticket_shape, self._open, which)
        out = _arguments.empty(sizes, self._precision if dtype is None else _arguments.dtype(dtype))
        call(lib.psld_ticket_read, self._open, which, _code(out.dtype), out.ctypes.data, out.size)
        return out

    @property
    def x0(self) -> Array:
        """The data estimate at the last network call."""
        return self.read("x0")

    @property
    def provenance(self) -> dict[str, Any]:
        """What made these samples: versions, hashes, options, seeds."""
        return _abi.document(lib.psld_ticket_provenance_json, self._open)


def _tensor(values: Array, keep: list[Any]) -> _abi.Tensor:
    """A view of an array that is as C has them."""
    shape = (c.c_int64 * values.ndim)(*values.shape)
    tensor = _abi.struct(_abi.Tensor, "tensor")
    tensor.data, tensor.dtype, tensor.ndim, tensor.shape = values.ctypes.data, _code(values.dtype), values.ndim, shape
    keep += [values, shape, tensor]
    return tensor
