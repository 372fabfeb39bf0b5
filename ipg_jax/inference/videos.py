"""Videos as streams of frames, by PyAV (`pip install "ipg-jax[video]"`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import UInt8

from ipg_jax.files import check_regular, local_path
from ipg_jax.text import shown
from ipg_jax.types import Size

_CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mp4",
    ".3gp": "mp4",
    ".avi": "avi",
    ".mkv": "matroska",
    ".webm": "matroska",
    ".mpg": "mpeg",
    ".mpeg": "mpeg",
    ".mts": "mpegts",
    ".m2ts": "mpegts",
    ".wmv": "asf",
}
"""FFmpeg's reader for each suffix. Left to guess, it would also take playlists, which name other
files and addresses."""

VIDEO_SUFFIXES = tuple(_CONTAINERS)
"""What the names of video files end in, in small letters."""

_COMPLETE = 0.9
"""Share of the declared frames below which a video is taken for cut off. Declared durations are
those of the sound, too, and frame rates are means."""


class UnreadableVideoError(ValueError):
    """A video that cannot be read, or not to its end; the message says why."""


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
      pixels: RGB, upright.
      time: since the first frame, in units of `Video.time_base`; later than the frame before.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    time: int


def is_video(path: epath.PathLike) -> bool:
    """Returns whether a file is a video, by its name."""
    return os.path.splitext(os.fspath(path))[1].lower() in VIDEO_SUFFIXES


class Video:
    """The first video stream of a file, one frame at a time; its context holds the file open.

    Attributes:
      rate: frames a second, on average.
      time_base: of the frames' times, in seconds.
      length: how many frames there are, by what the file declares; None if it does not.
    """

    def __init__(self, path: epath.PathLike):
        """Opens the file.

        Args:
          path: local or `gs://`.

        Raises:
          UnreadableVideoError: PyAV is not installed, or the file cannot be read or is no video.
        """
        av = _av()
        self._errors = (av.error.FFmpegError, OSError)
        with contextlib.ExitStack() as stack:
            try:
                check_regular(path)
                file = stack.enter_context(epath.Path(local_path(path) or path).open("rb"))
                suffix = os.path.splitext(os.fspath(path))[1].lower()
                container = stack.enter_context(
                    av.open(file, format=_CONTAINERS[suffix], metadata_errors="replace")
                )
            except self._errors as error:
                raise UnreadableVideoError(f"not a readable video: {_reason(error)}") from error
            if not container.streams.video:
                raise UnreadableVideoError("there are no pictures in it")
            self._container = container
            self._stream = container.streams.video[0]
            self._stream.thread_type = "AUTO"
            self._close = stack.pop_all()
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)
        self.time_base = Fraction(self._stream.time_base or 1 / self.rate)
        self.length = self._declared_length()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close.close()

    def frames(self) -> Iterator[Frame]:
        """Yields the frames, once.

        Raises:
          UnreadableVideoError: the rest of the file is damaged or missing.
        """
        count, begin, last = 0, 0, -1
        decoded = iter(self._container.decode(self._stream))
        while True:
            try:
                frame = next(decoded, None)
                if frame is None:
                    break
                pixels = frame.to_ndarray(format="rgb24")
            except self._errors as error:
                raise UnreadableVideoError(
                    f"damaged behind {count} frames: {_reason(error)}"
                ) from error
            stamp = last + 1 + begin if frame.pts is None else frame.pts
            begin = stamp if count == 0 else begin
            last = max(stamp - begin, last + 1)
            turns = round(frame.rotation / 90) % 4  # against the clock
            yield Frame(np.ascontiguousarray(np.rot90(pixels, turns)), last)
            count += 1
        if count == 0:
            raise UnreadableVideoError("there are no pictures in it")
        if self.length is not None and count < _COMPLETE * self.length:
            raise UnreadableVideoError(f"it ends behind {count} of {self.length} frames")

    def _declared_length(self) -> int | None:
        if self._stream.frames:
            return int(self._stream.frames)
        if self._stream.duration is not None:
            return round(self._stream.duration * self.time_base * self.rate)
        if self._container.duration is not None:  # in microseconds
            return round(self._container.duration * self.rate / 1_000_000)
        return None


class VideoWriter:
    """Writes an MP4 file of H.264, one frame at a time; its context completes the file."""

    def __init__(self, path: epath.PathLike, size: Size, *, rate: Fraction, time_base: Fraction):
        """Begins the file.

        Args:
          path: a local one.
          size: height and width of the frames.
          rate: frames a second, on average.
          time_base: of the frames' times, in seconds.

        Raises:
          OSError: the file cannot be written.
        """
        self._av = _av()
        self._time_base = time_base
        self._container = self._av.open(os.fspath(path), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=rate, options={"crf": "20"})
        self._stream.height, self._stream.width = size
        # Colours at half the resolution, as all players read them, need even sides.
        self._format = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
        self._stream.pix_fmt = self._format
        codec = self._stream.codec_context
        codec.time_base = time_base
        bt709 = 1
        codec.colorspace = codec.color_primaries = codec.color_trc = bt709
        codec.color_range = self._av.video.reformatter.ColorRange.MPEG

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._container:
            self._container.mux(self._stream.encode())

    def write(self, frame: Frame) -> None:
        """Adds a frame, resized where it is not as large as the others."""
        image = self._av.VideoFrame.from_ndarray(frame.pixels, format="rgb24")
        width, height = self._stream.width, self._stream.height
        image = image.reformat(width, height, self._format, dst_colorspace="ITU709")
        image.pts, image.time_base = frame.time, self._time_base
        self._container.mux(self._stream.encode(image))


def _av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise UnreadableVideoError(
            'videos need PyAV: pip install "ipg-jax[video]" or pip install av'
        ) from error
    return av


def _reason(error: Any) -> str:
    """What is wrong, without the number and the name of the file."""
    return shown(getattr(error, "strerror", None) or error)
