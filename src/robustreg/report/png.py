"""PNG images as data URIs, written with zlib alone, and the diverging colours of perturbations."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Blue for lowered pixels, red for raised ones, a light grey for untouched ones. Both halves have about the
# same lightness at the same distance from zero, so neither sign looks stronger (the RdBu scheme of
# ColorBrewer).
_POSITIONS = (-1.0, -0.5, 0.0, 0.5, 1.0)
_COLOURS = ((33, 102, 172), (103, 169, 207), (247, 247, 247), (239, 138, 98), (178, 24, 43))


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """The PNG file of 8-bit pixels, [H, W] for greyscale or [H, W, 3] for RGB.

    Raises ValueError for another type or shape.
    """
    rgb = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or pixels.size == 0 or not (pixels.ndim == 2 or rgb):
        raise ValueError(
            f"a PNG needs non-empty uint8 pixels [H, W] or [H, W, 3], not {pixels.dtype} {list(pixels.shape)}"
        )
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    # Every row starts with the number of its filter; 0 means the bytes are stored as they are.
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if rgb else 0, 0, 0, 0)
    return (
        SIGNATURE
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(filtered.tobytes(), 9))
        + _chunk(b"IEND", b"")
    )


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """The image as a `data:` address for an <img>, which keeps the page in one file."""
    return "data:image/png;base64," + base64.b64encode(encode_png(pixels)).decode("ascii")


def image_pixels(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Image [C, H, W], C in {1, 3}, pixel scale 0-1, as 8-bit pixels; values outside 0-1 are clipped."""
    scaled = np.round(np.clip(np.nan_to_num(image), 0.0, 1.0) * 255.0).astype(np.uint8)
    return scaled[0] if scaled.shape[0] == 1 else np.ascontiguousarray(scaled.transpose(1, 2, 0))


def perturbation_pixels(perturbation: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Perturbation [C, H, W] in diverging colours, symmetric about 0, that span its own largest magnitude.

    A colour image has three signed numbers a pixel; the largest of them in magnitude is drawn, because their
    mean could cancel to nothing.
    """
    finite = np.nan_to_num(perturbation)
    strongest = np.abs(finite).argmax(axis=0)[None]
    signed = np.take_along_axis(finite, strongest, axis=0)[0]
    limit = float(np.abs(signed).max())
    level = signed / limit if limit > 0.0 else signed
    channels = [np.interp(level, _POSITIONS, [colour[i] for colour in _COLOURS]) for i in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
