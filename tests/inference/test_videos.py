"""Videos: what is read is what was written, the right way up, at its time, and to its end."""

import struct
from fractions import Fraction

import numpy as np
import pytest
from made_video import BRIGHT, make_video, moving

from ipg_jax.inference.videos import Frame, UnreadableVideoError, Video, VideoWriter, is_video


def read(path):
    with Video(path) as video:
        return video, list(video.frames())


def test_frames_come_back(tmp_path):
    path = make_video(tmp_path / "a.mp4", moving(6), rate=10)
    video, frames = read(path)
    assert (video.rate, video.length) == (10, 6)
    assert [float(frame.time * video.time_base) for frame in frames] == pytest.approx(
        [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    )
    for frame, expected in zip(frames, moving(6), strict=True):
        assert np.abs(frame.pixels.astype(int) - expected).mean() < 6  # H.264 is lossy


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((1, 0, 0, 1), (0, 0)),
        ((0, 1, -1, 0), (0, -1)),  # clockwise: upper left becomes upper right
        ((-1, 0, 0, -1), (-1, -1)),
        ((0, -1, 1, 0), (-1, 0)),
    ],
)
def test_frames_are_upright(tmp_path, matrix, corner):
    """A phone stores the picture as its sensor saw it, and the way up in the track's header."""
    path = make_video(tmp_path / "a.mp4", moving(2))  # the first is bright at the upper left
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # ISO/IEC 14496-12, 8.3.2: a 3 x 3 matrix of 16.16 bits
    a, b, c, d = (value << 16 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    _, (first, _) = read(path)
    assert first.pixels.shape == ((48, 32, 3) if a == 0 else (32, 48, 3))
    y, x = (4 if side == 0 else -5 for side in corner)
    assert np.abs(first.pixels[y, x].astype(int) - BRIGHT).max() < 40


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_what_is_written_has_its_times_colours_and_size(tmp_path, size):
    base = Fraction(1, 90_000)
    times = [0, 3003, 6006, 15_015]  # a frame stays longer
    colour = np.array([200, 60, 30], np.uint8)
    pixels = np.broadcast_to(colour, (*size, 3))
    rate = Fraction(30_000, 1001)
    with VideoWriter(tmp_path / "a.mp4", size, rate=rate, time_base=base) as writer:
        for time in times:
            writer.write(Frame(pixels, time))
    video, frames = read(tmp_path / "a.mp4")
    assert [frame.time * video.time_base for frame in frames] == [time * base for time in times]
    assert frames[-1].pixels.shape == (*size, 3)
    assert np.abs(frames[-1].pixels.astype(int) - colour).max() <= 6


def test_broken_videos_say_why(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\na.mp4\n")  # a playlist
    (tmp_path / "empty.avi").write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    for name in ("text.mp4", "list.mp4", "empty.avi", "folder.mp4", "gone.mkv"):
        with pytest.raises(UnreadableVideoError, match="not a readable video"):
            read(tmp_path / name)


def test_videos_that_are_cut_off_give_what_is_there(tmp_path):
    path = make_video(tmp_path / "a.mkv", moving(40), rate=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    frames = []
    with (
        Video(path) as video,
        pytest.raises(UnreadableVideoError, match=r"(ends|damaged) behind \d+"),
    ):
        frames.extend(video.frames())
    assert 0 < len(frames) < 40


def test_videos_are_known_by_their_names():
    assert is_video("gs://bucket/A.MP4")
    assert not is_video("a.mp4.png")
