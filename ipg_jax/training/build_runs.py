"""From a config to a whole run: what the command lines call, once."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Sequence

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ipg_jax import data
from ipg_jax.tasks import DetectionTask
from ipg_jax.training.build import (
    abstract_state,
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
    has_eval_data,
    warn_of_large_batch,
    warn_of_warmup,
)
from ipg_jax.training.build_data import (
    batch_settings,
    build_source,
    build_tiles,
    build_train_batches,
    build_training_source,
    check_same_classes,
    log_repeats,
    repeats_of,
)
from ipg_jax.training.build_predict import build_eval_grid, build_merge
from ipg_jax.training.evaluator import Evaluator, View
from ipg_jax.training.runs import EvalRun, TrainRun
from ipg_jax.training.sharding import check_batch_size
from ipg_jax.training.steps import make_predict_step
from ipg_jax.training.trackers import check_installed

logger = logging.getLogger(__name__)


def build_train_run(config: ConfigDict, *, evaluate: bool = True) -> TrainRun:
    """Returns the training run that a config describes.

    Without evaluation data it is not evaluated (`has_eval_data`).

    Args:
      config: a config of `configs/`.
      evaluate: whether the run is evaluated, for which the evaluation data are read.

    Raises:
      ImportError: the package of a tracker is not installed; the message names the extra.
      ValueError: the config does not fit the data or the devices; the message names the field.
    """
    config = checked(config)
    check_initial(config)
    check_installed(config.trackers)
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
        trackers=tuple(config.trackers),
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
    source = build_source(config, train=False, class_names=class_names)
    return EvalRun(
        evaluator=build_evaluator(config, task, source, mesh, samples=0),
        template=build_template(config, task, mesh),
        verify_checkpoints=config.verify_checkpoints,
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


def build_views(config: ConfigDict) -> list[View]:
    """Returns the ways in which an evaluation looks at every image, plain ones before mirrored.

    One, `config.image_size` as it is, unless `config.eval.scales` and `config.eval.flips` ask for
    test-time augmentation.
    """
    scales = config.eval.scales or (tuple(config.image_size),)
    mirrored = (False, True) if config.eval.flips else (False,)
    return [View((short, long), flip) for flip in mirrored for short, long in scales]
