"""Evaluation around the network: a stand-in finds exactly the ground truth of every view."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pytest
from etils import epath
from PIL import Image

from ipg_jax.data import UnreadableImagesError
from ipg_jax.training.build import build_task
from ipg_jax.training.build_checks import checked
from ipg_jax.training.build_runs import build_eval_run, build_train_run, build_views
from ipg_jax.training.evaluator import View
from ipg_jax.training.workdir import write_evaluation
from ipg_jax.types import Detections


@pytest.fixture
def evaluate(tiny_config):
    """Evaluates a detector that finds what is there; returns it, the views' shapes and the data."""

    def run(
        config=tiny_config,
        annotated: bool = True,
        finds: bool = True,
        samples: int = 0,
        unreadable: Sequence[int] = (),
    ):
        evaluator = build_eval_run(config).evaluator
        source = evaluator.source
        sound = source.load_image

        def load_image(index):
            if index in unreadable:
                raise OSError(f"scene {index} is gone")
            return sound(index)

        source.load_image = load_image
        source.records = dataclasses.replace(source.records, annotated=annotated)
        shapes = []

        def predict_step(variables, batch):
            shapes.append(batch.pyramid[0].shape[1:3])
            valid = batch.valid & ~batch.ignore & finds
            scores = np.where(valid, np.float32(0.9), np.float32(0))
            found = Detections(batch.boxes, scores, batch.labels, valid)
            return found, batch.replace(pyramid=())

        evaluator = dataclasses.replace(evaluator, predict_step=predict_step, num_samples=samples)
        return evaluator({}, step=3), shapes, source

    return run


def test_views_of_all_scales_and_mirrored_fall_on_one_another(evaluate, tiny_config):
    with tiny_config.unlocked():
        tiny_config.eval.scales = ((64, 64), (96, 128))
        tiny_config.eval.flips = True
    found, shapes, source = evaluate(tiny_config)
    # Ten scenes make two batches for each of four views.
    assert shapes == [(64, 64)] * 2 + [(96, 128)] * 2 + [(64, 64)] * 2 + [(96, 128)] * 2
    assert found.coco["AP"] == pytest.approx(1.0)
    assert len(found.results) == len(source.records.boxes)  # once each, not four times


def test_a_metric_sets_the_limit_that_the_config_does_not(tiny_config):
    for metric, limit in (("coco", 100), ("voc", 100), ("aitod", 1500), ("visdrone", 500)):
        with tiny_config.unlocked():
            tiny_config.eval.metric = metric
        assert build_task(tiny_config).max_detections == limit
    with tiny_config.unlocked():
        tiny_config.eval.max_detections = 50
    assert build_task(tiny_config).max_detections == 50


def test_other_metrics_and_classes_to_ignore(evaluate, tiny_config):
    with tiny_config.unlocked():
        tiny_config.eval.metric = "aitod"
        tiny_config.eval.max_detections = 200
        tiny_config.eval.area_ranges = (("digit", 0, 48),)
        tiny_config.data.ignore_classes = ("3", "9")
        tiny_config.model.num_classes = 8
    found, _, source = evaluate(tiny_config, samples=1)  # which draws a region
    assert source.class_names == ("0", "1", "2", "4", "5", "6", "7", "8")
    assert (source.records.labels == 8).any()
    assert found.metrics.keys() == {"coco", "voc", "aitod"}
    assert found.metrics["aitod"]["AP_digit"] == found.coco["AP_digit"] == pytest.approx(1.0)
    assert {"AR1", "AR100", "AR200"} <= found.metrics["aitod"].keys()
    assert {"AR1", "AR10", "AR100", "AR200"} <= found.coco.keys()
    assert found.scalars()["aitod_AP"] == pytest.approx(1.0)
    assert len(found.samples) == 1


@pytest.mark.parametrize("flips", [False, True])
def test_whole_images_tiles_and_both_are_scored_each_by_itself(
    evaluate, tiny_config, tmp_path, caplog, flips
):
    caplog.set_level("INFO")
    with tiny_config.unlocked():
        tiny_config.eval.detected = ("tiled", "whole", "both")
        tiny_config.eval.tile = (48, 40)
        tiny_config.eval.tile_overlap = 0.5  # of 24 rows and 20 columns: digits are no larger
        tiny_config.eval.merge = "greedy_nmm"  # puts the parts of an object together
        tiny_config.eval.merge_metric = "ios"
        tiny_config.data.min_visible = 0.7
        tiny_config.eval.flips = flips
    found, shapes, source = evaluate(tiny_config, samples=2)
    # Scenes of 64 x 64 have tiles from rows 0 and 16 and columns 0, 20 and 24: 60, by eights, of
    # 48 x 40 pixels that become 64 x 53. The ten scenes take two batches.
    assert shapes == ([(64, 64)] * 2 * (1 + flips)) + ([(64, 64)] * 8 * (1 + flips))
    assert found.images == (10, 10, 0)
    assert found.coco["AP"] == pytest.approx(1.0)
    assert [*found.others] == ["whole", "both"]
    for scored in (found, *found.others.values()):
        assert scored.metrics["coco"]["AP"] == pytest.approx(1.0)
        assert scored.metrics["voc"]["mAP"] == pytest.approx(1.0)
        assert len(scored.results) == len(source.records.boxes)
    assert found.scalars()["both_coco_AP"] == found.scalars()["coco_AP"]
    assert len(found.samples) == 2
    write_evaluation(epath.Path(tmp_path), 3, found, source)
    written = {path.name: json.loads(path.read_text()) for path in (tmp_path / "eval").iterdir()}
    assert written["metrics.json"]["whole"] == found.others["whole"].metrics
    assert written["metrics.json"]["coco"] == found.coco
    assert written["detections_both.json"] == found.others["both"].results
    assert written["detections.json"] == found.results
    assert "tiled   whole    both\nAP " in caplog.text


def test_detections_of_tiles_are_merged_as_the_config_says(evaluate, tiny_config):
    with tiny_config.unlocked():
        tiny_config.eval.detected = ("tiled",)
        tiny_config.data.tile = (40, 40)
        tiny_config.data.min_visible = 0.1
        tiny_config.eval.merge_threshold = 1.0
        tiny_config.eval.merge_metric = "ios"
    found, _, source = evaluate(tiny_config)
    assert len(found.results) > len(source.records.boxes)  # parts beside the wholes
    assert found.coco["AP"] < 1
    tiny_config.eval.merge_metric = "iou"
    assert len(evaluate(tiny_config)[0].results) > len(found.results)


def test_objects_larger_than_a_tile_are_found_in_whole_images(evaluate, tiny_config):
    with tiny_config.unlocked():
        tiny_config.eval.detected = ("both", "tiled")
        tiny_config.eval.tile = (14, 14)
        tiny_config.data.min_visible = 1.0  # the stand-in finds no parts
    found, _, source = evaluate(tiny_config)
    assert found.coco["AP"] == pytest.approx(1.0)
    assert len(found.others["tiled"].results) < len(found.results) == len(source.records.boxes)


def test_an_image_without_one_of_its_tiles_is_unreadable(evaluate, tiny_config):
    with tiny_config.unlocked():
        tiny_config.eval.detected = ("both", "tiled")
        tiny_config.eval.tile = (40, 40)
    found, _, source = evaluate(tiny_config, unreadable=[4])
    assert found.images == (10, 9, 1)
    assert source.unreadable == 1
    assert {result["image_id"] for result in found.results} == {*range(10)} - {4}


def test_tiles_of_no_size_are_refused(tiny_config):
    tiny_config.eval.detected = ("whole", "tiled")
    with pytest.raises(ValueError, match=r"config\.eval\.detected=\('whole', 'tiled'\) asks for"):
        build_eval_run(tiny_config)
    for wrong in ((), ("tiles",), ("whole", "whole")):
        tiny_config.eval.detected = wrong
        with pytest.raises(
            ValueError, match=r"config\.eval\.detected is a tuple of one or more of"
        ):
            checked(tiny_config)


def test_one_view_changes_nothing(evaluate, tiny_config):
    plain, _, source = evaluate(tiny_config)
    with tiny_config.unlocked():
        tiny_config.eval.scales = (tuple(tiny_config.image_size),)
    assert evaluate(tiny_config)[0] == plain
    np.testing.assert_allclose(
        [result["bbox"][:2] for result in plain.results], source.records.boxes[:, :2], rtol=1e-6
    )


def test_unreadable_images_are_counted_and_too_many_are_refused(evaluate, tmp_path):
    found, _, source = evaluate(unreadable=[4])  # one of ten
    assert found.images == (10, 9, 1)
    assert found.coco["AP"] < 1  # its objects were not found
    write_evaluation(epath.Path(tmp_path), 3, found, source)
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert written["images"] == {"annotated": 10, "evaluated": 9, "unreadable": 1}
    with pytest.raises(UnreadableImagesError, match=r"(?s)8 of 10 images .*scene 7 is gone"):
        evaluate(unreadable=[4, 7])


def test_evaluation_of_half_a_data_set_is_refused_unless_asked_for(evaluate, tiny_config, tmp_path):
    images = [{"id": i, "file_name": f"{i}.png", "height": 64, "width": 64} for i in range(4)]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [4, 4, 20, 20], "iscrowd": 0}
        for i in range(4)
    ]
    categories = [{"id": i, "name": str(i)} for i in range(10)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "half.json").write_text(json.dumps(content))
    for i in (1, 2):
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / f"{i}.png")
    with tiny_config.unlocked():
        tiny_config.data.source = "coco"
        tiny_config.data.eval_images = str(tmp_path)
        tiny_config.data.eval_annotations = str(tmp_path / "half.json")
    with pytest.raises(UnreadableImagesError, match=r"(?s)2 of 4 images .*0\.png: cannot read"):
        evaluate(tiny_config)
    with tiny_config.unlocked():
        tiny_config.data.max_unreadable = 0.5
    found, _, _ = evaluate(tiny_config)
    assert found.images == (4, 2, 2)
    assert found.coco["AP"] == pytest.approx(1.0)


def test_data_without_annotations_is_not_scored(evaluate, caplog):
    caplog.set_level("INFO")
    found, _, source = evaluate(annotated=False)
    assert found.metrics == {"coco": None, "voc": None}
    assert found.scalars() == {}
    assert len(found.results) == len(source.records.boxes)
    assert f"{source.name} has no annotations" in caplog.text


def test_an_evaluation_that_finds_nothing_says_so(evaluate, tiny_config, caplog, tmp_path):
    caplog.set_level("INFO")
    evaluate()
    assert "0 detections" not in caplog.text
    with tiny_config.unlocked():
        tiny_config.eval.score_threshold = 0.25
    found, _, source = evaluate(finds=False)
    sentence = "0 detections: nothing was found above config.eval.score_threshold=0.25."
    assert sentence in caplog.text
    write_evaluation(epath.Path(tmp_path), 3, found, source)
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert written["score_threshold"] == 0.25


def test_results_without_annotations_are_named_as_coco_wants(evaluate, tmp_path):
    workdir = epath.Path(tmp_path) / "ipg101"
    found, _, source = evaluate(annotated=False)
    source.name = "image_info_test-dev2017.json"
    write_evaluation(workdir, 3, found, source)
    written = {path.name: json.loads(path.read_text()) for path in (workdir / "eval").iterdir()}
    assert written == {
        "metrics.json": {
            "step": 3,
            "data": "image_info_test-dev2017.json",
            "images": {"annotated": 10, "evaluated": 10, "unreadable": 0},
            "score_threshold": 0.0,
            "coco": None,
            "voc": None,
        },
        "detections.json": found.results,
        "detections_test-dev2017_ipg101_results.json": found.results,
    }


def test_samples_are_drawn_of_the_first_view_alone(evaluate, tiny_config):
    with tiny_config.unlocked():
        tiny_config.eval.flips = True
    found, _, _ = evaluate(tiny_config, samples=9)  # of two batches
    assert len(found.samples) == 9
    # Two pictures side by side, enlarged to 480 rows and more.
    assert all(picture.shape[0] >= 448 for picture in found.samples)
    assert evaluate(tiny_config)[0].samples == []


def test_training_needs_annotations(tiny_config, tmp_path):
    images = [{"id": i, "file_name": f"{i}.png", "height": 64, "width": 64} for i in range(8)]
    categories = [{"id": i, "name": str(i)} for i in range(10)]
    content = {"images": images, "categories": categories}
    (tmp_path / "without.json").write_text(json.dumps(content))
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "iscrowd": 0}
    (tmp_path / "with.json").write_text(json.dumps(content | {"annotations": [annotation]}))
    with tiny_config.unlocked():
        tiny_config.data.source, tiny_config.data.verify = "coco", "none"
        tiny_config.data.train_annotations = str(tmp_path / "with.json")
        tiny_config.data.eval_annotations = str(tmp_path / "without.json")
    with pytest.raises(ValueError, match=r"without\.json has no annotations: training needs"):
        build_train_run(tiny_config)
    build_train_run(tiny_config, evaluate=False)  # reads the training data alone


def test_views(tiny_config):
    assert build_views(tiny_config) == [View((64, 64), False)]
    with tiny_config.unlocked():
        tiny_config.eval.scales = ((500, 800), (600, 1000))
        tiny_config.eval.flips = True
    assert build_views(tiny_config) == [
        View((500, 800), False),
        View((600, 1000), False),
        View((500, 800), True),
        View((600, 1000), True),
    ]


@pytest.mark.parametrize("scales", [(600, 1000), ((1000, 600),), ((600,),), ((0, 5),)])
def test_scales_of_another_form_are_refused_with_an_example(tiny_config, scales):
    with tiny_config.unlocked():
        tiny_config.eval.scales = scales
    with pytest.raises(ValueError, match=r"config\.eval\.scales .*\(\(500, 800\), \(600, 1000\)\)"):
        checked(tiny_config)


def test_the_suppression_is_chosen_by_the_config(tiny_config):
    with tiny_config.unlocked():
        tiny_config.eval.nms = "soft_gaussian"
        tiny_config.eval.nms_sigma = 0.3
    task = build_task(tiny_config)
    assert (task.nms, task.nms_sigma) == ("soft_gaussian", 0.3)
    with tiny_config.unlocked():
        tiny_config.eval.nms = "soft"
    with pytest.raises(ValueError, match=r"config\.eval\.nms is one of greedy, soft_linear"):
        build_task(tiny_config)
