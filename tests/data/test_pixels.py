"""What the values of image files of any depth become."""

import io
import struct

import numpy as np
import pytest
from made_files import encode
from PIL import Image

from ipg_jax.data import ImageRules, decode_image, read_image_header
from ipg_jax.data.pixels import UnknownRangeError

GREY = np.array([[0, 1, 256, 4095], [600, 40000, 65535, 0]], np.uint16)


def save(values: np.ndarray, image_format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, image_format)
    return file.getvalue()


def tiff(samples: bytes, shape: tuple[int, ...], bits: int, photometric: int = 1, order: str = "<"):
    """A TIFF of one strip; `shape` is height, width and, for colour, 3."""
    height, width, *colours = shape
    channels = colours[0] if colours else 1
    values_at = 8 + 2 + 8 * 12 + 4
    several = channels > 1
    entries = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, channels, values_at if several else bits),
        262: (3, 1, photometric),
        273: (4, 1, values_at + 2 * channels * several),
        277: (3, 1, channels),
        278: (4, 1, height),
        279: (4, 1, len(samples)),
    }
    directory = struct.pack(f"{order}H", len(entries))
    for tag, (kind, count, value) in entries.items():
        inline = kind == 3 and count == 1
        packed = struct.pack(
            f"{order}HH" if inline else f"{order}I", *([value, 0] if inline else [value])
        )
        directory += struct.pack(f"{order}HHI", tag, kind, count) + packed
    extra = struct.pack(f"{order}{channels}H", *[bits] * channels) if several else b""
    start = {"<": b"II*\x00", ">": b"MM\x00*"}[order] + struct.pack(f"{order}I", 8)
    return start + directory + bytes(4) + extra + samples


def grey_of(data: bytes, **rules) -> np.ndarray:
    pixels = decode_image(data, rules=ImageRules(**rules))
    assert (pixels[..., :1] == pixels).all()
    return pixels[..., 0]


UNDECLARED = {
    "PNG": encode(GREY),
    "TIFF": save(GREY, "TIFF"),
    "big endian": tiff(GREY.astype(">u2").tobytes(), GREY.shape, 16, order=">"),
    "32 bits": save(GREY.astype(np.int32), "TIFF"),
}
"""The same grey values in files that do not say how many of their bits are used."""

COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
COLOURS = {
    "TIFF": tiff(COLOUR.tobytes(), COLOUR.shape, 16, photometric=2),
    "big endian": tiff(COLOUR.astype(">u2").tobytes(), COLOUR.shape, 16, photometric=2, order=">"),
}


@pytest.mark.parametrize("kind", UNDECLARED)
def test_deep_integers_need_to_be_told_how_many_bits_are_used(kind):
    for read in (read_image_header, decode_image):
        with pytest.raises(UnknownRangeError, match=r"does not say .*config\.data\.sample_bits"):
            read(UNDECLARED[kind])
    np.testing.assert_array_equal(grey_of(UNDECLARED[kind], sample_bits=16), GREY >> 8)
    with pytest.raises(ValueError, match=r"from 0 to 65535, and 12 bits .*0 to 4095"):
        decode_image(UNDECLARED[kind], rules=ImageRules(sample_bits=12))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sensors_of_any_depth_keep_their_upper_bits(bits, image_format):
    values = np.array([[0, 1, 2 ** (bits - 1), 2**bits - 1]], np.uint16)
    expected = [[0, 1 >> (bits - 8), 128, 255]]
    np.testing.assert_array_equal(grey_of(save(values, image_format), sample_bits=bits), expected)


@pytest.mark.parametrize("kind", COLOURS)
def test_deep_colours_are_those_of_the_whole_range(kind):
    with pytest.raises(UnknownRangeError, match="sample_bits"):
        decode_image(COLOURS[kind])
    with pytest.raises(ValueError, match=r"sample_bits=12: only grey images and colours of the"):
        decode_image(COLOURS[kind], rules=ImageRules(sample_bits=12))
    pixels = decode_image(COLOURS[kind], rules=ImageRules(sample_bits=16))
    np.testing.assert_array_equal(pixels, COLOUR >> 8)


def test_a_tiff_of_twelve_bits_says_so():
    packed = bytes([0xAB, 0xCD, 0xEF])  # 0xABC and 0xDEF
    assert grey_of(tiff(packed, (1, 2), 12)).tolist() == [[0xAB, 0xDE]]


@pytest.mark.parametrize("largest", [1023, 4095, 65535])
def test_a_grey_map_says_what_white_is(largest):
    values = np.array([0, largest // 4, largest], ">u2")
    data = b"P5 3 1 %d\n" % largest + values.tobytes()
    np.testing.assert_allclose(grey_of(data), [[0, 64, 255]], atol=1)
    plain = b"P2 3 1 %d\n" % largest + b" ".join(b"%d" % v for v in values.tolist())
    np.testing.assert_array_equal(grey_of(plain), grey_of(data))


def test_jpeg_2000_says_its_depth():
    np.testing.assert_array_equal(grey_of(save(GREY, "JPEG2000")), GREY >> 8)


def test_white_may_be_zero():
    values = np.array([[0, 4095]], np.uint16)
    data = tiff(values.tobytes(), values.shape, 16, photometric=0)
    assert grey_of(data, sample_bits=12).tolist() == [[255, 0]]
    floats = np.float32([[0, 1]])
    assert grey_of(tiff_of_floats(floats, photometric=0)).tolist() == [[255, 0]]


def tiff_of_floats(values: np.ndarray, photometric: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF", tiffinfo={262: photometric})
    return file.getvalue()


def test_floats_from_zero_to_one_fill_the_range():
    values = np.float32([[0, 0.5, 1], [1 / 255, 0.2, 0.999]])
    np.testing.assert_array_equal(
        grey_of(save(values, "TIFF")), np.floor(values * 255 + 0.5).astype(np.uint8)
    )


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([0, 254.5], "from 0 to 254.5"),
        ([-0.25, 1], "from -0.25 to 1"),
        ([0, np.nan], "nan"),
        ([0, np.inf], "to inf"),
    ],
)
def test_floats_beyond_are_refused_with_their_range(values, named):
    data = save(np.float32([values]), "TIFF")
    read_image_header(data)  # says nothing of the values
    with pytest.raises(ValueError, match=f"floating-point values run .*{named}.* from 0 to 1"):
        decode_image(data)


def test_negative_integers_are_refused():
    data = save(np.array([[-1, 5]], np.int32), "TIFF")
    with pytest.raises(ValueError, match="values run from -1 to 5"):
        decode_image(data, rules=ImageRules(sample_bits=16))


def test_bytes_are_taken_as_they_are_whatever_the_rules():
    grey = np.array([[0, 7, 255]], np.uint8)
    for rules in ({}, {"sample_bits": 12}):
        for image_format in ("PNG", "TIFF", "BMP", "PPM"):
            np.testing.assert_array_equal(grey_of(save(grey, image_format), **rules), grey)
    black_and_white = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    file = io.BytesIO()
    black_and_white.save(file, "PNG")
    assert grey_of(file.getvalue()).tolist() == [[0, 255]]
