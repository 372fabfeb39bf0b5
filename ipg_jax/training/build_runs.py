"""From a config to a whole run: what the command lines call, once."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float64
from ml_collections import ConfigDict

from ipg_jax import data, evaluation
from ipg_jax.images import TileGrid, padding_multiple
from ipg_jax.tasks import DetectionTask
from ipg_jax.text import shown
from ipg_jax.training.build import (
    abstract_state,
    build_image_options,
    build_mesh,
    build_optimizer,
    build_state,
    build_task,
    build_template,
    build_train_step,
    fusion_init,
    run_length,
    space_to_depth,
)
from ipg_jax.training.build_analysis import log_hints
from ipg_jax.training.build_checks import (
    check_initial,
    check_no_decay,
    checked,
    eval_data_field,
    has_eval_data,
    warn_of_large_batch,
    warn_of_warmup,
)
from ipg_jax.training.evaluator import Evaluator, View
from ipg_jax.training.runs import EvalRun, PredictRun, TrainRun
from ipg_jax.training.sharding import batch_devices, check_batch_size, make_mesh, process_rows
from ipg_jax.training.steps import make_predict_step
from ipg_jax.types import Batch

logger = logging.getLogger(__name__)


def build_train_run(config: ConfigDict, *, evaluate: bool = True) -> TrainRun:
    """Returns the training run that a config describes.

    Without evaluation data it is not evaluated (`has_eval_data`).

    Args:
      config: a config of `configs/`.
      evaluate: whether the run is evaluated, for which the evaluation data are read.

    Raises:
      ValueError: the config does not fit the data or the devices; the message names the field.
    """
    config = checked(config)
    check_initial(config)
    mesh = log_mesh(build_mesh(config))
    check_batch_size(mesh, config.batch_size, config.optimizer.accumulation)
    evaluate = evaluate and has_eval_data(config)
    if evaluate:  # now, and not after the first epoch
        check_eval_batch_size(config, mesh)
    task = build_task(config)
    log_fusion_init(config)
    data.make_augmentations(config.data.augmentations)  # before the data are read
    source = build_training_source(config)
    log_repeats(repeats_of(config, source))
    evaluator = None
    if evaluate:
        eval_source = build_source(config, train=False, class_names=source.class_names)
        check_same_classes(source, eval_source)
        evaluator = build_evaluator(config, task, eval_source, mesh)
    log_hints(config, source)
    num_steps, steps_per_epoch = run_length(config, len(source))
    warn_of_large_batch(config, len(source))
    warn_of_warmup(config, num_steps=num_steps, steps_per_epoch=steps_per_epoch)
    optimizer, schedule = build_optimizer(
        config, num_steps=num_steps, steps_per_epoch=steps_per_epoch
    )
    template = abstract_state(config, task, optimizer, mesh)
    check_no_decay(config, template.params)
    placement = jax.tree.map(lambda x: x.sharding, template)
    eval_every = config.eval_every or max(1, round(steps_per_epoch))
    return TrainRun(
        config=json.loads(config.to_json()),
        seed=config.seed,
        mesh=mesh,
        source=source,
        image_size=tuple(config.image_size),
        batch_size=config.batch_size,
        batches=build_train_batches(config, source, mesh, levels=task.pyramid_levels),
        batch_records=functools.partial(
            data.global_batch_records, source, **batch_settings(config, source)
        ),
        init_state=build_state(config, task, optimizer),
        template=template,
        optimizer=optimizer,
        train_step=build_train_step(config, task, optimizer, schedule, mesh, placement),
        init_from=config.init_from,
        init_missing=config.init_missing or "",
        init_unexpected=config.init_unexpected or "",
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        max_unreadable=config.data.max_unreadable,
        log_every=config.log_every,
        eval_every=None if config.eval_only_at_end else eval_every,
        checkpoint_every=config.checkpoint_every,
        keep_checkpoints=config.keep_checkpoints,
        verify_checkpoints=config.verify_checkpoints,
        evaluator=evaluator,
    )


def build_eval_run(config: ConfigDict, *, class_names: Sequence[str] = ()) -> EvalRun:
    """Returns the evaluation that a config describes; it draws no samples.

    Args:
      config: the run's.
      class_names: the classes that it was trained with, some of which the data may lack; empty
        takes those of the config or the data.

    Raises:
      ValueError: the config does not fit the data or the devices; the message names the field.
    """
    config = checked(config)
    mesh = log_mesh(build_mesh(config))
    check_eval_batch_size(config, mesh)
    task = build_task(config)
    field = eval_data_field(config)
    if not config.data[field]:
        raise ValueError(f"config.data.{field} is not set: it names the data to evaluate on")
    source = build_source(config, train=False, class_names=class_names)
    return EvalRun(
        evaluator=build_evaluator(config, task, source, mesh, samples=0),
        template=build_template(config, task, mesh),
        verify_checkpoints=config.verify_checkpoints,
    )


TILES_PER_DEVICE = 4
"""Tiles that each device looks at together in prediction; `config.eval.batch_size` overrides it."""


def build_predict_run(config: ConfigDict, *, tiles: bool = False, whole: bool = True) -> PredictRun:
    """Returns the prediction that a config describes.

    Args:
      config: the run's.
      tiles: whether images are cut into tiles, by the fields of `config.eval`.
      whole: whether then the whole image is looked at as well.

    Raises:
      ValueError: there are fewer devices than `config.mesh.space`, or the size of the tiles is not
        set, or their batch does not divide over the devices.
    """
    config = checked(config)
    space, devices = config.mesh.space, jax.local_devices()
    cut, batch_size = None, 1
    if tiles:
        mesh = make_mesh(space=space, devices=devices)
        batch_size = config.eval.batch_size or TILES_PER_DEVICE * batch_devices(mesh)
        check_batch_size(mesh, batch_size, field="config.eval.batch_size")
        grid = build_eval_grid(config, "--tiles")
        cut = evaluation.Tiles(grid=grid, merge=build_merge(config), whole=whole)
    else:  # one image at a time can be divided by its height alone
        mesh = make_mesh(data=1, space=space, devices=devices[:space])
    task = build_task(config)
    return PredictRun(
        task=task,
        mesh=mesh,
        template=build_template(config, task, mesh),
        verify_checkpoints=config.verify_checkpoints,
        image_size=tuple(config.image_size),
        image_options=build_image_options(config.data),
        tiles=cut,
        batch_size=batch_size,
    )


def log_mesh(mesh: Mesh) -> Mesh:
    """Logs the devices and returns the mesh over them."""
    logger.info(
        "%d %s device(s) in %d process(es), mesh %s",
        jax.device_count(),
        jax.devices()[0].platform,
        jax.process_count(),
        dict(mesh.shape),
    )
    return mesh


def log_fusion_init(config: ConfigDict) -> None:
    """Says how fusions start in a run that starts from trained weights, if the config does not."""
    if config.init_from is None or config.model.fusion_init or not config.model.fusion_stages:
        return
    if fusion_init(config) == "identity":
        logger.info(
            "fusions that config.init_from does not bring start as O = R, so that the stages it "
            "brings see what they were trained on; config.model.fusion_init=default starts them at "
            "random"
        )
    else:
        logger.warning(
            "config.model.fusion=%s cannot start as O = R: where config.init_from does not bring "
            "it, the stages behind the first guided one see something else than they were trained "
            "on",
            config.model.fusion,
        )


def check_eval_batch_size(config: ConfigDict, mesh: Mesh) -> None:
    """Raises ValueError unless the evaluation's batch divides over the devices."""
    field = "config.eval.batch_size" if config.eval.batch_size else "config.batch_size"
    check_batch_size(mesh, config.eval.batch_size or config.batch_size, field=field)


def build_evaluator(
    config: ConfigDict,
    task: DetectionTask,
    source: data.Source,
    mesh: Mesh,
    *,
    samples: int | None = None,
) -> Evaluator:
    """Returns the evaluator that `config.eval` describes.

    Args:
      config: the run's.
      task: its detector.
      source: the data to evaluate on.
      mesh: the devices.
      samples: how many samples it draws; by default `config.eval.samples`.
    """
    detected = tuple(config.eval.detected)
    tiles = None
    if detected != ("whole",):
        grid = build_eval_grid(config, f"config.eval.detected={detected}")
        tiles = build_tiles(config, source, grid)
    return Evaluator(
        task=task,
        mesh=mesh,
        source=source,
        detected=detected,
        tiles=tiles,
        merge=build_merge(config),
        views=build_views(config),
        batch_size=config.eval.batch_size or config.batch_size,
        metric=config.eval.metric,
        area_ranges=build_area_ranges(config),
        max_unreadable=config.data.max_unreadable,
        num_samples=config.eval.samples if samples is None else samples,
        space_to_depth=space_to_depth(config, mesh),
        predict_step=make_predict_step(task.predict, mesh),
    )


def build_area_ranges(config: ConfigDict) -> dict[str, tuple[float, float]] | None:
    """Returns the size classes of `config.eval.area_ranges` in square pixels; None if not set."""
    if config.eval.area_ranges is None:
        return None
    return {
        name: (float(low) ** 2, float(high) ** 2) for name, low, high in config.eval.area_ranges
    }


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


def build_merge(config: ConfigDict) -> evaluation.BoxMerge:
    """Returns how an evaluation or a prediction merges the boxes of tiles."""
    c = config.eval
    return evaluation.BoxMerge(method=c.merge, metric=c.merge_metric, threshold=c.merge_threshold)


def build_tiles(
    config: ConfigDict, source: data.Source, grid: TileGrid, *, empty_tiles: float = 1.0
) -> data.TiledSource:
    """Returns the tiles of a source's images.

    Args:
      config: the run's.
      source: the images.
      grid: how they are cut.
      empty_tiles: share of those without objects that is kept.
    """
    return data.TiledSource(
        source,
        grid,
        min_visible=config.data.min_visible,
        empty_tiles=empty_tiles,
        seed=config.seed,
        cache_bytes=config.data.tile_cache * 2**20,
    )


def build_training_tiles(config: ConfigDict, source: data.Source) -> data.TiledSource:
    """Returns the tiles that a run is trained on, which `config.data` describes; logs their number.

    Raises:
      ValueError: none is left.
    """
    c = config.data
    height, width = c.tile
    settings = f"config.data.tile={(height, width)}, config.data.min_visible={c.min_visible}"
    try:
        tiles = build_tiles(
            config,
            source,
            TileGrid((height, width), c.tile_overlap),
            empty_tiles=c.empty_tiles,
        )
    except ValueError as error:
        raise ValueError(f"{settings}, config.data.empty_tiles={c.empty_tiles}: {error}") from error
    if tiles.records.ignore.all():
        raise ValueError(
            f"{settings}: no object is left to train on, as every tile has less of it. Take larger "
            "tiles, or lower config.data.min_visible"
        )
    logger.info(
        "%s: %d tiles of %d x %d pixels; %d more have no object to learn from and are left out; "
        "%d regions are ignored, the parts of objects of which less than %g is inside among them",
        shown(source.name),
        len(tiles),
        height,
        width,
        tiles.left_out,
        int(tiles.records.ignore.sum()),
        c.min_visible,
    )
    return tiles


def _common(c: ConfigDict, train: bool) -> dict[str, Any]:
    """Returns the arguments of all sources that read files."""
    return {
        "class_names": tuple(c.class_names or ()),
        "drop_empty": train and c.drop_empty,
        "verify": c.verify,
        "image_options": build_image_options(c),
    }


def coco_source(c: ConfigDict, train: bool) -> data.Source:
    """COCO's format: a folder of images and a JSON file."""
    images = c.train_images if train else _needed(c, "eval_images")
    field = "train_annotations" if train else "eval_annotations"
    with _named(field):
        return data.CocoSource(images=images, annotations=c[field], **_common(c, train))


def voc_source(c: ConfigDict, train: bool) -> data.Source:
    """VOC's format: folders with an XML file for each image."""
    root, split = _needed(c, "root"), "train_split" if train else "eval_split"
    with _named("root", split):
        return data.VocSource(root=root, split=c[split], **_common(c, train))


def yolo_source(c: ConfigDict, train: bool) -> data.Source:
    """YOLO's format: `data.yaml`, and a text file for each image."""
    root, split = _needed(c, "root"), "train_split" if train else "eval_split"
    with _named("root", split):
        return data.YoloSource(root=root, split=c[split], **_common(c, train))


def tfds_source(c: ConfigDict, train: bool) -> data.Source:
    """A prepared TFDS data set."""
    name, split = _needed(c, "name"), "train_split" if train else "eval_split"
    with _named("name", split):
        return data.TfdsSource(
            name=name,
            split=c[split],
            data_dir=c.data_dir,
            one_based=c.one_based,
            **_common(c, train),
        )


def digits_source(c: ConfigDict, train: bool) -> data.Source:
    """Scenes of handwritten digits."""
    field = "train_split" if train else "eval_split"
    if c[field] not in ("train", "eval"):
        raise ValueError(f"config.data.{field} of the digits is train or eval, not {c[field]!r}")
    return data.DigitsSource(
        split=c[field],
        num_scenes=c.train_scenes if train else c.eval_scenes,
        scene_size=c.scene_size,
    )


SOURCES: dict[str, Callable[[ConfigDict, bool], data.Source]] = {
    "tfds": tfds_source,
    "coco": coco_source,
    "voc": voc_source,
    "yolo": yolo_source,
    "digits": digits_source,
}
"""What `config.data.source` names: functions of `config.data` and whether it is for training."""


@contextlib.contextmanager
def _named(*fields: str) -> Iterator[None]:
    """Lets errors of a source begin with the fields of `config.data` that say what it reads."""
    try:
        yield
    except (OSError, ValueError) as error:
        names = ", ".join(f"config.data.{field}" for field in fields)
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{names}: {error}") from error


def _needed(c: ConfigDict, field: str) -> str:
    if not c[field]:
        raise ValueError(f"config.data.{field} is not set: config.data.source={c.source} needs it")
    return c[field]


def build_source(
    config: ConfigDict, *, train: bool, class_names: Sequence[str] = ()
) -> data.Source:
    """Returns the training or the evaluation data that `config.data` describes; logs its report.

    Args:
      config: the run's.
      train: which of the two.
      class_names: the classes of the labels, instead of `config.data.class_names`.

    Raises:
      OSError: a file that names the data cannot be read; the message begins with the field.
      ValueError: `config.data.source` is unknown, or the data is damaged, or has other classes
        than the config.
      UnreadableImagesError: more images than `config.data.max_unreadable` allows cannot be used.
    """
    source = open_source(config, train=train, class_names=class_names)
    if len(source.class_names) != config.model.num_classes:
        raise ValueError(
            f"{shown(source.name)} has {len(source.class_names)} classes "
            f"({', '.join(map(shown, source.class_names))}), "
            f"config.model.num_classes is {config.model.num_classes}: "
            f"set --config.model.num_classes={len(source.class_names)}, or name the classes in "
            "config.data.class_names"
        )
    log_report(source)
    data.check_listed(source, config.data.max_unreadable)
    return source


def open_source(
    config: ConfigDict, *, train: bool, class_names: Sequence[str] = (), verify: str | None = None
) -> data.Source:
    """Returns the data that `config.data` describes, whatever the model.

    Args:
      config: the run's.
      train: whether those of training or of evaluation.
      class_names: the classes of the labels, instead of `config.data.class_names`.
      verify: how the images are checked, instead of `config.data.verify`.

    Raises:
      OSError: a file that names the data cannot be read; the message begins with the field.
      ValueError: `config.data.source` is unknown, the data is damaged, or has no such classes.
    """
    c = config.data.copy_and_resolve_references()
    if c.source not in SOURCES:
        raise ValueError(f"config.data.source is one of {', '.join(SOURCES)}, not {c.source!r}")
    c.verify = verify or c.verify
    class_names, ignored = tuple(class_names or c.class_names or ()), tuple(c.ignore_classes)
    if both := set(class_names) & set(ignored):
        raise ValueError(
            f"config.data.ignore_classes has {shown(min(both))}, which is one of the classes "
            f"({', '.join(map(shown, class_names))}): leave it out of one of them"
        )
    if class_names:
        c.class_names = class_names + ignored  # the data may have objects of all of these
    source = SOURCES[c.source](c, train)
    with _named("ignore_classes"):
        return source.ignoring(ignored)


def log_report(source: data.Source) -> None:
    """Logs what was found wrong with the data."""
    logger.info("%s: %d images", shown(source.name), len(source))
    for line in source.report.lines():
        logger.info("  %s", line)


def build_training_source(config: ConfigDict) -> data.Source:
    """Returns what a run is trained on: the training data's images, or tiles of them.

    Raises:
      ValueError: there is no object to learn from; besides the errors of `build_source`.
    """
    source = build_source(config, train=True)
    check_training_data(source)
    return source if config.data.tile is None else build_training_tiles(config, source)


def check_training_data(source: data.Source) -> None:
    """Raises ValueError unless data have annotations, and an object to learn from."""
    check_annotated(source)
    if source.records.ignore.all():
        raise ValueError(f"no object is left to train on in {source.report}")


def check_same_classes(source: data.Source, eval_source: data.Source) -> None:
    """Raises ValueError unless evaluation data are annotated with the classes of the training."""
    check_annotated(eval_source)
    if source.class_names != eval_source.class_names:
        raise ValueError(
            f"training and evaluation data have different classes.\n"
            f"{shown(source.name)}: {', '.join(map(shown, source.class_names))}\n"
            f"{shown(eval_source.name)}: {', '.join(map(shown, eval_source.class_names))}"
        )


def check_annotated(source: data.Source) -> None:
    """Raises ValueError for data without annotations, which training cannot use."""
    if not source.records.annotated:
        raise ValueError(
            f"{source.report.origin} has no annotations: training needs a file that has them, "
            "for config.data.train_annotations and config.data.eval_annotations; eval.py "
            "writes detections without them"
        )


def build_train_batches(
    config: ConfigDict, source: data.Source, mesh: Mesh, *, levels: int
) -> Callable[[int], Generator[Batch, None, None]]:
    """Returns the function from a step to this process's rows of the run's batches from there on.

    Args:
      config: the run's.
      source: its training data.
      mesh: of the devices that divide a batch.
      levels: of the image pyramid.
    """
    settings = batch_settings(config, source)

    def batches(start_step: int) -> Generator[Batch, None, None]:
        return data.train_batches(
            source,
            **settings,
            start_step=start_step,
            levels=levels,
            max_boxes=config.data.max_boxes,
            flip=config.data.flip,
            pad_multiple=padding_multiple(levels, mesh.shape["space"]),
            space_to_depth=space_to_depth(config, mesh),
            rows=process_rows(mesh, config.batch_size),
        )

    return batches


def batch_settings(config: ConfigDict, source: data.Source) -> dict[str, Any]:
    """Returns the arguments of `data.train_batches` that say which images a batch has.

    Args:
      config: the run's.
      source: its training data.

    Raises:
      ValueError: `config.data.augmentations` has something that is no augmentation.
    """
    return {
        "batch_size": config.batch_size,
        "seed": config.seed,
        "image_size": tuple(config.image_size),
        "train_sizes": tuple(map(tuple, config.data.train_sizes or ())),
        "augmentations": data.make_augmentations(config.data.augmentations),
        "repeats": repeats_of(config, source),
    }


def build_augmented(config: ConfigDict) -> tuple[data.Source, dict[str, Any]]:
    """Returns the training data of a config, and the arguments of `data.train_example`.

    Raises:
      ValueError: the config does not fit the data; the message names the field.
    """
    config = checked(config)
    augmentations = data.make_augmentations(config.data.augmentations)
    return build_training_source(config), {
        "seed": config.seed,
        "image_size": tuple(config.image_size),
        "flip": config.data.flip,
        "augmentations": augmentations,
    }


def repeats_of(config: ConfigDict, source: data.Source) -> Float64[np.ndarray, " n"]:
    """Returns how often each training image comes in an epoch (`data.repeat_factors`)."""
    return data.repeat_factors(
        source.records,
        len(source.class_names),
        class_share=config.data.repeat_share,
        small_repeat=config.data.repeat_small,
    )


def log_repeats(repeats: Float64[np.ndarray, " n"]) -> None:
    """Says how the images that come more than once change what a run sees."""
    if repeats.max() > 1:
        logger.info(
            "of %d images %d come more than once, up to %.3g times: they are %.0f %% of those "
            "that the run sees (config.data.repeat_share, config.data.repeat_small)",
            len(repeats),
            (repeats > 1).sum(),
            repeats.max(),
            100 * repeats[repeats > 1].sum() / repeats.sum(),
        )


def build_views(config: ConfigDict) -> list[View]:
    """Returns the ways in which an evaluation looks at every image, plain ones before mirrored.

    One, `config.image_size` as it is, unless `config.eval.scales` and `config.eval.flips` ask for
    test-time augmentation.
    """
    scales = config.eval.scales or (tuple(config.image_size),)
    mirrored = (False, True) if config.eval.flips else (False,)
    return [View((short, long), flip) for flip in mirrored for short, long in scales]
