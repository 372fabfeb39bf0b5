"""From `config.data` to the images, tiles and batches that a run is trained and evaluated on."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float64
from ml_collections import ConfigDict

from ipg_jax import data
from ipg_jax.images import TileGrid, padding_multiple
from ipg_jax.text import shown
from ipg_jax.training.build import build_image_options, space_to_depth
from ipg_jax.training.build_checks import checked, eval_data_field
from ipg_jax.training.sharding import process_rows
from ipg_jax.types import Batch

logger = logging.getLogger(__name__)


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


def _purpose(c: ConfigDict, train: bool) -> str:
    """Returns how the fields begin that say what is read: where one is divided, as in training."""
    return "train" if train or c.eval_share else "eval"


def _dividing(c: ConfigDict) -> tuple[str, ...]:
    """Returns the field that divides the data, if one does, to be named in errors."""
    return ("eval_share",) if c.eval_share else ()


def _divided(c: ConfigDict, train: bool) -> dict[str, Any]:
    """Returns the arguments of the sources that `config.data.eval_share` can divide."""
    share = {"eval_share": c.eval_share, "train": train, "seed": c.split_seed}
    return _common(c, train) | {"part": data.Part(**share) if c.eval_share else data.Part()}


def coco_source(c: ConfigDict, train: bool) -> data.Source:
    """COCO's format: a folder of images and a JSON file."""
    purpose = _purpose(c, train)
    images, field = _needed(c, f"{purpose}_images"), f"{purpose}_annotations"
    with _named(field, *_dividing(c)):
        return data.CocoSource(images=images, annotations=c[field], **_divided(c, train))


def voc_source(c: ConfigDict, train: bool) -> data.Source:
    """VOC's format: folders with an XML file for each image."""
    root, split = _needed(c, "root"), f"{_purpose(c, train)}_split"
    with _named("root", split, *_dividing(c)):
        return data.VocSource(root=root, split=c[split], **_divided(c, train))


def yolo_source(c: ConfigDict, train: bool) -> data.Source:
    """YOLO's format: `data.yaml`, and a text file for each image."""
    root, split = _needed(c, "root"), f"{_purpose(c, train)}_split"
    with _named("root", split, *_dividing(c)):
        return data.YoloSource(root=root, split=c[split], **_divided(c, train))


def huggingface_source(c: ConfigDict, train: bool) -> data.Source:
    """A data set of Hugging Face's `datasets`, on a disk."""
    root, split = _needed(c, "root"), f"{_purpose(c, train)}_split"
    with _named("root", split, *_dividing(c)):
        return data.HuggingFaceSource(root=root, split=c[split], **_divided(c, train))


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
    "huggingface": huggingface_source,
    "digits": digits_source,
}
"""What `config.data.source` names: functions of `config.data` and whether it is for training."""


DIVISIBLE = ("coco", "voc", "yolo", "huggingface")
"""Sources that `config.data.eval_share` can divide."""


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
    if config.data.eval_share:
        logger.info(
            "config.data.eval_share=%g: these %d images are those to %s on",
            config.data.eval_share,
            len(source),
            "train" if train else "evaluate",
        )
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
      ValueError: `config.data.source` is unknown, there are no data to evaluate on, or the data is
        damaged or has no such classes.
    """
    c = config.data.copy_and_resolve_references()
    if c.source not in SOURCES:
        raise ValueError(f"config.data.source is one of {', '.join(SOURCES)}, not {c.source!r}")
    if c.eval_share and c.source not in DIVISIBLE:
        raise ValueError(
            f"config.data.eval_share={c.eval_share} divides the data of {', '.join(DIVISIBLE)}, "
            f"not of {c.source}; of tfds, take slices such as config.data.train_split=train[:80%]"
        )
    if not train and not c[field := eval_data_field(config)]:
        raise ValueError(f"config.data.{field} is not set: it names the data to evaluate on")
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

    Images have the size of `config.image_size`, also where training takes those of
    `config.data.train_sizes`.

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
        source,
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
