"""The C ABI, declared for ctypes: structs, functions, and the table of errors. Nothing is computed here."""

from __future__ import annotations

import ctypes as c
import errno
import json
import os
import threading
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar

from . import _life

ABI_VERSION = 1

progress_callback = c.CFUNCTYPE(c.c_int32, c.c_void_p, c.c_void_p)
network_callback = c.CFUNCTYPE(c.c_int32, c.c_void_p, c.c_void_p)


class Progress(c.Structure):
    _fields_ = [
        ("struct_size", c.c_size_t),
        ("step", c.c_int32),
        ("of", c.c_int32),
        ("nfe", c.c_int32),
        ("done", c.c_int32),
        ("fraction", c.c_double),
        ("t", c.c_double),
        ("samples_done", c.c_int64),
        ("samples", c.c_int64),
    ]


class Tensor(c.Structure):
    _fields_ = [
        ("struct_size", c.c_size_t),
        ("data", c.c_void_p),
        ("dtype", c.c_int32),
        ("ndim", c.c_int32),
        ("shape", c.POINTER(c.c_int64)),
    ]


class ModelOptions(c.Structure):
    _fields_ = [
        ("struct_size", c.c_size_t),
        ("spec_json", c.c_char_p),
        ("providers", c.c_char_p),
        ("device", c.c_int32),
        ("threads", c.c_int32),
        ("concurrent_calls", c.c_int32),
    ]


class Evaluation(c.Structure):
    _fields_ = [
        ("struct_size", c.c_size_t),
        ("n", c.c_int64),
        ("dtype", c.c_int32),
        ("reserved", c.c_int32),
        ("z", c.c_void_p),
        ("z_elements", c.c_size_t),
        ("t", c.POINTER(c.c_double)),
        ("labels", c.POINTER(c.c_int64)),
        ("out", c.c_void_p),
        ("out_elements", c.c_size_t),
        ("message", c.c_void_p),
        ("message_capacity", c.c_size_t),
        ("indices", c.POINTER(c.c_int64)),
        ("tags", c.POINTER(c.c_uint64)),
    ]


class SamplerOptions(c.Structure):
    # As much of it as is used: the library fills in what follows.
    _fields_ = [
        ("struct_size", c.c_size_t),
        ("options_json", c.c_char_p),
        ("sampler", c.c_char_p),
        ("steps", c.c_int32),
        ("nfe", c.c_int32),
        ("time_grid", c.c_char_p),
        ("time_points", c.c_void_p),
        ("time_points_len", c.c_size_t),
        ("t_start", c.c_double),
        ("t_end", c.c_double),
        ("denoise", c.c_int32),
        ("max_nfe", c.c_int32),
        ("denoise_time", c.c_char_p),
        ("rtol", c.c_double),
        ("atol", c.c_double),
        ("error_norm", c.c_char_p),
        ("seed", c.c_uint64),
        ("inpaint", c.c_char_p),
        ("order", c.c_int32),
        ("published", c.c_int32),
        ("eta", c.c_double),
        ("lambda", c.c_double),
        ("lambda_s", c.c_double),
        ("matrix", c.c_char_p),
        ("variant", c.c_char_p),
        ("clip", c.c_int32),
        ("inpaint_resample", c.c_int32),
        ("guidance", c.c_char_p),
        ("guidance_from", c.c_double),
        ("guidance_to", c.c_double),
        ("guidance_rescale", c.c_double),
        ("encode", c.c_int32),
        ("restore", c.c_char_p),
    ]


class RunOptions(c.Structure):
    _fields_ = [
        ("struct_size", c.c_size_t),
        ("n", c.c_int64),
        ("seed", c.c_uint64),
        ("precision", c.c_int32),
        ("previews", c.c_int32),
        ("batch", c.c_int64),
        ("max_memory", c.c_uint64),
        ("deadline_seconds", c.c_double),
        ("cancel", c.c_void_p),
        ("init", c.POINTER(Tensor)),
        ("noise", c.POINTER(Tensor)),
        ("labels", c.POINTER(c.c_int64)),
        ("labels_len", c.c_size_t),
        ("inpaint_image", c.POINTER(Tensor)),
        ("inpaint_mask", c.POINTER(Tensor)),
        ("anytime", c.c_int32),
        ("scales", c.POINTER(c.c_double)),
        ("scales_len", c.c_size_t),
        ("guide", c.c_void_p),
        ("from_image", c.POINTER(Tensor)),
        ("measurement", c.POINTER(Tensor)),
        ("measurement_mask", c.POINTER(Tensor)),
        ("tag", c.c_uint64),
    ]


class EngineOptions(c.Structure):
    _fields_ = [
        ("struct_size", c.c_size_t),
        ("max_batch", c.c_int32),
        ("queue", c.c_int32),
        ("max_wait_seconds", c.c_double),
    ]


class PsldError(Exception):
    """A failed call: ``status`` for programs, the message and ``hint`` for people."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.hint = hint

    # As processes hand exceptions to one another.
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, self.args[0], self.hint)

    @property
    def name(self) -> str:
        """The status' name, such as ``PSLD_STATUS_INVALID_ARGUMENT``."""
        name: bytes = lib.psld_status_name(self.status)
        return name.decode()

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message}\nhint: {self.hint}" if self.hint else message


class ArgumentError(PsldError, ValueError):
    """An argument, option, shape or file is wrong (1xx)."""


class FileMissing(ArgumentError, FileNotFoundError):
    """A file is not there."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(status, message, hint)
        self.errno, self.strerror = errno.ENOENT, os.strerror(errno.ENOENT)


class ModelError(PsldError):
    """The model or its spec is wrong (2xx)."""


class OnnxRuntimeError(PsldError, RuntimeError):
    """ONNX Runtime is missing, unsuitable, or failed (3xx)."""


class OnnxRuntimeMissing(OnnxRuntimeError, FileNotFoundError):
    """There is no library of ONNX Runtime where one was looked for."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(status, message, hint)
        self.errno, self.strerror = errno.ENOENT, os.strerror(errno.ENOENT)


class NumericError(PsldError, ArithmeticError):
    """A value became non-finite, or a computation is not possible (4xx)."""


class RunError(PsldError):
    """About the course of a run (5xx)."""


class Cancelled(RunError):
    """The run was cancelled; it can be continued."""


class DeadlineExceeded(RunError):
    """The deadline passed; the run can be continued."""


class Partial(RunError):
    """The deadline of an anytime run passed: there is a data estimate, and the run can be continued."""


class QueueFull(RunError):
    """As many requests are in the engine as it was made for; submit again when one of them has ended."""


class CheckpointError(RunError):
    """A saved run is torn, edited, or of another model or sampler."""


class InternalError(PsldError, RuntimeError):
    """A defect of psld (9xx)."""


class OutOfMemory(PsldError, MemoryError):
    """Memory could not be allocated."""


for _class in (
    PsldError, ArgumentError, FileMissing, ModelError, OnnxRuntimeError, OnnxRuntimeMissing, NumericError, RunError, Cancelled,
    DeadlineExceeded, Partial, QueueFull, CheckpointError, InternalError, OutOfMemory,
):  # fmt: skip
    # Where they are found, and what tracebacks show.
    _class.__module__ = __package__

_BLOCKS = {1: ArgumentError, 2: ModelError, 3: OnnxRuntimeError, 4: NumericError, 5: RunError, 9: InternalError}
_STATUSES = {
    300: OnnxRuntimeMissing, 500: Cancelled, 502: DeadlineExceeded, 504: CheckpointError, 505: Partial, 506: QueueFull,
    902: OutOfMemory,
}  # fmt: skip


def _load() -> c.CDLL:
    path = os.environ.get("PSLD_LIBRARY") or str(Path(__file__).parent / "libpsld.so")
    try:
        return c.CDLL(path)
    except OSError as e:
        raise ImportError(f"psld: the library {path} cannot be loaded: {e}") from e


# Calls release the GIL: CDLL, not PyDLL.
lib = _load()

_handle, _text, _size = c.c_void_p, c.c_char_p, c.POINTER(c.c_size_t)
_query = [c.c_void_p, c.c_size_t, _size]
_FUNCTIONS: dict[str, list[Any]] = {
    "psld_runtime_load": [_text, c.POINTER(_handle)],
    "psld_runtime_info_json": [_handle, *_query],
    "psld_model_load_file": [_handle, _text, c.POINTER(ModelOptions), c.POINTER(_handle)],
    "psld_model_load_memory": [_handle, c.c_char_p, c.c_size_t, c.POINTER(ModelOptions), c.POINTER(_handle)],
    "psld_model_create": [
        c.c_void_p, c.c_void_p, c.c_void_p, _text, c.POINTER(ModelOptions), c.POINTER(_handle),
    ],
    "psld_model_info_json": [_handle, *_query],
    "psld_model_shape": [_handle, c.c_int32, *_query],
    "psld_model_interpolate": [
        _handle, c.POINTER(Tensor), c.POINTER(c.c_double), c.c_size_t, c.c_int32, c.c_void_p, c.c_size_t,
    ],
    "psld_sampler_create": [_handle, c.POINTER(SamplerOptions), c.POINTER(_handle)],
    "psld_sampler_create_from_plan": [_handle, _text, c.POINTER(_handle)],
    "psld_model_probe": [
        _handle, c.c_char_p, c.POINTER(c.c_int64), c.c_size_t, _handle, c.c_void_p, c.c_void_p, *_query,
    ],
    "psld_sampler_plan_json": [_handle, *_query],
    "psld_sampler_hash": [_handle, *_query],
    "psld_sampler_nfe": [_handle, c.POINTER(c.c_int32)],
    "psld_samplers_json": _query,
    "psld_cancel_create": [c.POINTER(_handle)],
    "psld_run_start": [_handle, _handle, c.POINTER(RunOptions), c.POINTER(_handle)],
    "psld_run_memory": [_handle, c.POINTER(RunOptions), c.POINTER(c.c_uint64)],
    "psld_run_step": [_handle, c.c_int32, c.POINTER(Progress)],
    "psld_run_resume": [_handle, _handle, c.c_double],
    "psld_run_gather": [_handle, c.POINTER(c.c_int64), c.c_size_t, c.POINTER(c.c_uint64)],
    "psld_run_shape": [_handle, c.c_int32, *_query],
    "psld_run_read": [_handle, c.c_int32, c.c_int32, c.c_void_p, c.c_size_t],
    "psld_run_save": [_handle, *_query],
    "psld_run_load_guided": [_handle, _handle, _handle, c.c_char_p, c.c_size_t, c.POINTER(_handle)],
    "psld_run_provenance_json": [_handle, *_query],
    "psld_sample": [
        _handle, _handle, c.POINTER(RunOptions), c.c_int32, c.c_int32, c.c_void_p, c.c_size_t, c.c_void_p,
        c.c_void_p,
    ],
    "psld_likelihood": [
        _handle, _handle, c.POINTER(RunOptions), c.c_int32, c.c_int32, c.POINTER(c.c_double), c.POINTER(c.c_double),
        c.c_size_t, c.c_void_p, c.c_void_p,
    ],
    "psld_engine_create": [_handle, c.POINTER(EngineOptions), c.POINTER(_handle)],
    "psld_engine_submit": [_handle, _handle, c.POINTER(RunOptions), c.c_int32, c.POINTER(_handle)],
    "psld_engine_close": [_handle],
    "psld_engine_stats_json": [_handle, *_query],
    "psld_ticket_wait": [_handle, c.c_double, c.POINTER(Progress)],
    "psld_ticket_id": [_handle, c.POINTER(c.c_uint64)],
    "psld_ticket_shape": [_handle, c.c_int32, *_query],
    "psld_ticket_read": [_handle, c.c_int32, c.c_int32, c.c_void_p, c.c_size_t],
    "psld_ticket_provenance_json": [_handle, *_query],
    "psld_noise_fill": [c.c_uint64, c.c_int32, c.c_uint32, c.c_uint64, c.c_int32, c.c_void_p, c.c_size_t],
}  # fmt: skip


def _declare() -> None:
    for name, arguments in _FUNCTIONS.items():
        getattr(lib, name).argtypes = [*arguments, c.POINTER(_handle)]
    for handle in ("runtime", "model", "sampler", "cancel", "run", "engine", "ticket", "error"):
        getattr(lib, f"psld_{handle}_free").argtypes = [_handle]
    for struct in ("model_options", "sampler_options", "run_options", "engine_options", "tensor", "progress"):
        getattr(lib, f"psld_{struct}_init").argtypes = [c.c_void_p, c.c_size_t]
    for name in ("psld_cancel_cancel", "psld_ticket_cancel"):
        getattr(lib, name).argtypes = [_handle]
    lib.psld_error_status.argtypes = [_handle]
    for name in ("psld_error_message", "psld_error_hint"):
        getattr(lib, name).argtypes = [_handle]
        getattr(lib, name).restype = c.c_char_p
    lib.psld_status_name.restype = c.c_char_p
    lib.psld_version.restype = c.c_char_p
    lib.psld_debug_live_handles.restype = c.c_size_t


def check_version(wanted: str) -> None:
    """Fails where library and package are of different versions."""
    lib.psld_version.restype = c.c_char_p
    found, abi = lib.psld_version().decode(), lib.psld_abi_version()
    if found != wanted or abi < ABI_VERSION:
        raise ImportError(
            f"psld: this package is version {wanted} (ABI {ABI_VERSION}), the library {lib._name} is version {found} "
            f"(ABI {abi}); install the wheel again, or unset PSLD_LIBRARY"
        )


class _Calling(threading.local):
    """What goes on on this thread."""

    # Calls of the library, one within another where a network in Python makes some.
    depth = 0
    # Whether it is in the caller's Python within them, where an exception comes back to us.
    python = False
    # What a network in Python raised within them.
    exception: Optional[BaseException] = None


calling = _Calling()


def raise_later(exception: BaseException) -> None:
    """Keeps an exception, which cannot cross the library, for the call that is under way on this thread; if there is one, as
    on the thread of an engine there is not."""
    if calling.depth > 0:
        calling.exception = exception


def call(function: Callable[..., int], *arguments: Any) -> None:
    """Calls a function that ends with ``err``; a failure becomes an exception."""
    err = c.c_void_p()
    me, python = threading.get_ident(), calling.python
    calling.depth += 1
    try:
        # First in, then looked: who ends the interpreter does it the other way round.
        _life.inside.add(me)
        if _life.refuses():
            raise SystemExit
        calling.python = False
        status = function(*arguments, c.byref(err))
    finally:
        calling.python = python
        calling.depth -= 1
        if calling.depth == 0:
            _life.inside.discard(me)
    if status == 0:
        return
    raised, calling.exception = calling.exception, None
    try:
        message = lib.psld_error_message(err).decode() if err else ""
        hint = lib.psld_error_hint(err).decode() if err else ""
    finally:
        lib.psld_error_free(err)
    if raised is not None:
        raise raised
    if _life.refuses():
        # A daemon's thread at the end of the interpreter leaves without a word.
        raise SystemExit
    kind = _STATUSES.get(status) or _BLOCKS.get(status // 100, PsldError)
    if kind is ArgumentError and f"(os error {errno.ENOENT})" in message:
        kind = FileMissing
    raise kind(status, message or lib.psld_status_name(status).decode(), hint)


def query(function: Callable[..., int], *arguments: Any) -> bytes:
    """The bytes of a function of the size-query form."""
    size = c.c_size_t()
    call(function, *arguments, None, 0, c.byref(size))
    buffer = c.create_string_buffer(size.value)
    call(function, *arguments, buffer, size.value, None)
    return buffer.raw


def text(function: Callable[..., int], *arguments: Any) -> str:
    return query(function, *arguments)[:-1].decode()


def document(function: Callable[..., int], *arguments: Any) -> dict[str, Any]:
    """The JSON object that a function gives as text."""
    parsed: dict[str, Any] = json.loads(text(function, *arguments))
    return parsed


def shape(function: Callable[..., int], *arguments: Any) -> tuple[int, ...]:
    count = c.c_size_t()
    call(function, *arguments, None, 0, c.byref(count))
    sizes = (c.c_int64 * count.value)()
    call(function, *arguments, sizes, count.value, None)
    return tuple(sizes)


_Struct = TypeVar("_Struct", bound=c.Structure)


def struct(kind: type[_Struct], name: str) -> _Struct:
    """A struct with its defaults."""
    made = kind()
    status = getattr(lib, f"psld_{name}_init")(c.byref(made), c.sizeof(made))
    if status != 0:
        raise InternalError(status, f"psld_{name}_init refused a struct of {c.sizeof(made)} bytes")
    return made


_declare()
