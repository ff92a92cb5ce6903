from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustreg.report.png import data_uri, encode_png, image_pixels, perturbation_pixels


def decode(png: bytes) -> np.ndarray:
    """A reader for just the files that the encoder writes: 8 bit, no filter, no interlace."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, rest) == (8, [0, 0, 0])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert (rows[:, 0] == 0).all()
    return rows[:, 1:].reshape((height, width) if colour == 0 else (height, width, 3))


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.booleans(), st.integers(0, 2**31))
def test_decodes_to_the_pixels(height: int, width: int, rgb: bool, seed: int) -> None:
    shape = (height, width, 3) if rgb else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(decode(encode_png(pixels)), pixels)


def test_pixels_need_not_be_contiguous() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(3, 4, 4).transpose(1, 2, 0)
    assert np.array_equal(decode(encode_png(pixels)), pixels)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((2, 2), np.float32),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 3), np.uint8),
    ],
)
def test_other_pixels_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 pixels"):
        encode_png(pixels)


def test_data_uri_holds_the_file() -> None:
    pixels = np.eye(3, dtype=np.uint8)
    kind, _, payload = data_uri(pixels).partition(",")
    assert kind == "data:image/png;base64"
    assert np.array_equal(decode(base64.b64decode(payload)), pixels)


def test_images_are_scaled_and_clipped() -> None:
    grey = image_pixels(np.array([[[-1.0, 0.0], [0.5, 2.0]]], np.float32))
    assert grey.tolist() == [[0, 0], [128, 255]]
    assert image_pixels(np.zeros((3, 4, 5), np.float32)).shape == (4, 5, 3)


def test_perturbation_colours_are_symmetric_about_zero() -> None:
    colours = perturbation_pixels(np.array([[[-0.2, 0.0, 0.2]]], np.float32))[0].astype(int)
    blue, grey, red = colours
    assert np.ptp(grey) == 0
    assert blue[2] > blue[0]
    assert red[0] > red[2]
    # The scale is the largest magnitude, so a smaller change is paler and its size in pixels does not matter.
    paler = perturbation_pixels(np.array([[[0.01, 0.02]]], np.float32))[0].astype(int)
    assert np.array_equal(paler[1], red)
    assert paler[0, 1] > paler[1, 1]


def test_the_strongest_channel_is_drawn() -> None:
    perturbation = np.array([0.1, -0.3, 0.2], np.float32).reshape(3, 1, 1)
    alone = np.array([-0.3], np.float32).reshape(1, 1, 1)
    assert np.array_equal(perturbation_pixels(perturbation), perturbation_pixels(alone))


def test_no_change_and_not_a_number_are_grey() -> None:
    still = perturbation_pixels(np.zeros((1, 2, 2), np.float32))
    assert np.array_equal(perturbation_pixels(np.full((1, 2, 2), np.nan, np.float32)), still)
    assert len(np.unique(still)) == 1
