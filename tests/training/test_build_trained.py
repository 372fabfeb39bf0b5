"""Evaluation and prediction have the config that a run was trained with."""

import json
import random

import pytest
from tiny_run import make_tiny_config

from ipg_jax.training.build_trained import check_same_model, for_trained, read_trained_config


@pytest.fixture
def workdir(tmp_path):
    config = json.loads(make_tiny_config().to_json())
    (tmp_path / "config.json").write_text(json.dumps(config, indent=2))
    return tmp_path


def given(**changes):
    config = make_tiny_config()
    with config.unlocked():
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def test_nothing_given_is_the_config_of_the_run(workdir, caplog):
    caplog.set_level("INFO")
    for config in (for_trained(None, workdir), for_trained(make_tiny_config(), workdir)):
        assert config.to_dict() == make_tiny_config().to_dict()
        assert config.is_locked
    assert not caplog.records


def test_fields_that_are_not_set_keep_their_types(workdir):
    config = read_trained_config(workdir)
    config.eval.scales = [(64, 64), (96, 96)]
    config.model.guidance_channels = 32
    assert config.eval.scales == ((64, 64), (96, 96))
    with pytest.raises(TypeError):
        config.num_steps = "many"


def test_a_file_that_is_no_detector_to_be_changed_is_named(tmp_path):
    (tmp_path / "detector.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"detector\.zip is neither a run nor a \.safetensors"):
        read_trained_config(tmp_path / "detector.zip")


def test_what_would_change_the_model_is_refused_with_both_values(workdir):
    changed = given(model__anchor_scale=2.0, model__fpn_channels=64, optimizer__name="adamw")
    with pytest.raises(ValueError, match="is another one than the config says") as error:
        for_trained(changed, workdir)
    for line in (
        "config.model.anchor_scale: trained with 3.0, given 2.0",
        "config.model.fpn_channels: trained with 32, given 64",
        "config.optimizer.name: trained with 'sgd', given 'adamw'",
    ):
        assert line in str(error.value)


def test_a_training_goes_on_with_the_model_that_it_began_with(workdir):
    changed = given(model__anchor_scale=2.0, model__fpn_levels=(2, 4), num_steps=9)
    check_same_model(changed, workdir)  # nothing is trained yet
    (workdir / "checkpoints" / "3").mkdir(parents=True)
    check_same_model(given(num_steps=9, data__eval_scenes=3, model__remat="stages"), workdir)
    with pytest.raises(ValueError, match="has checkpoints of another model") as error:
        check_same_model(changed, workdir)
    message = str(error.value)
    assert "config.model.anchor_scale: trained with 3.0, given 2.0" in message
    assert "config.model.fpn_levels: trained with" in message
    assert "num_steps" not in message
    assert f"--config.init_from={workdir}" in message


def test_other_differences_are_listed_and_hold(workdir, caplog):
    caplog.set_level("INFO")
    changed = given(eval__nms="soft_linear", data__eval_scenes=3, model__dtype="bfloat16")
    config = for_trained(changed, workdir)
    assert [record.message for record in caplog.records] == [
        "config.data.eval_scenes=3, trained with 10",
        "config.eval.nms='soft_linear', trained with 'greedy'",
        "config.model.dtype='bfloat16', trained with 'float32'",
    ]
    assert config.to_dict() == changed.to_dict()


def test_a_field_of_the_model_that_is_not_set_is_as_it_was_trained(workdir):
    config = for_trained(given(model__fpn_levels=None, optimizer__clip_norm=None), workdir)
    assert config.model.fpn_levels == (3, 4)
    assert config.optimizer.clip_norm == 1.0


def test_without_config_json_the_given_config_is_taken_and_needed(tmp_path, caplog):
    config = make_tiny_config()
    assert for_trained(config, tmp_path) is config
    assert "no config.json to compare" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"no .*config\.json: was this run trained"):
        for_trained(None, tmp_path)


def test_a_damaged_file_is_an_error_that_names_it(workdir):
    path = workdir / "config.json"
    text = path.read_text()
    rng = random.Random(0)
    halves = [text[: rng.randrange(len(text) - 2)] for _ in range(5)]
    document = json.loads(text)
    lacking = [document | {"model": 3}, {k: v for k, v in document.items() if k != "eval"}]
    for damaged in [*halves, "[1]", "", "\ufeff{", *map(json.dumps, lacking)]:
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"config\.json"):
            read_trained_config(workdir)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"config\.json"):
        read_trained_config(workdir)


def test_a_value_of_another_kind_is_named(workdir):
    path = workdir / "config.json"
    document = json.loads(path.read_text())
    document["model"]["num_stages"] = "four"
    path.write_text(json.dumps(document))
    config = read_trained_config(workdir)
    with pytest.raises(ValueError, match=r"config\.model\.num_stages is a whole number"):
        for_trained(config, workdir)


def test_a_run_of_version_0_1_whose_anchors_are_no_more_is_refused(workdir):
    path = workdir / "config.json"
    document = json.loads(path.read_text())
    del document["model"]["new_norm"]
    document["model"] |= {"keep": True, "num_stages": 7}
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"config\.json: .* version 0\.1 with config\.model\.keep"):
        read_trained_config(workdir)


@pytest.mark.parametrize("name", ["num_steps", "model.neck"])
def test_a_value_that_became_a_section_is_damage(workdir, name):
    config = json.loads((workdir / "config.json").read_text())
    section, _, field = name.rpartition(".")
    (config[section] if section else config)[field] = {"x": 1}
    (workdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config\.json is damaged: config\.{name}\.x"):
        read_trained_config(workdir)
