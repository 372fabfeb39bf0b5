import io
import os
import struct
import zlib

import numpy as np
import pytest
from made_files import encode, random_image
from PIL import Image, ImageOps

from ipg_jax.files import read_regular
from ipg_jax.images import ImageOptions, ImageTooLargeError, decode_image, read_image_header


def test_png_is_decoded_exactly():
    pixels = random_image(5, 7)
    decoded = decode_image(encode(pixels))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_of_other_colour_spaces_becomes_rgb(mode):
    pixels = np.full((16, 24, 3), (200, 60, 30), np.uint8)
    decoded = decode_image(encode(pixels, "JPEG", mode=mode))
    expected = np.asarray(Image.fromarray(pixels).convert(mode).convert("RGB"))
    assert decoded.shape == (16, 24, 3)
    assert np.abs(decoded.astype(int) - expected).max() <= 3  # JPEG is lossy


def test_palette_with_transparency_keeps_its_colours():
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=b"\x00\x80\xff")
    expected = [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), expected)


def test_alpha_is_dropped():
    pixels = np.dstack([random_image(4, 6), np.arange(24, dtype=np.uint8).reshape(4, 6)])
    np.testing.assert_array_equal(decode_image(encode(pixels)), pixels[..., :3])


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
@pytest.mark.parametrize(("orientation", "turns"), [(6, -1), (8, 1)])
def test_exif_orientation_goes_by_the_annotated_size(image_format, orientation, turns):
    stored = random_image(16, 24)
    data = encode(stored, image_format, orientation)
    plain = decode_image(encode(stored, image_format))
    oriented = np.rot90(plain, turns)
    np.testing.assert_array_equal(decode_image(data), oriented)
    np.testing.assert_array_equal(decode_image(data, (24, 16)), oriented)
    np.testing.assert_array_equal(decode_image(data, (16, 24)), plain)
    assert read_image_header(data)[:3] == ((16, 24), (24, 16), orientation)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied_or_ignored_in_every_format(image_format, orientation):
    stored = random_image(8, 8)
    plain = decode_image(encode(stored, image_format))
    data = encode(stored, image_format, orientation)
    upright = np.asarray(
        ImageOps.exif_transpose(Image.open(io.BytesIO(encode(plain, "PNG", orientation))))
    )
    for size in (None, (8, 8)):
        for exif, expected in (("auto", upright), ("apply", upright), ("ignore", plain)):
            decoded = decode_image(data, size, ImageOptions(exif=exif))
            np.testing.assert_array_equal(decoded, expected, err_msg=exif)


def test_orientation_by_request_goes_before_the_annotated_size():
    stored = random_image(4, 6)
    data = encode(stored, orientation=6)
    apply, ignore = ImageOptions(exif="apply"), ImageOptions(exif="ignore")
    np.testing.assert_array_equal(decode_image(data, (6, 4), apply), np.rot90(stored, -1))
    np.testing.assert_array_equal(decode_image(data, None, ignore), stored)
    for size, options in (((4, 6), apply), ((6, 4), ignore)):
        with pytest.raises(ValueError, match="annotation says"):
            decode_image(data, size, options)


def test_tags_that_make_no_sense_leave_the_image_as_stored():
    stored = random_image(4, 6)
    for orientation in (0, 9, 300):
        np.testing.assert_array_equal(decode_image(encode(stored, orientation=orientation)), stored)
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "PNG", exif=b"Exif\x00\x00??\x00*\x00\x00\x00\x08")
    np.testing.assert_array_equal(decode_image(file.getvalue()), stored)


def test_errors_say_what_is_wrong(tmp_path):
    data = encode(random_image(64, 64), "JPEG")
    with pytest.raises(ValueError, match="truncated"):
        decode_image(data[: len(data) // 2])
    for read in (decode_image, read_image_header):
        with pytest.raises(ValueError, match="not a readable image, in none of JPEG, PNG"):
            read(b"no image")
    with pytest.raises(ValueError, match=r"64 x 64 pixels .* annotation says 64 x 32"):
        decode_image(data, (64, 32))
    for read in (read_regular, read_image_header):
        with pytest.raises(OSError, match=r"missing\.jpg"):
            read(tmp_path / "missing.jpg")


def test_kinds_of_a_format_that_are_not_read_are_refused_with_the_reason(tmp_path):
    data = bytearray(encode(random_image(8, 8), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12  # bits of a value
    path = tmp_path / "deep.jpg"
    path.write_bytes(data)
    for source in (bytes(data), path):
        with pytest.raises(ValueError, match=r"JPEG file, or one of a kind .*12-bit.* store it"):
            read_image_header(source)


def test_headers_are_read_from_paths(tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(encode(random_image(30, 50), "JPEG", orientation=6))
    assert read_image_header(path)[:3] == ((30, 50), (50, 30), 6)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(OSError, match=r"pipe\.png: it is a named pipe"):
        read_image_header(tmp_path / "pipe.png")


def test_formats_that_start_other_programs_are_not_opened():
    postscript = io.BytesIO()
    Image.fromarray(random_image(4, 6)).save(postscript, "EPS")
    with pytest.raises(ValueError, match="in none of JPEG"):
        read_image_header(postscript.getvalue())


def declared_png(height: int, width: int) -> bytes:
    """A PNG that is sound but for having fewer rows than it declares."""
    data = encode(random_image(2, 2))
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize("side", [1001, 12_000, 60_000])  # Pillow would warn at, and raise at
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_large_images_are_refused_before_they_are_decoded(side):
    options = ImageOptions(max_pixels=1_000_000)
    for read in (decode_image, read_image_header):
        with pytest.raises(
            ImageTooLargeError, match=f"{side**2:,} pixels.*max_image_pixels=1000000"
        ):
            read(declared_png(side, side), options=options)


def test_the_limit_can_be_raised_above_that_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    pixels = random_image(20, 20)
    with pytest.raises(ImageTooLargeError, match="400 pixels"):
        decode_image(encode(pixels), options=ImageOptions(max_pixels=100))
    np.testing.assert_array_equal(
        decode_image(encode(pixels), options=ImageOptions(max_pixels=400)), pixels
    )


def test_images_without_pixels_are_refused():
    with pytest.raises(ValueError, match="not a readable image"):
        read_image_header(declared_png(0, 4))


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("TIFF", {}),
        ("PNG", {}),
        ("PNG", {"default_image": True}),
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("MPO", {"quality": 95}),  # two JPEGs, as cameras write them
    ],
)
def test_of_several_pictures_the_first_is_read(image_format, options):
    first, second = (Image.new("RGB", (16, 8), colour) for colour in ("red", "blue"))
    file = io.BytesIO()
    first.save(file, image_format, save_all=True, append_images=[second], **options)
    assert Image.open(file).n_frames > 1
    pixels = decode_image(file.getvalue()).astype(int)
    assert np.abs(pixels - (255, 0, 0)).max() <= 1
    assert read_image_header(file.getvalue()).stored == (8, 16)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_pixels": 0}, r"config\.data\.max_image_pixels=0"),
        ({"sample_bits": 7}, r"config\.data\.sample_bits=7 .* 8 to 32"),
        ({"exif": "always"}, r"config\.data\.exif is one of auto, apply, ignore, not 'always'"),
    ],
)
def test_options_out_of_range_name_their_field(fields, message):
    with pytest.raises(ValueError, match=message):
        ImageOptions(**fields)
