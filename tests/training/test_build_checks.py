"""What is wrong with a config is said before anything is built of it, with the field's name."""

import contextlib
import importlib
import json
import logging
import pathlib
import random
import re

import jax
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from configs.common import default_config
from ipg_jax import data
from ipg_jax.training.build import build_task
from ipg_jax.training.build_checks import (
    check_initial,
    check_no_decay,
    checked,
    warn_of_large_batch,
    warn_of_warmup,
)
from ipg_jax.training.build_compat import fields_of
from ipg_jax.training.build_data import build_augmented
from ipg_jax.training.build_fields import fields
from ipg_jax.training.build_runs import build_eval_run, build_train_run, log_fusion_init

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def leaves(config: ConfigDict, prefix: str = ""):
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def with_value(path: str, value: object, config: ConfigDict | None = None) -> ConfigDict:
    """A config in which a field has any value, as of a file that is not type-safe."""
    config = (config or default_config()).unlock()
    *sections, name = path.split(".")
    section = config
    for each in sections:
        section = section[each]
    with section.ignore_type():
        section[name] = value
    return config


def test_every_field_says_what_it_may_hold():
    assert set(fields()) == {path for path, _ in leaves(default_config())}


def test_configs_hold_what_they_may():
    for path in CONFIGS.glob("*.py"):
        if path.stem not in ("__init__", "common"):
            config = importlib.import_module(f"configs.{path.stem}").get_config()
            assert checked(config) is config


WRONG = {
    "log_every": [0, -1, 2.5, True],
    "checkpoint_every": [0],
    "eval_every": [-2],
    "image_size": [
        (64,),
        (0, 0),
        (96, 64),
        (64, 64, 64),
        (64, 64.5),
        (-1, 5),
        ("a", "b"),
        64,
        None,
    ],
    "seed": [-1, 2**32, None],
    "batch_size": [0, "8", 2**20],
    "num_epochs": [0.0, float("nan"), float("inf"), -1.0, "12"],
    "init_missing": ["(", "*"],
    "init_from": ["a\0b", 20240517],
    "data.verify": ["decodes", "header", None],
    "data.flip": [1.5, -0.1, float("nan")],
    "data.augmentations": ["mosaic", (3,), (("mosaic", 3),), (("mosaic",),), ("mosaic", {})],
    "data.train_sizes": [(), (32, 48), ((48, 32),), ((0, 5),)],
    "data.class_names": [("a", "a"), ("a", 3), "ab"],
    "data.ignore_classes": [("a", "a"), ("",), "ab", None],
    "data.scene_size": [16],
    "data.train_scenes": [0, 10**7],
    "model.norm": ["batchnorm"],
    "model.new_norm": ["none"],
    "model.fusion_init": ["zero"],
    "model.fusion_stages": [(2, 2), (0,), (8,), 2, "234"],
    "model.anchor_ratios": [(), (0.0,), (1, float("nan"))],
    "model.fpn_levels": [(5, 3), (1, 4), (3,), 3],
    "model.rpn.candidates": [(2000,), (0, 1)],
    "optimizer.momentum": [1.0],
    "optimizer.milestones": [(11.0, 7.0), (7.0, 7.0), (0.0,), 7.0],
    "optimizer.ema_decay": [1.0, -0.5],
    "optimizer.frozen": ["["],
    "eval.metric": ["COCO", "mAP"],
    "eval.max_detections": [0, -1, 2.5],
    "eval.area_ranges": [
        (),
        (("a", 0),),
        (("a", 8, 8),),
        (("a", -1, 8),),
        ((3, 0, 8),),
        (("a", 0, 8), ("a", 8, 16)),
        ("a", 0, 8),
    ],
    "eval.scales": [((1000, 600),), (600, 1000), ((0, 5),)],
    "mesh.space": [0],
    "model.retinanet_head.channels": [0, 10**9],
    "model.matcher": ["IoU", "max_iou", None],
    "model.foreground_iou": [0.0, 1.5, "0.5"],
    "model.background_iou": [-0.1, 1.5],
    "model.ignore_overlap": [0.0, 1.1],
    "model.nwd_constant": [0.0, -1.0, float("inf"), None],
    "model.retinanet_head.box_loss": ["iou", "GIoU"],
    "model.retinanet_head.class_loss": ["bce", None],
    "model.retinanet_head.candidates_per_level": [0, 2.5, None],
}


@pytest.mark.parametrize("path", WRONG)
def test_a_wrong_value_is_an_error_with_the_field_and_what_it_may_hold(path: str):
    for value in WRONG[path]:
        with pytest.raises(ValueError, match=rf"^config\.{path} is [^\n]*, not [^\n]*$"):
            checked(with_value(path, value))


def test_augmentations_are_read_from_a_command_line_and_from_json(tiny_config):
    entries = ("flip_vertical", ("random_crop", {"size": (40, 48), "tries": 3}))
    arguments = ["train.py", f"--config.data.augmentations={entries}"]
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", tiny_config, flag_values=values, sys_argv=arguments)
    values(arguments)
    assert values.config.data.augmentations == entries
    made = data.make_augmentations(checked(values.config).data.augmentations)
    assert made == (data.FlipVertical(), data.RandomCrop(size=(40, 48), tries=3))
    document = json.loads(values.config.to_json())
    assert fields_of(document)["data.augmentations"] == entries
    assert data.make_augmentations(document["data"]["augmentations"]) == made


def test_wrong_augmentations_are_refused_before_data_are_read(tiny_config, monkeypatch):
    monkeypatch.setattr("ipg_jax.training.build_runs.build_training_source", None)
    with tiny_config.unlocked():
        tiny_config.data.augmentations = (("random_crop", {"sizes": (40, 48)}),)
    for build in (build_train_run, build_augmented):
        with pytest.raises(ValueError, match=r"^config\.data\.augmentations: random_crop: .*sizes"):
            build(tiny_config)


def test_batches_are_those_of_the_config(tiny_config):
    with tiny_config.unlocked():
        tiny_config.data.train_sizes = ((64, 64), (32, 96))
        tiny_config.data.augmentations += (("random_crop", {"size": (40, 48)}),)
        tiny_config.mesh.data, tiny_config.mesh.space = 4, 2
    run = build_train_run(tiny_config, evaluate=False)
    with contextlib.closing(run.batches(3)) as batches:
        batch = next(batches)
    assert batch.pyramid[0].shape == (8, 64, 64, 3)  # up to multiples of 32 for two devices
    assert (batch.image_size <= [40, 48]).all()
    assert [number for number, _ in run.batch_records(3)] == [
        run.source.records.image_ids[index] for index in batch.image_id
    ]


def test_all_that_is_wrong_is_said_at_once():
    config = with_value("seed", -1, with_value("log_every", 0))
    with pytest.raises(ValueError, match=r"^config\.seed is .*\nconfig\.log_every is .* not 0$"):
        checked(config)


def test_a_field_that_is_missing_is_named():
    config = default_config()
    del config.model["new_norm"]
    del config["mesh"]
    with pytest.raises(ValueError, match=r"lacks config\.model\.new_norm, config\.mesh\.data, .*"):
        checked(config)


def test_no_value_ends_in_an_error_without_the_fields_name():
    rng = random.Random(0)
    odd = [
        *(None, True, False, 0, 1, -1, 3, 2**31, 10**30, -(10**30), 0.0, 0.5, -0.5, 1e300, 1e-300),
        *(float("nan"), float("inf"), "", " ", "a", "-1", "(", "none", "\0", "x" * 5000, b"bytes"),
        *((), (1,), (0, 0), (5, 3), (3, 5), (1, 2, 3), ("a", "b"), ((1, 2),), ((2, 1), 3), [], [1]),
        *({}, {"a": 1}, object(), int, range(3), 1j),
    ]
    refused = accepted = 0
    for path in fields():
        for value in [*rng.sample(odd, 4), rng.randint(-9, 999)]:
            config = with_value(path, value)
            try:
                build_task(config)  # what is allowed by itself may not go with other fields
                accepted += 1
            except ValueError as error:
                if path.rpartition(".")[2] not in str(error):
                    pytest.fail(f"config.{path}={value!r} is not named: {error}")
                refused += 1
            except Exception as error:
                pytest.fail(f"config.{path}={value!r}: {type(error).__name__}: {error}")
    assert refused > 300
    assert accepted > 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"fpn_norm": "group_norm", "fpn_channels": 99},
            r"fpn_channels=99 .*fpn_norm=group_norm",
        ),
        (
            {"retinanet_head.norm": "group_norm", "retinanet_head.channels": 48},
            r"retinanet_head\.channels=48 .* config\.model\.retinanet_head\.norm=group_norm",
        ),
        ({"norm": "group_norm", "base_channels": 24}, r"base_channels=24 .*model\.norm=group_norm"),
        (
            {"norm": "frozen_batch_norm", "guidance_channels": 20},
            r"guidance_channels=20 makes layers of 40 channels, .*model\.new_norm=group_norm",
        ),
        ({"fusion_stages": (4, 5)}, r"config\.model\.fusion_stages=\(4, 5\) has 5, .*num_stages=4"),
        (
            {"fusion": "product", "fusion_init": "identity"},
            r"config\.model\.fusion=product .*config\.model\.fusion_init=identity",
        ),
        ({"fpn_levels": (7, 8)}, r"config\.model\.fpn_levels.*config\.model\.num_stages \+ 1"),
        ({"anchor_scale": 0.1}, r"anchor_scale=0\.1 .* less than a pixel"),
        ({"num_stages": 5, "backbone": "convnext_tiny"}, r"config\.model\.num_stages"),
        (
            {"foreground_iou": 0.3},
            r"model\.background_iou=0\.4 is above config\.model\.foreground_iou=0\.3",
        ),
        (
            {"matcher": "rfla", "background_iou": 0.3},
            r"model\.background_iou=0\.3 is of config\.model\.matcher=iou, and that is rfla",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_named(changes: dict, message: str):
    config = default_config()
    config.model.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        build_task(config)


@pytest.mark.parametrize("path", ["init_from", "data.train_images", "data.root"])
def test_a_tilde_is_the_home_folder(path: str, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = with_value(path, "~/some/run")
    got = dict(leaves(checked(config)))
    assert got[path] == f"{tmp_path}/some/run"
    assert dict(leaves(config))[path] == "~/some/run"  # the caller's stays as it is
    with pytest.raises(ValueError, match=r"~no_such_user/x: there is no such home folder"):
        checked(with_value(path, "~no_such_user/x"))


@pytest.mark.parametrize(
    ("fields", "num_steps", "message"),
    [
        ({}, 75, r"warmup_steps=500 is more than the 75 steps of the run"),
        (
            {"milestones": (1.0, 2.0)},
            1200,
            r"is more than the 400 steps to the first of .*milestones",
        ),
        ({}, 4800, None),
        ({"milestones": (1.0,), "schedule": "cosine"}, 1200, None),
        ({"milestones": ()}, 1200, None),
    ],
)
def test_a_warm_up_that_does_not_end_is_a_warning(fields, num_steps, message, caplog):
    config = default_config()
    config.optimizer.update(fields)
    warn_of_warmup(config, num_steps=num_steps, steps_per_epoch=400.0)
    if message is None:
        assert not caplog.records
    else:
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert re.search(message, record.getMessage())


def test_what_would_do_nothing_is_refused_with_the_field():
    check_initial(default_config())
    for field in ("init_missing", "init_unexpected"):
        config = with_value(field, ".*/fusion2/.*")
        with pytest.raises(ValueError, match=rf"config\.{field}='.*' is .*config\.init_from, whi"):
            check_initial(config)
        config.init_from = "resnet50.pth"
        check_initial(config)
    params = {"conv": {"kernel": 0.0, "bias": 0.0}}
    check_no_decay(default_config(), params)
    check_no_decay(with_value("optimizer.no_decay", ".*/bias"), params)
    with pytest.raises(ValueError, match=r"config\.optimizer\.no_decay='bias' .* conv/bias"):
        check_no_decay(with_value("optimizer.no_decay", "bias"), params)


def test_a_batch_beyond_the_data_is_a_warning(caplog):
    warn_of_large_batch(default_config(), 32)
    assert not caplog.records
    warn_of_large_batch(default_config(), 31)
    assert "config.batch_size=32 is more than the 31 images of the training data" in caplog.text


def test_a_training_run_is_checked_for_them(tiny_config, caplog):
    with tiny_config.unlocked():
        tiny_config.data.train_scenes = 4
        tiny_config.optimizer.no_decay = "bias"
    with pytest.raises(ValueError, match=r"config\.optimizer\.no_decay='bias' .* backbone/"):
        build_train_run(tiny_config, evaluate=False)
    assert "config.batch_size=8 is more than the 4 images" in caplog.text
    with tiny_config.unlocked():
        tiny_config.init_missing = ".*"
    with pytest.raises(ValueError, match=r"config\.init_missing='\.\*' is about"):
        build_train_run(tiny_config)


def test_a_run_without_evaluation_data_is_not_evaluated(tiny_config, caplog):
    caplog.set_level("INFO")
    with tiny_config.unlocked():
        tiny_config.data.eval_scenes = 0
        tiny_config.eval_every, tiny_config.eval_only_at_end = 3, False
    with pytest.raises(
        ValueError, match=r"config\.eval_every=3 .* config\.data\.eval_scenes names"
    ):
        build_train_run(tiny_config)
    with tiny_config.unlocked():
        tiny_config.eval_every = None
    assert build_train_run(tiny_config).evaluator is None
    assert "config.data.eval_scenes is not set: the run is not evaluated" in caplog.text
    assert "warmup_steps" not in caplog.text
    with pytest.raises(ValueError, match=r"config\.data\.eval_scenes is not set: .* evaluate on"):
        build_eval_run(tiny_config)


@pytest.mark.parametrize(
    ("fusion", "given", "init"),
    [
        ("sum", None, "identity"),
        ("concat", None, "identity"),
        ("attention", None, "identity"),
        ("product", None, "default"),
        ("sum", "default", "default"),
    ],
)
def test_fusions_start_as_the_identity_where_weights_are_loaded(fusion, given, init):
    config = default_config()
    config.model.fusion, config.model.fusion_init = fusion, given
    assert build_task(config).model.backbone.fusion_init == (given or "default")
    config.init_from = "resnet50.pth"
    assert build_task(config).model.backbone.fusion_init == init


def test_the_log_says_how_fusions_start(caplog):
    caplog.set_level("INFO")
    config = default_config()
    log_fusion_init(config)
    assert not caplog.records
    config.init_from = "resnet50.pth"
    log_fusion_init(config)
    assert "start as O = R" in caplog.text
    config.model.fusion = "product"
    log_fusion_init(config)
    assert "config.model.fusion=product cannot start as O = R" in caplog.text


@pytest.mark.parametrize(
    ("norm", "new_norm", "is_trained"),
    [
        ("frozen_batch_norm", None, True),
        ("frozen_batch_norm", "frozen_batch_norm", False),
        ("group_norm", None, True),
    ],
)
def test_what_is_added_to_a_backbone_has_a_norm_of_its_own(norm, new_norm, is_trained):
    config = default_config()
    config.model.update(backbone="resnet18", num_stages=5, fusion_stages=(2,), fpn_levels=(5, 6))
    config.model.update(norm=norm, new_norm=new_norm)
    variables = jax.eval_shape(build_task(config).init, jax.random.key(0))
    params = variables["params"]["backbone"]
    assert ("bn1" in params["ipg2"]) == is_trained
    assert ("bn3" in params["ipg2"]["block0"]) == is_trained
    assert ("bn2" in params["layer5"]["block1"]) == is_trained
    assert ("bn1" in params) == ("bn1" in params["layer4"]["block0"]) == (norm == "group_norm")
