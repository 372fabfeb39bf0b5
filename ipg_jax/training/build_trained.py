"""The config of a trained run, from its workdir's `config.json`, and what may be changed of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ipg_jax.files import is_regular, read_regular
from ipg_jax.training.build_checks import checked
from ipg_jax.training.build_compat import fields_of, get_field, has_field, leaves
from ipg_jax.training.build_fields import fields
from ipg_jax.training.checkpoint_files import find_steps
from ipg_jax.weights import is_weights, load_detector, locate

logger = logging.getLogger(__name__)

CHANGEABLE = (
    "model.kernels",
    "model.dtype",
    "model.remat",
    "model.fusion_init",
    "model.matcher",
    "model.foreground_iou",
    "model.background_iou",
    "model.ignore_overlap",
    "model.nwd_constant",
    "model.retinanet_head.box_loss",
    "model.retinanet_head.class_loss",
    "model.retinanet_head.average",
    "model.retinanet_head.candidates_per_level",
    "model.rpn.candidates",
    "model.rpn.proposals",
    "model.box_head.rois_per_image",
)
"""Fields of `config.model` that say how a model is trained or computed, and not what it is."""

OF_THE_STATE = ("optimizer.name", "optimizer.frozen", "optimizer.clip_norm", "optimizer.ema_decay")
"""Other fields that the arrays of a checkpoint depend on."""


def read_trained_config(workdir: epath.PathLike) -> ConfigDict | None:
    """Returns the config that a run was trained with; None if its workdir has no `config.json`.

    Args:
      workdir: folder of the run, which any version wrote; or the name or file of a whole detector
        (`Weights.detector`).

    Raises:
      ValueError: the file is damaged, or this version cannot do what it says, or it is one of
        weights alone.
    """
    path = locate(workdir)
    if is_weights(path):
        _, detector = load_detector(path)
        return trained_config(detector["config"], path)
    if is_regular(path):
        raise ValueError(
            f"{path} is neither a run nor a .safetensors of ipg-jax weights, which can be changed; "
            "what ipg-jax export --format=stablehlo writes is read by Detector.load alone"
        )
    path = path / "config.json"
    if not path.exists():
        return None
    try:
        document = json.loads(read_regular(path).decode())
        if not isinstance(document, dict):
            raise ValueError("it holds no JSON object")
    except (ValueError, RecursionError) as error:
        raise _unusable(path, error) from error
    return trained_config(document, path)


def trained_config(document: Mapping[str, Any], path: epath.PathLike) -> ConfigDict:
    """Returns the config that a run was trained with.

    Args:
      document: as its `config.json` has it.
      path: of that file, for messages.

    Raises:
      ValueError: it is damaged, or this version cannot do what it says.
    """
    try:
        values = fields_of(document)
    except (ValueError, TypeError, RecursionError) as error:
        raise _unusable(path, error) from error
    known = fields()
    missing = [name for name, field in known.items() if name not in values and not field.optional]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: it is damaged, or of another version")
    config = ConfigDict()
    for name, field in known.items():
        _set(config, name, placeholder(field.kind) if field.optional else values.get(name))
        if field.optional and values.get(name) is not None:
            _set(config, name, values[name])
    for name in values.keys() - known.keys():  # of a source of data of one's own, say
        try:
            _set(config, name, values[name])
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    return config.lock()


def _unusable(path: epath.PathLike, error: Exception) -> ValueError:
    return ValueError(
        f"{path}: {error}. The run's config can also be given: --config=configs/NAME.py with its "
        "overrides"
    )


def _set(config: ConfigDict, path: str, value: Any) -> None:
    *sections, field = path.split(".")
    for name in sections:
        if name not in config:
            config[name] = ConfigDict()
        config = config[name]
        if not isinstance(config, ConfigDict):
            raise ValueError(f"config.{path}: {name} is a value, and no section of fields")
    with config.ignore_type():  # a value of another kind is named by `checked`
        config[field] = value


def for_trained(given: ConfigDict | None, workdir: epath.PathLike) -> ConfigDict:
    """Returns the config to evaluate a trained run with or to predict with it.

    It is that of the run, in which other fields than those that make the model may be changed; the
    changes are logged. A field of the model that is not set is as it was trained.

    Args:
      given: what the command line says: the run's own config with overrides, or another's.
      workdir: folder of the run.

    Raises:
      FileNotFoundError: the workdir has no `config.json`, and nothing is given.
      ValueError: the model would be another one, or a field holds what it may not; the message
        names each field.
    """
    trained = read_trained_config(workdir)
    if trained is None:
        if given is None:
            raise FileNotFoundError(f"no {workdir}/config.json: was this run trained?")
        logger.warning("%s has no config.json to compare the config with", workdir)
        return given
    if given is None:
        return trained
    given = checked(given)
    refused, changes = [], []
    for path, before, now in _differences(trained, given):
        if _makes_the_model(path):
            if now is not None:
                refused.append(f"config.{path}: trained with {before!r}, given {now!r}")
            continue
        changes.append(f"config.{path}={now!r}, trained with {before!r}")
        _set(trained, path, now)
    if refused:
        raise ValueError(
            f"the model of {workdir} is another one than the config says:\n  "
            + "\n  ".join(refused)
            + f"\nleave these fields out, or --config altogether: {workdir}/config.json has them"
        )
    for change in changes:
        logger.info("%s", change)
    return trained


def check_same_model(config: ConfigDict, workdir: epath.PathLike) -> None:
    """Checks that a training goes on with the model that its workdir has checkpoints of.

    Else `eval.py` would take the new config for the old checkpoints too. Where `config.json` cannot
    be understood, there is a warning, and `workdir.check_workdir` tells whether the run can go on.

    Raises:
      ValueError: the model is another one; the message names each field.
    """
    checkpoints = epath.Path(workdir) / "checkpoints"
    if not checkpoints.is_dir() or not find_steps(checkpoints):
        return
    try:
        trained = read_trained_config(workdir)
    except ValueError as error:
        logger.warning("the model is not compared with that of the checkpoints: %s", error)
        return
    if trained is None:
        return
    refused = [
        f"config.{path}: trained with {before!r}, given {now!r}"
        for path, before, now in _differences(trained, config)
        if _makes_the_model(path)
    ]
    if refused:
        raise ValueError(
            f"{workdir} has checkpoints of another model:\n  "
            + "\n  ".join(refused)
            + f"\nuse another workdir; --config.init_from={workdir} there starts from these weights"
        )


def _differences(trained: ConfigDict, given: ConfigDict) -> Iterator[tuple[str, Any, Any]]:
    """The fields of a config that are not as in that of a run, and both values."""
    for path, now in leaves(given):
        before = get_field(trained, path) if has_field(trained, path) else None
        if before != now:
            yield path, before, now


def _makes_the_model(path: str) -> bool:
    return (path.startswith("model.") and path not in CHANGEABLE) or path in OF_THE_STATE
