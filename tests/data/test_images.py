import io

import numpy as np
import pytest
from made_files import encode, random_image
from PIL import Image

from ipg_jax.data import decode_image, read_file, read_image_size


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


def test_sixteen_bit_keeps_the_upper_byte():
    grey = np.array([[0, 255, 256, 40000, 65535]], np.uint16)
    expected = np.repeat((grey >> 8)[..., None], 3, axis=-1)
    np.testing.assert_array_equal(decode_image(encode(grey)), expected)


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
    assert read_image_size(data) == ((16, 24), (24, 16))


def test_half_turn_is_ignored_for_annotated_images():
    stored = random_image(4, 6)
    data = encode(stored, orientation=3)
    np.testing.assert_array_equal(decode_image(data), np.rot90(stored, 2))
    np.testing.assert_array_equal(decode_image(data, (4, 6)), stored)
    assert read_image_size(data) == ((4, 6), (4, 6))


def test_orientation_of_sixteen_bit_images_is_applied():
    grey = (np.arange(6, dtype=np.uint16) * 256).reshape(2, 3)
    expected = np.repeat(np.rot90(grey >> 8, -1)[..., None], 3, axis=-1)
    np.testing.assert_array_equal(decode_image(encode(grey, orientation=6)), expected)


def test_errors_say_what_is_wrong(tmp_path):
    data = encode(random_image(64, 64), "JPEG")
    with pytest.raises(ValueError, match="truncated"):
        decode_image(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cannot identify"):
        decode_image(b"no image")
    with pytest.raises(ValueError, match="not a readable image"):
        read_image_size(b"no image")
    with pytest.raises(ValueError, match=r"64 x 64 pixels .* annotation says 64 x 32"):
        decode_image(data, (64, 32))
    for read in (read_file, read_image_size):
        with pytest.raises(OSError, match=r"missing\.jpg"):
            read(tmp_path / "missing.jpg")


def test_sizes_and_bytes_are_read_from_paths(tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(encode(random_image(30, 50), "JPEG", orientation=6))
    assert read_image_size(path) == ((30, 50), (50, 30))
    assert read_file(path) == path.read_bytes()
