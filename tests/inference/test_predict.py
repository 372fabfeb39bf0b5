"""Prediction on files, by a task that sees bright rectangles."""

import json
import re
import sys

import numpy as np
import pytest
from bright_task import make, picture
from made_video import make_video, moving
from PIL import Image

from ipg_jax.inference.predict import predict
from ipg_jax.inference.videos import Video


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def save(path, box, value=204):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture(32, 64, box, value)).save(path)
    return path


def test_videos_come_out_with_boxes_and_their_times(tmp_path, caplog):
    caplog.set_level("INFO")
    path = make_video(tmp_path / "a.mp4", moving(6), rate=5)
    out = tmp_path / "out"
    for _ in range(2):  # again, over what is there by then
        assert predict(make(batch_size=4), [path], out, threshold=0.5) == []
    assert names(out) == ["a_detections.jsonl", "a_detections.mp4", "detections.json"]
    lines = [json.loads(line) for line in (out / "a_detections.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["seconds"]) for line in lines] == [
        (i, pytest.approx(0.2 * i)) for i in range(6)
    ]
    for line in lines:  # the square of 10 x 10 pixels, which moves a pixel to the right
        best, dim = line["annotations"]
        np.testing.assert_allclose(best["bbox"], [line["frame"], 0, 10, 10], atol=1.5)
        assert dim["score"] == pytest.approx(0.1)
    with Video(path) as before, Video(out / "a_detections.mp4") as after:
        assert after.rate == before.rate
        pairs = list(zip(before.frames(), after.frames(), strict=True))
        for old, new in pairs:
            assert old.time * before.time_base == new.time * after.time_base
            assert np.abs(old.pixels.astype(int) - new.pixels).max() > 60  # the box
    (video,) = json.loads((out / "detections.json").read_text())["videos"]
    assert (video["file_name"], video["frames"]) == (str(path), 6)
    assert "a.mp4: 6 drawn (score >= 0.5) in 6 frames, a_detections.mp4 [6/6" in caplog.text


def test_broken_videos_are_reported_and_all_else_is_done(tmp_path, caplog):
    broken, short = tmp_path / "b.mp4", make_video(tmp_path / "c.mkv", moving(38))
    broken.write_text("no video")
    short.write_bytes(short.read_bytes()[: short.stat().st_size * 2 // 3])
    image = save(tmp_path / "a.png", (5, 3, 9, 9))
    sound = make_video(tmp_path / "d.mp4", moving(3))
    out = tmp_path / "out"
    assert predict(make(), [tmp_path], out) == [str(broken), str(short)]
    assert "b.mp4: not a readable video" in caplog.text
    document = json.loads((out / "detections.json").read_text())
    assert [one["file_name"] for one in document["images"]] == [str(image)]
    before, whole = document["videos"]
    assert (before["file_name"], whole["file_name"]) == (str(short), str(sound))
    assert 0 < before["frames"] < 38  # what is before the damage
    with Video(out / "c_detections.mp4") as video:
        assert len(list(video.frames())) == before["frames"]


def test_videos_need_pyav_and_say_so(tmp_path, caplog, monkeypatch):
    path = make_video(tmp_path / "a.mp4", moving(2))
    monkeypatch.setitem(sys.modules, "av", None)
    assert predict(make(), [path], tmp_path / "out") == [str(path)]
    assert "videos need PyAV: pip install" in caplog.text


def test_crops_are_in_a_folder_for_each_class_under_names_of_their_own(tmp_path):
    first = save(tmp_path / "x" / "a.png", (5, 3, 9, 10))
    second = save(tmp_path / "y" / "a.png", (0, 0, 64, 32), value=102)
    video = make_video(tmp_path / "v.mp4", moving(2))
    out = tmp_path / "out"
    detector = make(class_names=["bright", "../dim"], threshold=[0.3, 0.05])
    for _ in range(2):
        assert predict(detector, [first, second, video], out, save_crops=True) == []
    assert [name for name in names(out) if name.startswith("crops/")] == [
        "crops/.._dim/a_2.png",
        "crops/.._dim/a_2_2.png",
        "crops/.._dim/v_000001_2.png",
        "crops/.._dim/v_000002_2.png",
        "crops/bright/a_1.png",
        "crops/bright/a_1_2.png",
        "crops/bright/v_000001_1.png",
        "crops/bright/v_000002_1.png",
    ]
    with Image.open(out / "crops" / "bright" / "a_1.png") as crop:
        np.testing.assert_array_equal(np.asarray(crop), np.full((7, 4, 3), 204))
    predict(detector, [first, second], out)  # crops of before are not lost, and still known as ours
    assert (
        "crops/bright/a_1.png"
        in json.loads((out / "detections.json").read_text())["info"]["pictures"]
    )


def test_the_log_says_how_fast_it_is_and_how_long_it_takes(tmp_path, caplog):
    caplog.set_level("INFO")
    images = [save(tmp_path / f"{i}.png", (5, 3, 9, 9)) for i in range(3)]
    detector = make()
    detector.warm_up()
    predict(detector, images, tmp_path / "out", threshold=[0.5, 0.2])
    assert "1.png: 1 drawn (score >= 0.2-0.5), 2 kept, 1_detections.png [2/3, " in caplog.text
    assert re.search(r"\[2/3, [\d.e+]+ images/s, \d+s left\]", caplog.text)
