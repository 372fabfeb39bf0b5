import contextlib
import json
import math

import numpy as np
import pytest
from etils import epath
from small_files import small_files_only

from ipg_jax.training.metrics import MetricWriter, Progress, duration


def read(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_scalars_are_one_json_object_a_line(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.scalars(1, {"loss": 0.5, "speed": math.nan})
    writer.close()
    assert read(tmp_path) == [{"step": 1, "loss": 0.5, "speed": None}]
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in (1, 2, 3):
        writer.scalars(step, {"loss": float(step)})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    writer = MetricWriter(tmp_path, start_step=2)
    writer.scalars(3, {"loss": 9.0})
    writer.close()
    assert [(r["step"], r["loss"]) for r in read(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 9.0)]


def test_a_damaged_line_is_kept_and_counted_and_stops_no_run(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    damaged = [b'{"step": 1, "lo\xff": 1.0}', b'{"step": "1"}', b"7", b""]
    sound = [b'{"step": 1}', b'{"step": 2}', b'{"step": 3}']
    path.write_bytes(b"\n".join([sound[0], *damaged, *sound[1:]]))  # and a last line that is whole
    MetricWriter(tmp_path, start_step=3).close()
    assert path.read_bytes() == b"\n".join([sound[0], *damaged, *sound[1:], b""])
    assert "metrics.jsonl: 4 damaged line(s) left as they are, the first is line 2" in caplog.text
    MetricWriter(tmp_path, start_step=1).close()
    assert path.read_bytes() == b"\n".join([sound[0], *damaged, b""])


def test_an_evaluation_that_is_done_again_is_written_once(tmp_path):
    with contextlib.closing(MetricWriter(tmp_path)) as writer:
        for step in (2, 4):
            writer.scalars(step, {"train/loss": 0.5})
            writer.scalars(step, {"eval/coco_AP": 0.5})
    MetricWriter(tmp_path, start_step=4, evaluated=False).close()
    assert [(r["step"], "train/loss" in r) for r in read(tmp_path)] == [
        (2, True),
        (2, False),
        (4, True),
    ]


def test_a_run_from_scratch_keeps_the_metrics_of_an_earlier_one(tmp_path, caplog):
    for number in range(3):
        with contextlib.closing(MetricWriter(tmp_path)) as writer:
            writer.scalars(1, {"loss": float(number)})
    assert [r["loss"] for r in read(tmp_path)] == [2.0]
    old = (tmp_path / "metrics.old.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in old] == [0.0, 1.0]
    assert "from scratch" in caplog.text


def test_a_full_disk_is_named(tmp_path):
    with (
        contextlib.closing(MetricWriter(tmp_path)) as writer,
        small_files_only(2**17),
        pytest.raises(OSError, match=r"cannot write .*metrics\.jsonl"),
    ):
        writer.scalars(1, {"x" * 2**18: 0.0})


def test_pictures_go_to_samples(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.image(7, "sample0", np.zeros((4, 5, 3), np.uint8))
    writer.close()
    assert (tmp_path / "samples" / "sample0_0000007.png").exists()


def test_files_are_written_as_on_a_remote_store(tmp_path, monkeypatch):
    # What epath takes for gs://; its files can be opened in a `with` only.
    monkeypatch.setattr(type(epath.Path(tmp_path)), "_backend", epath.backend.tf_backend)
    writer = MetricWriter(tmp_path)
    writer.scalars(1, {"loss": 0.5})
    assert read(tmp_path) == [{"step": 1, "loss": 0.5}]
    writer.scalars(2, {"loss": 0.25})
    writer.image(2, "sample0", np.zeros((4, 5, 3), np.uint8))
    writer.close()
    assert len(read(tmp_path)) == 2
    assert (tmp_path / "samples" / "sample0_0000002.png").stat().st_size > 0
    MetricWriter(tmp_path, start_step=1).close()
    assert read(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_a_disabled_writer_writes_nothing(tmp_path):
    writer = MetricWriter(tmp_path / "none", enabled=False)
    writer.scalars(1, {"loss": 0.5})
    writer.image(1, "x", np.zeros((4, 5, 3), np.uint8))
    writer.close()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0s"),
        (59.6, "1m00s"),
        (200.0, "3m20s"),
        (3720.0, "1h02m"),
        (183600.0, "2d03h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_progress_leaves_pauses_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    progress = Progress(0, 10, batch_size=4)
    assert str(progress) == ""
    assert math.isnan(progress.images_per_second)
    now[0] = 30.0  # compilation
    progress.tick(1)
    now[0] = 32.0
    progress.tick(2)
    progress.pause()
    now[0] = 100.0  # evaluation
    progress.tick(3)
    now[0] = 102.0
    progress.tick(4)
    assert progress.images_per_second == 2.0
    assert str(progress) == "2 images/s  12s left"


def test_progress_is_that_of_the_last_steps(monkeypatch):
    """Two steps of 9 s, then two of 1 s: what remains will take as long as the latter."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    progress = Progress(10, 20, batch_size=4, window=2)
    for step, second in enumerate((0.0, 9.0, 18.0, 19.0, 20.0), start=11):
        now[0] = second
        progress.tick(step)
    assert str(progress) == "4 images/s  5s left"
