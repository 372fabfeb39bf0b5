"""Damaged image files: an image of the size that the file declares, or refused with the reason."""

import functools
import io
import random
import struct
import time
import zlib

import numpy as np
import pytest
from made_files import encode, random_image
from made_tiff import tiff, tiff_of
from mutators import limited_memory, mutate_bytes, outcome
from PIL import Image

from ipg_jax.images import ImageOptions, decode_image, read_image_header

OPTIONS = ImageOptions(sample_bits=16)
SECONDS = 2.0
"""What no image of some kilobytes takes to decode; see `check`."""


def save(pixels: np.ndarray, image_format: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format, **options)
    return file.getvalue()


COLOUR = random_image(9, 14)
DEEP = COLOUR[..., 0].astype(np.uint16) * 257
ANIMATED = {"save_all": True, "append_images": [Image.fromarray(COLOUR[::-1])]}
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
    "TIFF of unsigned 32 bits": tiff_of(DEEP.astype(np.uint32)),
    "TIFF of 12 bits": tiff(bytes(range(9 * 21)), (9, 14), 12),
    "TIFF of 1 bit": tiff(bytes(range(9 * 2)), (9, 14), 1, photometric=0),
    "TIFF of planes": tiff_of(COLOUR, photometric=2, planes=True),
    "TIFF of CMYK": tiff_of(COLOUR[:, :12].reshape(9, 9, 4), photometric=5),
    "TIFF with a palette and alpha": tiff_of(
        COLOUR[..., :2], photometric=3, extra_samples=[2], palette=[*range(0, 65536, 256)] * 3
    ),
    "TIFF multiplied by alpha": tiff_of(
        COLOUR[:, :12].reshape(9, 9, 4), photometric=2, extra_samples=[1], deflated=True
    ),
    "TIFF of several pages": save(COLOUR, "TIFF", **ANIMATED),
    "BMP": encode(COLOUR, "BMP"),
    "BMP of 1 bit": encode(COLOUR, "BMP", mode="1"),
    "GIF": save(COLOUR, "GIF", **ANIMATED),
    "animated PNG": save(COLOUR, "PNG", default_image=True, **ANIMATED),
    "MPO": save(COLOUR, "MPO", **ANIMATED),
    "JPEG 2000": save(COLOUR, "JPEG2000"),
    "WebP": encode(COLOUR, "WEBP", orientation=6),
    "lossless WebP": save(COLOUR, "WEBP", lossless=True),
    "animated WebP": save(COLOUR, "WEBP", **ANIMATED),
    "PGM": b"P5\n14 9\n65535\n" + DEEP.astype(">u2").tobytes(),
    "PPM": b"P6\n14 9\n255\n" + COLOUR.tobytes(),
    "PFM": b"Pf\n14 9\n-1.0\n" + (DEEP / np.float32(65535)).astype("<f4").tobytes(),
    "plain PGM": b"P2 14 9 255\n" + b" ".join(b"%d" % v for v in COLOUR[..., 0].ravel()),
}


def check(data: bytes) -> bool:
    """Decodes a file; returns whether it was refused."""
    begin = time.process_time()
    # The header may be sound where the rest is not, but never the other way round.
    header = outcome(lambda: read_image_header(data, OPTIONS), "image")
    pixels = outcome(lambda: decode_image(data, options=OPTIONS), "image")
    # A decoder's TimeoutError would be taken for damage.
    assert time.process_time() - begin < SECONDS
    if pixels is not None:
        assert pixels.shape == (*OPTIONS.size(header, None), 3)
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


CHANNELS = {0: 1, 1: 1, 2: 3, 5: 4}
"""Of the colours of a photometric interpretation: grey from white, grey from black, RGB, CMYK."""


def random_tiff(rng: random.Random) -> tuple[int, bytes, np.ndarray | None]:
    """Bits of a value, a TIFF of any kind, and its picture by TIFF 6.0; None if it can be none."""
    kind = np.dtype(rng.choice(("u1", "u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")))
    photometric = rng.choice(tuple(CHANNELS))
    extra = rng.choice(([], [], [0], [1], [2]))
    channels = CHANNELS[photometric] + len(extra)
    shape = (4, 5, channels) if channels > 1 else (4, 5)
    generator = np.random.default_rng(rng.randrange(2**32))
    if kind.kind == "f":
        values = generator.uniform(0, 1, shape).astype(kind)
        scaled = values.astype(np.float64) * 255
    else:
        limits = np.iinfo(kind)
        low = limits.min if rng.random() < 0.3 else 0
        values = generator.integers(low, limits.max, shape, dtype=kind, endpoint=True)
        scaled = values >> (8 * kind.itemsize - 8)
    data = tiff_of(
        values,
        photometric=photometric,
        extra_samples=extra,
        order=rng.choice("<>"),
        deflated=rng.random() < 0.5,
        planes=channels > 1 and rng.random() < 0.3,
        **({"sample_format": None} if kind.kind == "u" and rng.random() < 0.3 else {}),
    )
    bits = min(32, 8 * kind.itemsize)
    if (values < 0).any():
        return bits, data, None
    scaled = scaled.reshape(4, 5, channels).astype(np.float64)
    colours = scaled[..., : CHANNELS[photometric]]
    if extra == [1]:
        alpha = np.where(scaled[..., -1:] > 0, scaled[..., -1:], np.nan)  # leaves no colour
        colours = np.minimum(255, colours * 255 / alpha)
    match photometric:
        case 0:
            colours = 255 - colours
        case 5:
            colours = (255 - colours[..., :3]) * (255 - colours[..., 3:]) / 255
    return bits, data, np.broadcast_to(colours, (4, 5, 3))


def test_tiffs_of_any_kind_are_read_rightly_or_refused():
    read = 0
    for seed in range(300):
        bits, data, expected = random_tiff(random.Random(seed))
        read_tiff = functools.partial(decode_image, data, options=ImageOptions(sample_bits=bits))
        pixels = outcome(read_tiff, "image")
        if pixels is not None:
            assert expected is not None, f"seed {seed}"
            difference = np.nanmax(np.abs(pixels - expected))
            assert difference <= 1.01, f"seed {seed}: off by {difference}"
            read += 1
    assert 30 < read < 200
