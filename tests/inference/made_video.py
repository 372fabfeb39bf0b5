"""Small videos."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

BRIGHT = 220


def moving(count: int) -> list[np.ndarray]:
    """Frames of 32 x 48 pixels: on black, a bright square of 10 x 10 that moves to the right."""
    frames = np.zeros((count, 32, 48, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[:10, i : i + 10] = BRIGHT
    return list(frames)


def make_video(path: Path, frames: Sequence[np.ndarray], rate: int = 10) -> Path:
    """Writes H.264; returns the path."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10"})
        stream.height, stream.width = frames[0].shape[:2]
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return path
