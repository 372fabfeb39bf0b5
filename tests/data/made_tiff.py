"""TIFF files of any kind, written value by value and not by the library that reads them."""

from __future__ import annotations

import struct
import types
import zlib
from collections.abc import Mapping, Sequence

import numpy as np


def tiff(
    strips: bytes | Sequence[bytes],
    shape: tuple[int, ...],
    bits: int,
    *,
    photometric: int | None = 1,
    order: str = "<",
    sample_format: int | None = None,
    extra_samples: Sequence[int] = (),
    planes: bool = False,
    palette: Sequence[int] = (),
    deflated: bool = False,
    tags: Mapping[int, tuple[str, Sequence[float]]] = types.MappingProxyType({}),
) -> bytes:
    """Returns a file of one picture.

    Args:
      strips: the packed values, of each plane for itself if there are several.
      shape: height, width and, if there are several, channels.
      bits: of a value.
      photometric: 0 white is zero, 1 black is zero, 2 RGB, 3 palette, 5 CMYK, 8 CIE L*a*b*; None
        says nothing.
      order: `<` or `>`.
      sample_format: 1 unsigned, 2 signed, 3 floating point; None says nothing.
      extra_samples: of each channel beyond the colours: 0 unspecified, 1 alpha with which colours
        are multiplied, 2 alpha.
      planes: whether each channel is a plane of its own.
      palette: all reds, greens and blues, 0 to 65535.
      deflated: whether strips are compressed.
      tags: further ones, the kind `H`, `I` or `d` and the values of each.
    """
    height, width, *rest = shape
    channels = rest[0] if rest else 1
    parts = [strips] if isinstance(strips, bytes) else list(strips)
    if deflated:
        parts = [zlib.compress(part) for part in parts]
    optional = {
        262: [] if photometric is None else [photometric],
        320: palette,
        338: extra_samples,
        339: [] if sample_format is None else [sample_format] * channels,
    }
    values_of = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * channels),
        259: ("H", [8 if deflated else 1]),
        277: ("H", [channels]),
        278: ("I", [height]),
        279: ("I", [len(part) for part in parts]),
        284: ("H", [2 if planes else 1]),
        **{tag: ("H", values) for tag, values in optional.items() if len(values)},
        **tags,
    }
    start = 8 + 2 + 12 * (len(values_of) + 1) + 4
    body = b"".join(parts)
    values_of[273] = ("I", [start + sum(map(len, parts[:i])) for i in range(len(parts))])
    directory = struct.pack(f"{order}H", len(values_of))
    for tag, (kind, values) in sorted(values_of.items()):
        packed = struct.pack(f"{order}{len(values)}{kind}", *values)
        directory += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4, "d": 12}[kind], len(values))
        if len(packed) <= 4:
            directory += packed.ljust(4, b"\x00")
        else:
            directory += struct.pack(f"{order}I", start + len(body))
            body += packed
    magic = {"<": b"II*\x00", ">": b"MM\x00*"}[order]
    return magic + struct.pack(f"{order}I", 8) + directory + bytes(4) + body


def tiff_of(values: np.ndarray, **options) -> bytes:
    """A file of these values as their type says: `u1`, `i2`, `f4` and others."""
    order = options.setdefault("order", "<")
    typed = values.astype(values.dtype.newbyteorder(order))
    strips = (
        [np.ascontiguousarray(typed[..., i]).tobytes() for i in range(values.shape[2])]
        if options.get("planes")
        else typed.tobytes()
    )
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    return tiff(
        strips, values.shape, 8 * values.itemsize, **{"sample_format": sample_format, **options}
    )
