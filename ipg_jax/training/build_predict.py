"""From a trained run to its detector, as prediction uses it; without the data and TensorFlow."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ipg_jax.evaluation import BoxMerge, Tiles
from ipg_jax.images import TileGrid
from ipg_jax.tasks import DetectionTask
from ipg_jax.training.build import build_image_options, build_task, build_template
from ipg_jax.training.build_checks import checked
from ipg_jax.training.build_fields import fields
from ipg_jax.training.build_trained import for_trained
from ipg_jax.training.sharding import batch_devices, check_batch_size, make_mesh
from ipg_jax.training.state import TrainState
from ipg_jax.training.trained import (
    TrainedDetector,
    check_categories,
    check_thresholds,
    read_classes,
    read_thresholds,
    restore_variables,
)
from ipg_jax.types import PyTree
from ipg_jax.weights import Weights, initialize, is_weights, load_detector, locate

TILES_PER_DEVICE = 4
"""Of a batch in prediction, unless `config.eval.batch_size` says otherwise."""


def load_trained(
    path: epath.PathLike,
    *,
    checkpoint: str = "best",
    config: ConfigDict | None = None,
    tiles: bool = False,
    whole: bool = True,
) -> TrainedDetector:
    """Loads the detector of a run.

    Args:
      path: the workdir, local or `gs://`, or `checkpoints/<step>` in it; or the file of a whole
        detector (`detector_weights`), or the name of one (`weights.known_models`).
      checkpoint: of a workdir: a step, `best` or `latest`.
      config: the run's own, changed where that does not make the model (`for_trained`).
      tiles: whether images are cut into tiles, by the fields of `config.eval`.
      whole: whether then the whole image is looked at as well.

    Raises:
      FileNotFoundError: there is no such run or checkpoint.
      ValueError: `checkpoint` is given and the path is no workdir, a file of the run is damaged,
        its classes are not as many as the model's, there are fewer devices than
        `config.mesh.space`, or the size of the tiles is not set, or their batch does not divide
        over the devices.
    """
    path = locate(path)
    is_step = path.name.isdigit() and path.parent.name == "checkpoints"
    if checkpoint != "best" and (is_step or is_weights(path)):
        raise ValueError(f"{path} is one detector: checkpoint={checkpoint} is for a whole workdir")
    if is_step:
        path, checkpoint = path.parent.parent, path.name
    config = checked(for_trained(None, path) if config is None else config)
    mesh, batch_size, cut = build_prediction(config, tiles=tiles, whole=whole)
    task = build_task(config)
    template = build_template(config, task, mesh)
    if is_weights(path):
        stored = _read_file(path, task, template)
    else:
        stored = _read_run(path, checkpoint, task, template, verify=config.verify_checkpoints)
    return TrainedDetector(
        task=task,
        variables=stored.variables,
        categories=stored.categories,
        mesh=mesh,
        image_size=tuple(config.image_size),
        image_options=build_image_options(config.data),
        tiles=cut,
        batch_size=batch_size,
        thresholds=stored.thresholds,
    )


class _Stored(NamedTuple):
    variables: PyTree
    categories: list[dict[str, Any]]
    thresholds: tuple[float | None, ...] | None


def _read_run(
    workdir: epath.Path, checkpoint: str, task: DetectionTask, template: TrainState, *, verify: bool
) -> _Stored:
    categories = read_classes(workdir)
    if len(categories) != task.num_classes:
        raise ValueError(
            f"{workdir}/classes.json names {len(categories)} classes, the model of the run has "
            f"{task.num_classes}: remove this file, and start the training again, which writes it"
        )
    step, variables = restore_variables(workdir, checkpoint, template, verify=verify)
    names = [category["name"] for category in categories]
    return _Stored(variables, categories, read_thresholds(workdir, step, names))


def _read_file(path: epath.Path, task: DetectionTask, template: TrainState) -> _Stored:
    weights, detector = load_detector(path)
    try:
        categories = check_categories(detector["categories"])
        if len(categories) != task.num_classes:
            raise ValueError(f"{len(categories)} classes, and the model has {task.num_classes}")
        thresholds = detector["thresholds"]
        if thresholds is not None:
            thresholds = check_thresholds(thresholds, len(categories))
        return _Stored(initialize(template.eval_variables, weights), categories, thresholds)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


PATHS = (
    "init_from",
    "data.train_images",
    "data.train_annotations",
    "data.eval_images",
    "data.eval_annotations",
    "data.root",
    "data.data_dir",
)
"""Fields that mean something on the machine of the training alone."""


def detector_weights(
    workdir: epath.PathLike, *, checkpoint: str = "best", about: str = ""
) -> Weights:
    """Returns the weights of a run together with all that it takes to detect with them.

    Args:
      workdir: folder of the run, local or `gs://`.
      checkpoint: a step, `best` or `latest`.
      about: what to say of the detector: its data, figures and licence.

    Raises:
      FileNotFoundError: there is no such run or checkpoint.
      ValueError: a file of the run is damaged.
    """
    config = checked(for_trained(None, workdir))
    trained = load_trained(workdir, checkpoint=checkpoint, config=config)
    kept = config.copy_and_resolve_references().unlock()
    for path in PATHS:
        *sections, field = path.split(".")
        section = kept[sections[0]] if sections else kept
        section[field] = None if fields()[path].optional else "elsewhere"
    thresholds = trained.thresholds
    detector = {
        "config": json.loads(kept.to_json()),
        "categories": trained.categories,
        "thresholds": None if thresholds is None else list(thresholds),
        "about": about,
    }
    names = [category["name"] for category in trained.categories]
    weights = Weights.of(jax.device_get(trained.variables), names)
    return dataclasses.replace(weights, detector=detector)


def build_prediction(
    config: ConfigDict, *, tiles: bool = False, whole: bool = True
) -> tuple[Mesh, int, Tiles | None]:
    """Returns the devices of a prediction, the size of its batches, and how images are cut.

    Args and errors are those of `load_trained`.
    """
    space, devices = config.mesh.space, jax.local_devices()
    if not tiles:  # one image at a time can be divided by its height alone
        return make_mesh(data=1, space=space, devices=devices[:space]), 1, None
    mesh = make_mesh(space=space, devices=devices)
    batch_size = config.eval.batch_size or TILES_PER_DEVICE * batch_devices(mesh)
    check_batch_size(mesh, batch_size, field="config.eval.batch_size")
    grid = build_eval_grid(config, "--tiles")
    return mesh, batch_size, Tiles(grid=grid, merge=build_merge(config), whole=whole)


def build_eval_grid(config: ConfigDict, wanted_by: str) -> TileGrid:
    """Returns how an evaluation or a prediction cuts images into tiles.

    Args:
      config: the run's.
      wanted_by: what asks for tiles, for the message.

    Raises:
      ValueError: their size is not set.
    """
    tile = config.eval.tile or config.data.tile
    if tile is None:
        raise ValueError(
            f"{wanted_by} asks for tiles, and neither config.eval.tile nor config.data.tile says "
            "of what size: set --config.eval.tile='(512, 512)', say, height and width in pixels"
        )
    height, width = tile
    return TileGrid((height, width), config.eval.tile_overlap)


def build_merge(config: ConfigDict) -> BoxMerge:
    """Returns how an evaluation or a prediction merges the boxes of tiles."""
    c = config.eval
    return BoxMerge(method=c.merge, metric=c.merge_metric, threshold=c.merge_threshold)
