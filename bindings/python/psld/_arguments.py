"""Arguments on their way into C: what does not fit is refused by its name, with the value as it was given."""

from __future__ import annotations

import difflib
import inspect
import json
import operator
import os
import reprlib
from typing import Any, Callable, Mapping, NoReturn, Optional

import numpy as np
import numpy.typing as npt

from ._abi import ArgumentError

Array = npt.NDArray[Any]
I32, U32, I64, U64 = (np.iinfo(kind) for kind in (np.int32, np.uint32, np.int64, np.uint64))


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 80


_short = _Short().repr


def refuse(name: str, value: Any, expected: str, hint: str = "") -> NoReturn:
    """An argument that is not what it must be."""
    shown = f"an array of {value.dtype}, {list(value.shape)}" if isinstance(value, np.ndarray) else _short(value)
    raise ArgumentError(100, f"{name} = {shown}: expected {expected}", hint) from None


def whole(value: Any, name: str, of: Any = I64, least: Optional[int] = None) -> int:
    """A whole number that an integer of C holds; ctypes would cut off what does not fit."""
    least = int(of.min) if least is None else least
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = int(value) if isinstance(value, (float, np.floating)) and value == int(value) else operator.index(value)
        if least <= number <= of.max:
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    refuse(name, value, f"a whole number, {least} to {of.max}")


def number(value: Any, name: str, finite: bool = False) -> float:
    """A number; text is none."""
    try:
        if isinstance(value, (bool, np.bool_, str, bytes, bytearray)) or np.ndim(value) != 0:
            raise TypeError
        made = float(value)
        if not finite or np.isfinite(made):
            return made
    except (TypeError, ValueError, OverflowError):
        pass
    refuse(name, value, "a finite number" if finite else "a number")


def seconds(value: Any, name: str) -> float:
    """A time to wait, or to take."""
    made = number(value, name)
    # NaN is not, either.
    if not made >= 0.0:
        refuse(name, value, "seconds, at least 0")
    return made


def flag(value: Any, name: str) -> bool:
    """True or False; 1 and 0 are meant so, too."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, (int, np.integer)) and value in (0, 1)):
        return bool(value)
    refuse(name, value, "True or False")


def text(value: Any, name: str) -> bytes:
    """Text for C, which ends at a NUL."""
    if not isinstance(value, str):
        refuse(name, value, "text")
    if "\0" in value:
        refuse(name, value, "text without a NUL")
    try:
        return value.encode()
    except UnicodeEncodeError:
        refuse(name, value, "text that UTF-8 can hold")


def path(value: Any, name: str) -> bytes:
    """A path for C."""
    try:
        made = os.fsencode(value)
    except TypeError:
        refuse(name, value, "a path")
    except UnicodeEncodeError:
        refuse(name, value, "a path that UTF-8 can hold")
    if b"\0" in made:
        refuse(name, value, "a path, which holds no NUL")
    return made


def pair(value: Any, name: str) -> tuple[float, float]:
    """Two numbers."""
    try:
        first, second = value
        return number(first, name), number(second, name)
    except (TypeError, ValueError):
        refuse(name, value, "two numbers")


def named(table: Mapping[str, int], value: Any, name: str) -> int:
    """The number of one of a few words."""
    if isinstance(value, str) and value in table:
        return table[value]
    refuse(name, value, f"one of {', '.join(table)}")


def dtype(value: npt.DTypeLike, name: str = "dtype") -> np.dtype[Any]:
    """float32 or float64."""
    try:
        kind = np.dtype(value)
    except TypeError:
        refuse(name, value, "float32 or float64")
    if kind not in (np.float32, np.float64):
        refuse(name, str(kind), "float32 or float64")
    return kind


def instance(value: Any, kind: type, name: str) -> Any:
    """Of one class of the package."""
    if not isinstance(value, kind):
        refuse(name, value, f"a psld.{kind.__name__}")
    return value


def array(values: Any, name: str) -> Array:
    """What numpy makes of it."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        refuse(name, values.data, "an array, of which nothing is masked out", "fill it: `array.filled(...)`")
    try:
        return np.asarray(values)
    except Exception as e:  # Of what it is given, such as tensors of other devices, any.
        raise ArgumentError(100, f"{name}: a {type(values).__name__} cannot be read as an array: {e}") from e


def _floats(given: Array) -> bool:
    return given.dtype.kind == "f" or given.dtype.name.startswith("bfloat")


def _as_float(given: Array) -> Array:
    """In C's order and one of its two types: as it is, if it is that already."""
    wide = given.dtype.kind == "f" and given.dtype.itemsize >= 8
    return np.asarray(given, np.float64 if wide else np.float32, order="C")


def state(values: Any, name: str) -> Array:
    """Values in network units, which no levels are."""
    given = array(values, name)
    if not _floats(given):
        refuse(name, given, "floating-point numbers, in network units", "convert it: `array.astype('float32')`")
    return _as_float(given)


def image(values: Any, name: str, limits: Callable[[], tuple[float, float]]) -> Array:
    """Values in the data's range; of uint8 they are levels, which are mapped onto it as those of PNG files are."""
    given = array(values, name)
    if given.dtype == np.uint8:
        low, high = limits()
        return np.asarray(low + (high - low) * given.astype(np.float64) / 255.0, np.float32, order="C")
    if not _floats(given):
        refuse(
            name, given, "floating-point numbers in the data's range, or levels of uint8",
            "levels 0 to 255: `array.astype('uint8')`; values: convert them to float in the data's range",
        )  # fmt: skip
    return _as_float(given)


def mask(values: Any, name: str) -> Array:
    """Booleans, or numbers from 0 to 1."""
    given = array(values, name)
    if not (_floats(given) or given.dtype.kind in "biu"):
        refuse(name, given, "booleans or numbers, 1 where it is known")
    if given.dtype.kind in "iu" and given.size and not (given.min() >= 0 and given.max() <= 1):
        high = given.max() if given.min() >= 0 else given.min()
        refuse(name, given, f"0 and 1, got {high}", "1 where it is known: `mask > 0`")
    return _as_float(given)


def wholes(values: Any, kind: npt.DTypeLike, name: str) -> Array:
    """Whole numbers as C has them; numpy would cut off what does not fit."""
    given = array(values, name)
    limits: Any = np.iinfo(kind)
    if given.dtype.kind == "O":
        # Of ints that no type of numpy holds, or of both signs.
        return np.array([whole(value, name, limits) for value in given.ravel()], kind).reshape(given.shape)
    if given.dtype.kind in "biuf" or given.size == 0:
        with np.errstate(invalid="ignore"):
            made = given.astype(kind, order="C")
        # A float64 of 2**64 compares equal to the largest uint64.
        fits = given.dtype.kind != "f" or given.size == 0 or given.max() < float(limits.max)
        if fits and np.array_equal(made, given):
            return made
    refuse(name, values, f"whole numbers, {limits.min} to {limits.max}")


def numbers(values: Any, name: str) -> Array:
    """Numbers, as float64; text is none."""
    given = array(values, name)
    if not (_floats(given) or given.dtype.kind in "iu" or given.size == 0):
        refuse(name, values, "numbers")
    return np.asarray(given, np.float64, order="C")


def output(made: Any, shape: tuple[int, ...]) -> Array:
    """What a network in Python returned."""
    given = np.asarray(made)
    if given.shape != shape:
        raise ValueError(f"the network returned an array of {given.shape}: expected {shape}")
    if not (_floats(given) or given.dtype.kind in "iu"):
        raise ValueError(f"the network returned an array of {given.dtype}: expected floating-point numbers")
    return given


def plain(value: Any) -> Any:
    """What JSON does not know: numpy's numbers and arrays, and paths."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError


def document(value: Any, name: str) -> bytes:
    """A JSON document, given as text or as what it says."""
    if isinstance(value, str):
        return text(value, name)
    if not isinstance(value, Mapping):
        refuse(name, value, "a mapping, or the text of a JSON object")
    try:
        return json.dumps(dict(value), default=plain, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        refuse(name, value, "what JSON can say: numbers that are finite, text, lists and mappings")


def _grid(value: Any, name: str) -> Any:
    if isinstance(value, (str, os.PathLike)):
        return os.fsdecode(path(value, name))
    points = numbers(value, name)
    if points.ndim != 1 or not np.isfinite(points).all():
        refuse(name, value, "the name of a grid or file, or a list of finite times")
    return points.tolist()


def _any(value: Any, name: str) -> Any:
    try:
        return json.loads(json.dumps(value, default=plain, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        refuse(name, value, "what JSON can say: a number that is finite, text, a list or a mapping")


def _clip(value: Any, name: str) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if not isinstance(value, Mapping):
        refuse(name, value, "True, False or a mapping, as in {'percentile': 0.995, 'max': 1}")
    return _any(dict(value), name)


def _text(value: Any, name: str) -> str:
    return text(value, name).decode()


def _finite(value: Any, name: str) -> float:
    return number(value, name, finite=True)


def _count(value: Any, name: str) -> int:
    return whole(value, name, U32, 0)


def seed(value: Any, name: str = "seed") -> int:
    """Of the first sample."""
    return whole(value, name, U64)


# What the options of a sampler are; which there are, and what they mean, is the library's.
_OPTIONS: dict[str, Callable[[Any, str], Any]] = {
    "sampler": _text, "steps": _count, "nfe": _count, "time_grid": _grid, "t_start": _finite, "t_end": _finite,
    "denoise": flag, "denoise_time": _text, "rtol": _finite, "atol": _finite, "max_nfe": _count, "error_norm": _text,
    "order": _count, "eta": _finite, "lambda": _finite, "matrix": _text, "lambda_s": _finite, "variant": _text,
    "published": flag, "clip": _clip, "lower_order_final": flag, "encode": flag, "seed": seed,
}  # fmt: skip


def options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a sampler, those that are ``None`` left out."""
    return {name: _OPTIONS.get(name, _any)(value, name) for name, value in given.items() if value is not None}


# What other packages call it.
_SYNONYMS = {
    "num_inference_steps": "nfe", "guidance_scale": "scales", "cfg_scale": "scales", "latents": "init", "x_T": "init",
    "image": "from_image", "mask": "inpaint", "mask_image": "inpaint", "timesteps": "time_grid", "callback": "progress",
    "timeout": "deadline", "precision": "dtype", "return_type": "output", "samples": "n", "count": "n",
}  # fmt: skip


def did_you_mean(name: str, function: Callable[..., Any]) -> str:
    """The nearest of a function's arguments, the options of samplers among them."""
    own = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    known = [own_name for own_name in own if own_name != "self"] + [option for option in _OPTIONS if option not in own]
    parts = name.lower().split("_")
    near = [
        *(_SYNONYMS[key] for key in (name, name.lower()) if _SYNONYMS.get(key) in known),
        *difflib.get_close_matches(name.lower(), known, 1, 0.85),
        *(word for word in known if word in parts),
        *difflib.get_close_matches(name.lower(), known, 1, 0.6),
    ]
    return f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}"


def shape(values: Any, name: str) -> tuple[int, ...]:
    """The sizes of an array."""
    sizes: Any = (values,) if np.ndim(values) == 0 else values
    return tuple(whole(size, name, I64, 0) for size in sizes)


def empty(sizes: tuple[int, ...], kind: np.dtype[Any]) -> Array:
    """An array to write into."""
    from ._abi import OutOfMemory

    try:
        return np.empty(sizes, kind)
    except (MemoryError, ValueError, OverflowError) as e:
        raise OutOfMemory(902, f"an array of {list(sizes)} numbers cannot be made: {e}") from None
