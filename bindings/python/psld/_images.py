"""Samples as images of Pillow, which is optional."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import _arguments
from ._abi import ArgumentError

if TYPE_CHECKING:
    from PIL import Image


def samples_to_pil(samples: npt.ArrayLike, *, range: tuple[float, float] = (-1.0, 1.0)) -> list[Image.Image]:
    """Samples, ``[n, C, H, W]`` of one channel or three, as images: the pixels that ``psld sample --out FOLDER/`` writes. Of
    uint8 they are levels, and stay as they are.

    ``range`` is the data's (:meth:`psld.Model.images` knows it). Needs Pillow.

    >>> image, = psld.samples_to_pil(np.full((1, 3, 2, 4), 0.5))
    >>> image.size, image.getpixel((0, 0))
    ((4, 2), (191, 191, 191))
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("images need Pillow: pip install pillow") from None
    given = _arguments.array(samples, "samples")
    if given.ndim != 4 or given.shape[1] not in (1, 3):
        raise ArgumentError(100, f"samples of shape {given.shape}: expected [n, 1, H, W] or [n, 3, H, W]")
    low, high = _arguments.pair(range, "range")
    if not low < high:
        raise ArgumentError(100, f"range = {range}: expected two ascending numbers")
    levels = given
    if given.dtype != np.uint8:
        values = _arguments.image(given, "samples", lambda: (low, high)).astype(np.float64)
        # Truncated, with the library's allowance: images of eight bits stay as they are.
        levels = np.clip(255.0 * (values - low) / (high - low) + 1e-4, 0.0, 255.0).astype(np.uint8)
    pixels: Any = np.ascontiguousarray(levels[:, 0] if levels.shape[1] == 1 else levels.transpose(0, 2, 3, 1))
    return [Image.fromarray(image) for image in pixels]
