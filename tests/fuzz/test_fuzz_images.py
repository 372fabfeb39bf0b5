"""Damaged image files: an image of the size that the file declares, or refused with the reason."""

import io
import random
import struct
import time
import zlib

import numpy as np
import pytest
from made_files import encode, random_image
from mutators import limited_memory, mutate_bytes, outcome
from PIL import Image

from ipg_jax.data import ImageRules, decode_image, read_image_header

RULES = ImageRules(sample_bits=16)
SECONDS = 2.0
"""What no image of some kilobytes takes to decode; see `check`."""


def save(pixels: np.ndarray, image_format: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format, **options)
    return file.getvalue()


COLOUR = random_image(9, 14)
DEEP = COLOUR[..., 0].astype(np.uint16) * 257
SOUND = {
    "PNG": encode(COLOUR, "PNG", orientation=6),
    "deep PNG": encode(DEEP, "PNG"),
    "PNG with a palette": encode(COLOUR, "PNG", mode="P"),
    "JPEG": encode(COLOUR, "JPEG", orientation=6),
    "progressive JPEG": save(COLOUR, "JPEG", progressive=True),
    "JPEG of CMYK": encode(COLOUR, "JPEG", mode="CMYK"),
    "TIFF": encode(COLOUR, "TIFF", orientation=6),
    "deflated TIFF": save(DEEP, "TIFF", compression="tiff_adobe_deflate"),
    "TIFF of floats": save(COLOUR[..., 0].astype(np.float32) / 255, "TIFF"),
    "BMP": encode(COLOUR, "BMP"),
    "WebP": encode(COLOUR, "WEBP", orientation=6),
    "lossless WebP": save(COLOUR, "WEBP", lossless=True),
    "animated WebP": save(
        COLOUR, "WEBP", save_all=True, append_images=[Image.fromarray(COLOUR[::-1])]
    ),
    "PGM": b"P5\n14 9\n65535\n" + DEEP.astype(">u2").tobytes(),
    "PPM": b"P6\n14 9\n255\n" + COLOUR.tobytes(),
    "plain PGM": b"P2 14 9 255\n" + b" ".join(b"%d" % v for v in COLOUR[..., 0].ravel()),
}


def check(data: bytes) -> bool:
    """Decodes a file; returns whether it was refused."""
    begin = time.process_time()
    # The header may be sound where the rest is not, but never the other way round.
    header = outcome(lambda: read_image_header(data, RULES), "image")
    pixels = outcome(lambda: decode_image(data, rules=RULES), "image")
    # A decoder's TimeoutError would be taken for damage.
    assert time.process_time() - begin < SECONDS
    if pixels is not None:
        assert pixels.shape == (*RULES.size(header, None), 3)
        assert pixels.dtype == np.uint8
    return pixels is None


@pytest.mark.filterwarnings("ignore")  # of Pillow, which reads on
@pytest.mark.parametrize("kind", SOUND)
def test_bytes(kind):
    assert not check(SOUND[kind])
    with limited_memory():
        refused = sum(check(mutate_bytes(random.Random(seed), SOUND[kind])) for seed in range(45))
    assert refused > 0


def with_checksums(png: bytes, rng: random.Random) -> bytes:
    """Damages the contents of one chunk of a PNG, and gives it the right checksum."""
    chunks, start = [], 8
    while start < len(png):
        (length,) = struct.unpack(">I", png[start : start + 4])
        chunks.append([png[start + 4 : start + 8], png[start + 8 : start + 8 + length]])
        start += 12 + length
    chosen = rng.choice([chunk for chunk in chunks if chunk[1]])
    chosen[1] = mutate_bytes(rng, chosen[1])
    return png[:8] + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [kind for kind in SOUND if "PNG" in kind])
def test_png_with_sound_checksums(kind):
    with limited_memory():
        for seed in range(45):
            check(with_checksums(SOUND[kind], random.Random(seed)))
