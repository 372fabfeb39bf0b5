"""From a trained run to its detector, as prediction uses it; without the data and TensorFlow."""

from __future__ import annotations

import jax
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ipg_jax.evaluation import BoxMerge, Tiles
from ipg_jax.images import TileGrid
from ipg_jax.training.build import build_image_options, build_task, build_template
from ipg_jax.training.build_checks import checked
from ipg_jax.training.build_trained import for_trained
from ipg_jax.training.sharding import batch_devices, check_batch_size, make_mesh
from ipg_jax.training.trained import (
    TrainedDetector,
    read_classes,
    read_thresholds,
    restore_variables,
)

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
      path: the workdir, local or `gs://`, or `checkpoints/<step>` in it.
      checkpoint: of a workdir: a step, `best` or `latest`.
      config: the run's own, changed where that does not make the model (`for_trained`).
      tiles: whether images are cut into tiles, by the fields of `config.eval`.
      whole: whether then the whole image is looked at as well.

    Raises:
      FileNotFoundError: there is no such run or checkpoint.
      ValueError: a file of the run is damaged, its classes are not as many as the model's, there
        are fewer devices than `config.mesh.space`, or the size of the tiles is not set, or their
        batch does not divide over the devices.
    """
    workdir = epath.Path(path)
    if workdir.name.isdigit() and workdir.parent.name == "checkpoints":
        workdir, checkpoint = workdir.parent.parent, workdir.name
    config = checked(for_trained(None, workdir) if config is None else config)
    mesh, batch_size, cut = build_prediction(config, tiles=tiles, whole=whole)
    task = build_task(config)
    categories = read_classes(workdir)
    if len(categories) != task.num_classes:
        raise ValueError(
            f"{workdir}/classes.json names {len(categories)} classes, the model of the run has "
            f"{task.num_classes}: remove this file, and start the training again, which writes it"
        )
    template = build_template(config, task, mesh)
    step, variables = restore_variables(
        workdir, checkpoint, template, verify=config.verify_checkpoints
    )
    return TrainedDetector(
        task=task,
        variables=variables,
        categories=categories,
        mesh=mesh,
        image_size=tuple(config.image_size),
        image_options=build_image_options(config.data),
        tiles=cut,
        batch_size=batch_size,
        thresholds=read_thresholds(workdir, step, [category["name"] for category in categories]),
    )


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
