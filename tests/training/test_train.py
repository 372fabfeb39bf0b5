"""Whole runs: what they leave behind, and that nothing that happens to them changes the result."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_run import as_flags, make_tiny_config, process_environments

from ipg_jax.data import UnreadableImagesError
from ipg_jax.inference.detector import Detector
from ipg_jax.inference.predict import predict
from ipg_jax.training.build_predict import detector_weights
from ipg_jax.training.build_runs import build_eval_run, build_train_run
from ipg_jax.training.checkpoint import load_variables
from ipg_jax.training.evaluate import evaluate
from ipg_jax.training.metrics import DivergedError
from ipg_jax.training.runs import EvalRun, TrainRun
from ipg_jax.training.train import train
from ipg_jax.training.trained import load_initial
from ipg_jax.weights import load_detector, save_weights

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tiny_run() -> TrainRun:
    """That of the tiny config: its programs are compiled once."""
    return build_train_run(make_tiny_config())


@pytest.fixture(scope="module")
def tiny_eval_run() -> EvalRun:
    return build_eval_run(make_tiny_config())


@pytest.fixture(scope="module")
def uninterrupted(tiny_run, tmp_path_factory) -> pathlib.Path:
    """The workdir of a run of the tiny config that nothing happened to."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    assert train(tiny_run, workdir)
    return workdir


def start(workdir: pathlib.Path, *flags: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable,
            "train.py",
            "--config=configs/digits_ipg.py",
            f"--workdir={workdir}",
            "--stopped_code=75",
            *as_flags(make_tiny_config()),
            *flags,
        ],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def logged(workdir: pathlib.Path, name: str) -> list[float]:
    """Returns the values of a metric."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [record[name] for record in records if name in record]


def losses(workdir: pathlib.Path) -> list[float]:
    return logged(workdir, "train/loss")


def test_a_run_leaves_a_complete_workdir(uninterrupted):
    assert {path.name for path in uninterrupted.iterdir()} >= {
        "config.json",
        "classes.json",
        "metrics.jsonl",
        "checkpoints",
        "eval",
        "samples",
    }
    assert len(losses(uninterrupted)) == 6
    assert len(list((uninterrupted / "samples").glob("*.png"))) == 2
    assert list(uninterrupted.glob("events.out.tfevents*"))
    metrics = json.loads((uninterrupted / "eval" / "metrics.json").read_text())
    assert metrics["step"] == 6
    assert 0 <= metrics["coco"]["AP"] <= 1
    assert json.loads((uninterrupted / "config.json").read_text())["num_steps"] == 6


def test_a_run_becomes_one_file_that_detects_the_same(uninterrupted, tiny_eval_run, tmp_path):
    picture = tiny_eval_run.evaluator.source.load_image(0)
    weights = detector_weights(uninterrupted, checkpoint="6", about="Ten digits.")
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_weights(whole, weights)
    save_weights(half, weights, half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    config = load_detector(whole)[1]["config"]
    assert config["data"]["root"] is None
    assert config["data"]["train_images"] == "elsewhere"

    run = Detector.load(uninterrupted, checkpoint="6")
    want = run.predict(picture, threshold=0.0)
    found = Detector.load(whole).predict(picture, threshold=0.0)
    np.testing.assert_array_equal(found.boxes, want.boxes)
    np.testing.assert_array_equal(found.scores, want.scores)
    smaller = Detector.load(half)
    assert smaller.class_names == run.class_names
    found = smaller.predict(picture, threshold=0.0)
    np.testing.assert_allclose(np.sort(found.scores), np.sort(want.scores), atol=5e-3)

    for one in (whole, uninterrupted / "checkpoints" / "6"):
        with pytest.raises(ValueError, match="is one detector: checkpoint=latest is for a whole"):
            Detector.load(one, checkpoint="latest")

    initial = load_initial(whole)
    assert initial.class_names == run.class_names
    array = load_initial(uninterrupted / "checkpoints" / "6").arrays["head/class_logits/bias"]
    np.testing.assert_array_equal(initial.arrays["head/class_logits/bias"], array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": [{"id": 1, "name": "one"}]}, "is damaged: 1 classes, and the model has 10"),
        ({"categories": [3] * 10}, "is damaged: it holds 3 and not"),
        ({"thresholds": [0.5]}, "is damaged: thresholds are 10 scores from 0 to 1"),
        ({"config": {"seed": 0}}, "lacks .*batch_size"),
        (None, "holds weights alone: whole detectors"),
    ],
)
def test_files_that_are_no_whole_detector_are_named(uninterrupted, tmp_path, change, message):
    weights = detector_weights(uninterrupted, checkpoint="6")
    detector = None if change is None else {**weights.detector, **change}
    path = tmp_path / "a.safetensors"
    save_weights(path, dataclasses.replace(weights, detector=detector))
    with pytest.raises(ValueError, match=f"a.safetensors.*{message}"):
        Detector.load(path)


def test_evaluating_and_predicting_from_the_workdir(
    uninterrupted, tiny_config, tiny_eval_run, tmp_path, caplog
):
    during = json.loads((uninterrupted / "eval" / "metrics.json").read_text())
    after = evaluate(tiny_eval_run, uninterrupted, "latest")
    assert after.coco == during["coco"]
    assert after.coco["AR100"] > 0
    assert after.samples == []
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 5.*\[2, 4, 6\]"):
        evaluate(tiny_eval_run, uninterrupted, "5")

    picture = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture).save(tmp_path / folder / "same.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    photos = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    images = ["http://host/c.jpg", f"{tmp_path}/?/same.png", tmp_path / "broken.jpg"]
    out = tmp_path / "a"  # beside the photos
    caplog.set_level("INFO")
    report = uninterrupted / "report"
    report.mkdir()
    classes = [{"threshold": None if label == 3 else 0.01 * label} for label in range(10)]
    thresholds = {"step": 6, "classes": dict(zip("0123456789", classes, strict=True))}
    (report / "thresholds.json").write_text(json.dumps(thresholds))
    detector = Detector.load(uninterrupted, checkpoint="6")
    shutil.rmtree(report)
    expected = [0.0, 0.01, 0.02, 0.3, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09]
    np.testing.assert_allclose(detector.thresholds, expected)
    scenes = tiny_eval_run.evaluator.source
    first = detector.predict(scenes.load_image(0), threshold=0.0)
    evaluated = [x for x in after.results if x["image_id"] == scenes.records.image_ids[0]]
    assert len(first) == len(evaluated) == 100
    for ours, theirs in zip(first.to_coco(evaluated[0]["image_id"]), evaluated, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
    np.testing.assert_allclose(
        first.boxes[:10, :2], [x["bbox"][:2] for x in evaluated[:10]], atol=1e-2
    )

    for threshold in (7.0, float("nan")):
        with pytest.raises(ValueError, match="threshold is a score from 0 to 1"):
            predict(detector, images, out, threshold=threshold)
    with pytest.raises(ValueError, match="the format 'pdf' is unknown: label files are yolo, voc"):
        predict(detector, images, out, formats=["pdf"])
    for _ in range(2):  # again, over what is there by then
        failed = predict(detector, images, out, threshold=0.0, formats=["yolo", "voc"])
    assert failed == ["http://host/c.jpg", str(tmp_path / "broken.jpg")]
    assert "http addresses are not read" in caplog.text
    assert {path.name for path in out.iterdir()} == {
        "same.png",
        "same_detections.png",
        "same_detections_2.png",
        "same.txt",
        "same_2.txt",
        "same.xml",
        "same_2.xml",
        "classes.txt",
        "detections.json",
    }
    assert len((out / "same.txt").read_text().splitlines()) == 100
    assert (out / "classes.txt").read_text().splitlines() == list(detector.class_names)
    assert "same.png: 100 drawn (score >= 0), 100 kept (the limit, config.eval.max" in caplog.text
    assert all(path.read_bytes() == data for path, data in photos.items())
    document = json.loads((out / "detections.json").read_text())
    assert [image["file_name"] for image in document["images"]] == sorted(map(str, photos))
    assert len(document["annotations"]) == 200
    for annotation in document["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + width <= 70 + 1e-4
        assert y + height <= 50 + 1e-4


def final_parameters(workdir: pathlib.Path):
    return load_variables(str(workdir / "checkpoints" / "6"))


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def wait_for(condition, process: subprocess.Popen, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def checkpoints_of(workdir: pathlib.Path) -> set[int]:
    return {int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()}


@contextlib.contextmanager
def sigterm_after_first_step(workdir: pathlib.Path) -> Iterator[None]:
    """Sends the signal to this process, where a run within the context is to catch it."""

    def send() -> None:
        while not ((workdir / "metrics.jsonl").exists() and losses(workdir)):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: None)  # should it come too late
    try:
        threading.Thread(target=send, daemon=True).start()
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_stopped_and_then_killed_ends_with_the_same_bits(
    uninterrupted, tiny_run, tmp_path, caplog
):
    caplog.set_level("INFO")
    with sigterm_after_first_step(tmp_path):
        assert not train(tiny_run, tmp_path)
    assert "stopped at step" in caplog.text
    saved = checkpoints_of(tmp_path)
    assert max(saved) < 4  # the next run has one to save before it ends

    process = start(tmp_path)
    wait_for(lambda: checkpoints_of(tmp_path) > saved, process)
    process.kill()
    output, _ = process.communicate()
    assert f"resumed {tmp_path} at step {max(saved)}" in output
    saved = checkpoints_of(tmp_path)
    assert 6 not in saved

    assert train(tiny_run, tmp_path)
    assert f"resumed {tmp_path} at step {max(saved)}" in caplog.text
    assert_same_bits(final_parameters(tmp_path), final_parameters(uninterrupted))
    assert losses(tmp_path) == losses(uninterrupted)
    assert "nothing to do" not in caplog.text
    assert train(tiny_run, tmp_path)
    assert "nothing to do" in caplog.text


def test_two_processes_go_on_as_one_though_one_is_told_to_stop(
    uninterrupted, tiny_run, tiny_eval_run, tmp_path
):
    """From a checkpoint of eight devices, over an evaluation, to one that eight take further."""
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    for step in (4, 6):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
    evaluating = "--config.eval_only_at_end=False", "--config.eval_every=3"
    processes = [start(tmp_path, *evaluating, **each) for each in process_environments((1, 1))]
    # During the evaluation: the steps behind it are done in a moment.
    wait_for(lambda: len(logged(tmp_path, "train/loss")) == 3, processes[0])
    processes[1].send_signal(signal.SIGTERM)  # a host that is taken away
    outputs = []
    for process in processes:
        outputs.append(process.communicate()[0])
        assert process.returncode == 75, outputs[-1]
    assert "2 cpu device(s) in 2 process(es)" in outputs[0]
    assert f"resumed {tmp_path} at step 2" in outputs[0]
    assert 3 <= max(checkpoints_of(tmp_path)) < 6

    (found,) = logged(tmp_path, "eval/coco_AR100")
    assert found > 0
    assert found == pytest.approx(evaluate(tiny_eval_run, tmp_path, "3").coco["AR100"], abs=0.02)
    assert train(tiny_run, tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(uninterrupted), rtol=1e-4)


def test_a_run_can_start_from_another(uninterrupted, tiny_config, tmp_path):
    class BegunError(Exception):
        """Holds what the first step is given."""

    def first_step(*args):
        raise BegunError(*args)

    with tiny_config.unlocked():
        tiny_config.init_from = str(uninterrupted / "checkpoints" / "6")
    run = dataclasses.replace(build_train_run(tiny_config), train_step=first_step)
    with pytest.raises(BegunError) as begun:
        train(run, tmp_path)
    state, *_ = begun.value.args
    assert int(state.step) == 0
    assert_same_bits(state.variables, final_parameters(uninterrupted))


def test_initial_weights_know_their_classes(uninterrupted, tmp_path):
    of_run = load_initial(uninterrupted / "checkpoints" / "6")
    assert of_run.class_names == tuple("0123456789")
    path = tmp_path / "weights.safetensors"
    save_weights(path, of_run)
    of_file = load_initial(path)
    assert of_file.class_names == of_run.class_names
    assert_same_bits(of_file.arrays, of_run.arrays)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_images(tiny_run, tmp_path):
    def poisoned(state, batch, key):
        if state.step == 2:
            head = jax.tree.map(lambda x: x * np.float32(np.nan), state.params["head"])
            state = state.replace(params=state.params | {"head": head})
        return tiny_run.train_step(state, batch, key)

    with pytest.raises(DivergedError, match=r"step 3: .*its images were \d+ \(.*learning_rate"):
        train(dataclasses.replace(tiny_run, train_step=poisoned), tmp_path)
    assert checkpoints_of(tmp_path) == {2}


def test_a_run_without_its_images_stops_and_says_which(tiny_config, tmp_path):
    run = build_train_run(tiny_config, evaluate=False)
    sound, steps = run.source.load_image, []

    def load_image(index):
        if len(steps) >= 2:
            raise OSError("the disk is gone")
        return sound(index)

    def step(state, batch, key):
        steps.append(batch)
        return state, {"loss": np.float32(1), "grad_norm": np.float32(1)}

    run.source.load_image = load_image
    run = dataclasses.replace(run, train_step=step, num_steps=100, checkpoint_every=100)
    with pytest.raises(UnreadableImagesError, match=r"(?s)step \d+: .*scene \d+: the disk is gone"):
        train(run, tmp_path)
    assert len(steps) < 20
    assert not checkpoints_of(tmp_path)


def test_a_batch_that_does_not_divide_is_refused_with_a_size_that_does(tiny_config):
    with tiny_config.unlocked():
        tiny_config.batch_size = 12
    with pytest.raises(ValueError, match=r"multiple of 8 .*try (8|16)"):
        build_train_run(tiny_config)
    with tiny_config.unlocked():
        tiny_config.batch_size, tiny_config.eval.batch_size = 8, 12
    for build in (build_train_run, build_eval_run):  # a run says so before its first step
        with pytest.raises(ValueError, match=r"config\.eval\.batch_size=12 is not a multiple of 8"):
            build(tiny_config)


def test_data_with_other_classes_is_refused(tiny_config):
    with tiny_config.unlocked():
        tiny_config.model.num_classes = 9
    with pytest.raises(ValueError, match=r"10 classes \(0, 1, .*num_classes=10"):
        build_train_run(tiny_config)


def test_a_run_may_do_without_evaluations(tiny_config, tmp_path):
    with tiny_config.unlocked():
        tiny_config.num_steps = 1

    def step(state, batch, key):
        return state, {"loss": np.float32(1), "grad_norm": np.float32(1)}

    run = build_train_run(tiny_config, evaluate=False)
    assert train(dataclasses.replace(run, train_step=step), tmp_path)
    assert checkpoints_of(tmp_path) == {1}
    assert not (tmp_path / "eval").exists()
