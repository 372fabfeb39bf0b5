"""What the values of image files of any depth become."""

import io

import numpy as np
import pytest
from made_files import encode
from made_tiff import tiff, tiff_of
from PIL import Image

from ipg_jax.images import ImageOptions, UnknownRangeError, decode_image, read_image_header

GREY = np.array([[0, 1, 256, 4095], [600, 40000, 65535, 0]], np.uint16)


def save(values: np.ndarray, image_format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, image_format)
    return file.getvalue()


def grey_of(data: bytes, **options) -> np.ndarray:
    pixels = decode_image(data, options=ImageOptions(**options))
    assert (pixels[..., :1] == pixels).all()
    return pixels[..., 0]


UNDECLARED = {
    "PNG": encode(GREY),
    "TIFF": save(GREY, "TIFF"),
    "big endian": tiff_of(GREY, order=">"),
    "big endian, compressed": tiff_of(GREY, order=">", deflated=True),
    "32 bits": save(GREY.astype(np.int32), "TIFF"),
    "32 bits, unsigned": tiff_of(GREY.astype(np.uint32)),
    "32 bits, unsigned, compressed": tiff_of(GREY.astype(np.uint32), deflated=True),
    "32 bits, big endian": tiff_of(GREY.astype(np.int32), order=">"),
}
"""The same grey values in files that do not say how many of their bits are used."""

COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
COLOURS = {
    "TIFF": tiff_of(COLOUR, photometric=2),
    "compressed": tiff_of(COLOUR, photometric=2, deflated=True),
    "big endian": tiff_of(COLOUR, photometric=2, order=">"),
    "big endian, compressed": tiff_of(COLOUR, photometric=2, order=">", deflated=True),
}


@pytest.mark.parametrize("kind", UNDECLARED)
def test_deep_integers_need_to_be_told_how_many_bits_are_used(kind):
    for read in (read_image_header, decode_image):
        with pytest.raises(UnknownRangeError, match=r"does not say .*config\.data\.sample_bits"):
            read(UNDECLARED[kind])
    np.testing.assert_array_equal(grey_of(UNDECLARED[kind], sample_bits=16), GREY >> 8)
    with pytest.raises(ValueError, match=r"from 0 to 65535, and 12 bits .*0 to 4095"):
        decode_image(UNDECLARED[kind], options=ImageOptions(sample_bits=12))


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
        decode_image(COLOURS[kind], options=ImageOptions(sample_bits=12))
    pixels = decode_image(COLOURS[kind], options=ImageOptions(sample_bits=16))
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
    for values, bits in (
        (np.uint16([[0, 4095]]), 12),
        (np.uint8([[0, 255]]), None),
        (np.float32([[0, 1]]), None),
    ):
        data = tiff_of(values, photometric=0)
        assert grey_of(data, sample_bits=bits).tolist() == [[255, 0]]
    with pytest.raises(ValueError, match=r"does not say whether 0 stands for black or for white"):
        read_image_header(tiff_of(np.uint8([[0, 255]]), photometric=None))


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
        decode_image(data, options=ImageOptions(sample_bits=16))


def test_unsigned_integers_use_their_uppermost_bit():
    values = np.uint32([[0, 2**24, 2**31, 2**32 - 1]])
    assert grey_of(tiff_of(values), sample_bits=32).tolist() == [[0, 1, 128, 255]]
    with pytest.raises(ValueError, match=r"from 0 to 4294967295, and 16 bits"):
        decode_image(tiff_of(values), options=ImageOptions(sample_bits=16))


def test_few_bits_fill_the_range():
    for bits, packed, expected in (
        (1, 0b10100000, [255, 0, 255]),
        (2, 0b00011110, [0, 85, 255]),
        (4, 0x0F, [0, 255]),
    ):
        shape = (1, len(expected))
        assert grey_of(tiff(bytes([packed]), shape, bits)).tolist() == [expected]
        inverted = tiff(bytes([packed]), shape, bits, photometric=0)
        assert grey_of(inverted).tolist() == [[255 - value for value in expected]]


SMALL = np.uint8([[[100, 50, 20], [50, 60, 70]]])
ALPHA = np.dstack([SMALL, [[128, 255]]]).astype(np.uint8)
WIDE = SMALL.astype(np.uint16) * 257
PALETTE = [*(0, 257 * 100, *[0] * 254), *(0, 257 * 50, *[0] * 254), *(0, 257 * 20, *[0] * 254)]
INK = np.uint8([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(tiff_of(ALPHA, photometric=2, extra_samples=[2]), SMALL, id="alpha"),
        pytest.param(
            tiff_of(ALPHA, photometric=2, extra_samples=[0]), SMALL, id="a fourth channel"
        ),
        pytest.param(
            tiff_of(ALPHA, photometric=2, extra_samples=[1]),
            [[[100 * 255 // 128, 50 * 255 // 128, 20 * 255 // 128], [50, 60, 70]]],
            id="multiplied by alpha",
        ),
        pytest.param(
            tiff_of(ALPHA[..., 2:], extra_samples=[1]),
            [[[20 * 255 // 128] * 3, [70] * 3]],
            id="grey multiplied by alpha",
        ),
        pytest.param(tiff_of(SMALL, photometric=2, planes=True), SMALL, id="planes"),
        pytest.param(
            tiff(
                bytes([1, 9, 0, 9]), (1, 2, 2), 8, photometric=3, extra_samples=[2], palette=PALETTE
            ),
            [[[100, 50, 20], [0, 0, 0]]],
            id="palette with alpha",
        ),
        pytest.param(tiff_of(INK, photometric=5), [[[255] * 3, [0, 255, 255], [0] * 3]], id="CMYK"),
        pytest.param(
            tiff_of(INK * np.uint16(257), photometric=5),
            [[[255] * 3, [0, 255, 255], [0] * 3]],
            id="CMYK of 16 bits",
        ),
    ],
)
def test_colours_of_every_kind_of_tiff(data, expected):
    np.testing.assert_array_equal(
        decode_image(data, options=ImageOptions(sample_bits=16)), expected
    )


GEO = {
    33550: ("d", [0.5, 0.5, 0.0]),  # size of a pixel in metres
    33922: ("d", [0.0, 0.0, 0.0, 440720.0, 3751320.0, 0.0]),  # where pixel (0, 0) lies
    34735: ("H", [1, 1, 0, 1, 3072, 0, 1, 32611]),  # UTM zone 11N
}
BANDS = np.dstack([SMALL, *[SMALL[..., :1]] * 3]).astype(np.uint8)
"""Red, green, blue and three bands more."""


@pytest.mark.parametrize("bands", [3, 4, 5, 6])
def test_a_geotiff_is_its_pixels_and_of_many_bands_the_first_three_are_read(bands):
    extra = [0] * (bands - 3)
    data = tiff_of(BANDS[..., :bands], photometric=2, extra_samples=extra, tags=GEO)
    np.testing.assert_array_equal(decode_image(data), SMALL)
    grey = tiff_of(GREY, tags=GEO)
    np.testing.assert_array_equal(grey_of(grey, sample_bits=16), GREY >> 8)


GREY_FLOATS = np.float32([[0, 0.5, 1]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(tiff_of(np.int8([[-1, 5]])), "signed integers of 8 bits", id="int8"),
        pytest.param(tiff_of(GREY_FLOATS.astype("f2")), "kind that is not read", id="float16"),
        pytest.param(tiff_of(GREY_FLOATS.astype("f8")), "kind that is not read", id="float64"),
        pytest.param(tiff_of(np.uint64([[0, 9]])), "kind that is not read", id="uint64"),
        pytest.param(
            tiff_of(SMALL.astype("f4"), photometric=2), "kind that is not read", id="float colours"
        ),
        pytest.param(
            tiff_of(SMALL.astype("i2"), photometric=2), "kind that is not read", id="signed colours"
        ),
        *(
            pytest.param(
                tiff_of(values, order=">", deflated=True),
                "big-endian",
                id=f"compressed {values.dtype}",
            )
            for values in (GREY_FLOATS, np.int16([[0, 9]]), np.int32([[0, 9]]))
        ),
        pytest.param(tiff_of(WIDE, photometric=2, planes=True), "planes", id="planes of 16 bits"),
        pytest.param(
            tiff_of(BANDS, extra_samples=[0] * 5), "as grey or RGB of 8 bits", id="bands, none red"
        ),
        pytest.param(tiff_of(SMALL, photometric=8, planes=True), "planes", id="planes of L*a*b*"),
        pytest.param(
            tiff_of(ALPHA[..., 2:], extra_samples=[2], planes=True),
            "planes",
            id="planes with alpha",
        ),
        pytest.param(
            tiff(bytes([1, 0]), (1, 2), 8, photometric=3, palette=[v // 257 for v in PALETTE]),
            "palette has no value above 100 of 65535",
            id="palette of 8 bits",
        ),
    ],
)
def test_kinds_of_tiff_that_would_be_read_wrongly_are_refused(data, message):
    for read in (read_image_header, decode_image):
        with pytest.raises(ValueError, match=message):
            read(data, options=ImageOptions(sample_bits=16))


def test_bytes_are_taken_as_they_are_whatever_the_options():
    grey = np.array([[0, 7, 255]], np.uint8)
    for options in ({}, {"sample_bits": 12}):
        for image_format in ("PNG", "TIFF", "BMP", "PPM"):
            np.testing.assert_array_equal(grey_of(save(grey, image_format), **options), grey)
    black_and_white = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    file = io.BytesIO()
    black_and_white.save(file, "PNG")
    assert grey_of(file.getvalue()).tolist() == [[0, 255]]
