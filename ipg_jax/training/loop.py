"""The runs behind the command lines: train, evaluate, predict.

This module, `build` and `benchmark` are the only readers of a config.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import logging
import signal
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import UInt8
from ml_collections import ConfigDict

from ipg_jax import data, evaluation, visualize
from ipg_jax.tasks import DetectionTask
from ipg_jax.training.build import (
    View,
    abstract_state,
    build_optimizer,
    build_source,
    build_state,
    build_task,
    build_train_batches,
    build_train_step,
    build_views,
    run_length,
)
from ipg_jax.training.checkpoint import Checkpoints, config_digest, load_variables
from ipg_jax.training.metrics import DivergedError, MetricWriter, Progress, duration, log_progress
from ipg_jax.training.prefetch import prefetch_to_device
from ipg_jax.training.sharding import (
    check_batch_size,
    gathered,
    image_sharding,
    make_mesh,
    process_rows,
    replicated,
    shard_batch,
)
from ipg_jax.training.state import TrainState
from ipg_jax.training.steps import Metrics, PredictStep, make_predict_step
from ipg_jax.types import Batch, Detections, PyTree
from ipg_jax.weights import SUFFIXES, Weights, initialize, load_weights

logger = logging.getLogger(__name__)

SAMPLE_SIDE = 480  # pixels of the short side of a sample picture, at least about this
SAMPLE_SCORE = 0.3  # least score of a box that is drawn in one


def train(config: ConfigDict, workdir: epath.PathLike) -> dict[str, Any] | None:
    """Trains as `config` says, or goes on with the run that `workdir` holds.

    The batches, and with them the whole run, are a function of the config alone: a run that was
    killed and started again ends with the same parameters as one that was not. On SIGTERM it saves
    and returns.

    Args:
      config: a config of `configs/`.
      workdir: folder of the run (see the README for what it holds); made if need be.

    Returns:
      The metrics of the last evaluation, empty if the run was at its end already, or None if it
      was stopped by SIGTERM before its end.

    Raises:
      DivergedError: a loss was not finite; the message names the step and the images.
      ValueError: the config does not fit the data, the devices or the checkpoint.
    """
    workdir = epath.Path(workdir)
    chief = jax.process_index() == 0
    begin = time.perf_counter()

    # ------------------------------------------------------------------ mesh
    mesh = make_mesh(**config.mesh)
    check_batch_size(mesh, config.batch_size, config.optimizer.accumulation)
    if config.eval.batch_size:  # now, and not after the first epoch
        check_batch_size(mesh, config.eval.batch_size, field="eval.batch_size")
    logger.info(
        "%d %s device(s) in %d process(es), mesh %s",
        jax.device_count(),
        jax.devices()[0].platform,
        jax.process_count(),
        dict(mesh.shape),
    )

    # ------------------------------------------------------------------ input
    task = build_task(config)
    views = build_views(config)
    source = build_source(config, train=True)
    eval_source = build_source(config, train=False)
    check_same_classes(source, eval_source)
    for which in (source, eval_source):
        check_annotated(which)
        logger.info("%s: %d images", which.name, len(which))
        for line in which.report.lines():
            logger.info("  %s", line)
    num_steps, steps_per_epoch = run_length(config, len(source))
    eval_every = config.eval_every or max(1, round(steps_per_epoch))

    # ------------------------------------------------------------------ workdir
    if chief:
        write_run_files(config, workdir, source)

    # ------------------------------------------------------------------ state: resume, else
    # init_from, else scratch
    optimizer, schedule = build_optimizer(
        config, num_steps=num_steps, steps_per_epoch=steps_per_epoch
    )
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        keep=config.keep_checkpoints,
        digest=config_digest(_plain(config)),
    )

    create = build_state(config, task, optimizer)
    key = jax.random.key(config.seed)
    template = abstract_state(config, task, optimizer, mesh)
    placement = jax.tree.map(lambda x: x.sharding, template)
    if checkpoints.latest is not None:
        state = checkpoints.restore(template)
        logger.info("resumed %s at step %d", workdir, state.step)
    else:
        state = jax.jit(create, out_shardings=placement)(key)
        if config.init_from:
            variables = initialize(
                gathered(mesh, state.variables),
                load_initial(config.init_from),
                class_names=source.class_names,
                missing=config.init_missing,
                unexpected=config.init_unexpected,
            )
            state = TrainState.create(variables, optimizer, ema=state.ema is not None)
            state = jax.device_put(state, placement)
            logger.info("started from %s", config.init_from)
    logger.info("%.2f M parameters", sum(x.size for x in jax.tree.leaves(state.params)) / 1e6)
    start = int(state.step)

    # ------------------------------------------------------------------ programs
    train_step = build_train_step(config, task, optimizer, schedule, mesh, placement)
    predict_step = make_predict_step(task.predict, mesh)
    batches = build_train_batches(config, task, source, mesh, start)
    placed = prefetch_to_device(batches, functools.partial(shard_batch, mesh))
    writer = MetricWriter(workdir, start_step=start, enabled=chief)
    progress = Progress(start, num_steps, config.batch_size)
    window: list[dict[str, float]] = []
    pending: Metrics | None = None
    evaluated: dict[str, Any] | None = None

    def finish(step: int) -> None:
        """Waits for `step`, checks that it is sound and counts it."""
        nonlocal pending
        if pending is None:
            return
        values = {name: float(value) for name, value in jax.device_get(pending).items()}
        pending = None
        if not np.isfinite([values["loss"], values["grad_norm"]]).all():
            records = data.global_batch_records(
                source,
                step - 1,
                batch_size=config.batch_size,
                seed=config.seed,
                image_size=tuple(config.image_size),
            )
            images = ", ".join(f"{number} ({name})" for number, name in records)
            raise DivergedError(
                f"step {step}: {', '.join(f'{k}={v:.4g}' for k, v in values.items())}; "
                f"its images were {images}. The last good checkpoint is {checkpoints.latest}. "
                "Lower config.optimizer.learning_rate, set config.optimizer.clip_norm, or look "
                "at these images."
            )
        window.append(values)
        progress.tick(step)

    # ------------------------------------------------------------------ loop
    with (
        contextlib.closing(placed),
        contextlib.closing(checkpoints),
        contextlib.closing(writer),
        StopSignal() as stop,
    ):
        for step in range(start + 1, num_steps + 1):
            state, metrics = train_step(state, next(placed), key)
            # One step is in flight while its predecessor is looked at: the device never waits for
            # the host, and a bad loss is seen at once.
            finish(step - 1)
            pending = metrics
            if step == start + 1:
                finish(step)
                logger.info("first step after %s", duration(time.perf_counter() - begin))

            last = step == num_steps
            evaluate_now = last or (eval_every > 0 and step % eval_every == 0)
            stopping = stop.requested or checkpoints.reached_preemption(step)
            if step % config.log_every == 0 or evaluate_now or stopping:
                finish(step)
                means = {k: float(np.mean([w[k] for w in window])) for k in window[0]}
                window.clear()
                log_progress(step, num_steps, step / steps_per_epoch, means, progress)
                speed = {"images_per_second": progress.images_per_second}
                unreadable = {"unreadable_images": float(source.unreadable)}
                writer.scalars(
                    step, {f"train/{k}": v for k, v in (means | speed | unreadable).items()}
                )
            evaluated = None
            if evaluate_now and not (stopping and not last):
                evaluated = evaluate_variables(
                    config,
                    task,
                    predict_step,
                    gathered(mesh, state.eval_variables),
                    eval_source,
                    views,
                    mesh,
                    writer,
                    step,
                )
                if chief:
                    write_evaluation(workdir, step, evaluated, eval_source)
            if evaluated or stopping or step % config.checkpoint_every == 0:
                finish(step)
                checkpoints.save(step, state, evaluated["coco"] if evaluated else None)
                progress.pause()
            if stopping and not last:
                logger.info("stopped at step %d: start the same command again to go on", step)
                break
    if start >= num_steps:
        logger.info("nothing to do: %s is at step %d of %d", workdir, start, num_steps)
        return {}
    return evaluated


def evaluate(
    config: ConfigDict, workdir: epath.PathLike, checkpoint: str = "best"
) -> dict[str, Any]:
    """Evaluates a checkpoint of `workdir` and writes `eval/metrics.json` and `detections.json`.

    Args:
      config: the run's config; the data to evaluate on may differ.
      workdir: folder of the run.
      checkpoint: a step, `best` or `latest`.

    Returns:
      `{"coco": ..., "voc": ..., "results": ...}` (see `evaluate_variables`).

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: the data has other classes than the run was trained with, or the batch does not
        divide over the devices.
    """
    workdir = epath.Path(workdir)
    mesh = make_mesh(**config.mesh)
    field = "eval.batch_size" if config.eval.batch_size else "batch_size"
    check_batch_size(mesh, config.eval.batch_size or config.batch_size, field=field)
    task = build_task(config)
    views = build_views(config)
    source = build_source(config, train=False)
    logger.info("%s: %d images\n%s", source.name, len(source), source.report)
    trained = [category["name"] for category in read_classes(workdir)]
    if list(source.class_names) != trained:
        raise ValueError(
            f"{workdir} was trained with the classes\n  {', '.join(trained)}\n"
            f"{source.name} has\n  {', '.join(source.class_names)}"
        )
    step, variables = restore_variables(config, task, workdir, checkpoint, mesh)
    writer = MetricWriter(workdir, enabled=False)
    metrics = evaluate_variables(
        config,
        task,
        make_predict_step(task.predict, mesh),
        variables,
        source,
        views,
        mesh,
        writer,
        step,
    )
    if jax.process_index() == 0:
        write_evaluation(workdir, step, metrics, source)
        logger.info("wrote %s", workdir / "eval")
    return metrics


def predict(
    config: ConfigDict,
    workdir: epath.PathLike,
    images: Sequence[epath.PathLike],
    out: epath.PathLike,
    *,
    checkpoint: str = "best",
    threshold: float = 0.3,
) -> list[str]:
    """Detects objects in image files; writes annotated PNGs and one COCO-format JSON.

    Args:
      config: the run's config.
      workdir: folder of the run.
      images: files to look at.
      out: folder for `<name>.png` and `detections.json`; made if need be.
      checkpoint: a step, `best` or `latest`.
      threshold: least score of a drawn box; the JSON has all detections.

    Returns:
      The files that could not be read; they are reported and left out.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: there are fewer devices than `config.mesh.space`.
    """
    out = epath.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    task = build_task(config)
    # One image at a time can be divided by its height alone.
    space = config.mesh.space
    mesh = make_mesh(data=1, space=space, devices=jax.local_devices()[:space])
    categories = read_classes(epath.Path(workdir))
    names = [category["name"] for category in categories]
    step, variables = restore_variables(config, task, epath.Path(workdir), checkpoint, mesh)
    logger.info("checkpoint %d of %s", step, workdir)

    run = jax.jit(task.predict, out_shardings=replicated(mesh))
    shapes: set[tuple[int, ...]] = set()
    seconds, timed = 0.0, 0
    failed: list[str] = []
    written: set[str] = set()
    document: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": categories}
    for path in map(epath.Path, images):
        try:
            image = data.decode_image(path.read_bytes())
        except (OSError, ValueError) as error:
            logger.error("%s: left out: %s", path, error)
            failed.append(str(path))
            continue
        begin = time.perf_counter()
        pyramid, size, scale = data.prepare_image(
            image,
            image_size=tuple(config.image_size),
            levels=task.pyramid_levels,
            pad_multiple=data.padding_multiple(task.pyramid_levels, space),
        )
        levels = jax.device_put(tuple(x[None] for x in pyramid), image_sharding(mesh))
        found = jax.device_get(run(variables, levels, size[None]))
        if pyramid[0].shape in shapes:  # the first of a shape compiles
            seconds, timed = seconds + time.perf_counter() - begin, timed + 1
        shapes.add(pyramid[0].shape)

        keep = found.valid[0]
        scores, labels = found.scores[0][keep], found.labels[0][keep]
        boxes = evaluation.boxes_to_original(
            found.boxes[0][keep], scale, np.array(image.shape[:2], np.int32)
        )
        number = len(document["images"]) + 1
        name = path.stem if path.stem not in written else f"{path.stem}_{number}"
        written.add(name)
        shown = scores >= threshold
        drawn = visualize.draw_boxes(
            image, boxes[shown].astype(np.float32), labels[shown], names, scores[shown]
        )
        visualize.save_image(out / f"{name}.png", drawn)
        height, width = image.shape[:2]
        document["images"].append(
            {"id": number, "file_name": str(path), "height": height, "width": width}
        )
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels, strict=True):
            x1, y1, x2, y2 = box
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": number,
                    "category_id": categories[label]["id"],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": score,
                }
            )
        logger.info("%s: %d objects", path, len(boxes))
    (out / "detections.json").write_text(json.dumps(document))
    if timed:
        logger.info(
            "%.3f s an image (mean of %d, without the %d compiling ones)",
            seconds / timed,
            timed,
            len(shapes),
        )
    logger.info("wrote %d pictures and detections.json to %s", len(written), out)
    return failed


class StopSignal:
    """Notes SIGTERM while its context lasts, so that a run can save before it ends.

    Only where the process runs alone: on several hosts JAX's own handler makes all of them stop
    after the same step (`Checkpoints.reached_preemption`), and must not be replaced.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> StopSignal:
        if jax.process_count() > 1:
            return self
        try:
            self._previous = signal.signal(signal.SIGTERM, self._request)
        except ValueError:  # not in the main thread, as in some notebooks: nothing to catch
            logger.info("not the main thread: SIGTERM will not be caught")
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _request(self, *_: object) -> None:
        self.requested = True


def evaluate_variables(
    config: ConfigDict,
    task: DetectionTask,
    predict_step: PredictStep,
    variables: PyTree,
    source: data.Source,
    views: Sequence[View],
    mesh: Mesh,
    writer: MetricWriter,
    step: int,
) -> dict[str, Any]:
    """Runs the detector over a data set and scores it; also draws some samples.

    With several views, the detections of each are mapped back to the original image and merged by
    the task's own suppression, at most `config.eval.max_detections` in all. Samples show the first
    view's.

    Returns:
      `coco` and `voc`, the metrics of `evaluate_coco` and `evaluate_voc`, or None for a data set
      without annotations; and `results`, the detections in COCO results format.
    """
    begin = time.perf_counter()
    batch_size = config.eval.batch_size or config.batch_size
    rows_here = process_rows(mesh, batch_size)
    seen: list[evaluation.DetectionCollector] = []
    samples = 0
    for view in views:
        seen.append(evaluation.DetectionCollector(source))
        batches = data.eval_batches(
            source,
            batch_size=batch_size,
            image_size=view.image_size,
            levels=task.pyramid_levels,
            flip=view.flip,
            pad_multiple=data.padding_multiple(task.pyramid_levels, mesh.shape["space"]),
            rows=rows_here,
        )
        # Samples are drawn from the batch as it is on this host.
        for batch, placed in prefetch_to_device(batches, lambda x: (x, shard_batch(mesh, x))):
            found, rows = jax.device_get(predict_step(variables, placed))
            seen[-1].add(found, rows.image_id, rows.scale, rows.weight, flipped=view.flip)
            wanted = config.eval.samples - samples if view == views[0] else 0
            here = jax.tree.map(lambda x: x[rows_here], found)
            for row in range(min(len(batch.weight), wanted)):
                if batch.weight[row]:
                    writer.image(step, f"sample{samples}", draw_sample(batch, here, row, source))
                    samples += 1
    results = evaluation.DetectionCollector.from_views(source, seen, task.select).results()
    seconds = time.perf_counter() - begin

    logger.info(
        "evaluation at step %d: %d images in %s, %d view(s), %d unreadable",
        step,
        len(source),
        duration(seconds),
        len(views),
        source.unreadable,
    )
    if not source.records.annotated:
        logger.info("%s has no annotations: there is nothing to score by", source.name)
        return {"coco": None, "voc": None, "results": results}
    metrics = {
        "coco": evaluation.evaluate_coco(source, results),
        "voc": evaluation.evaluate_voc(source, results),
    }
    logger.info("%s", evaluation.format_metrics(metrics[config.eval.metric]))
    writer.scalars(
        step,
        {
            f"eval/{kind}_{name}": value
            for kind, values in metrics.items()
            for name, value in values.items()
            if isinstance(value, float)
        },
    )
    return metrics | {"results": results}


def draw_sample(
    batch: Batch, found: Detections, row: int, source: data.Source
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the predictions for one row of a batch beside its ground truth."""
    one: Batch = jax.tree.map(lambda x: np.asarray(x[row]), batch)
    best: Detections = jax.tree.map(lambda x: np.asarray(x[row]), found)
    height, width = one.image_size
    image = np.asarray(one.pyramid[0])[:height, :width]

    # Small pictures are enlarged, so that captions do not cover what they name.
    zoom = max(1, round(SAMPLE_SIDE / min(height, width)))
    image = image.repeat(zoom, axis=0).repeat(zoom, axis=1)

    def draw(boxes: Any, labels: Any, valid: Any, scores: Any = None) -> np.ndarray:
        shown = None if scores is None else scores[valid]
        return visualize.draw_boxes(
            image, zoom * boxes[valid], labels[valid], source.class_names, shown
        )

    confident = best.valid & (best.scores >= SAMPLE_SCORE)
    predicted = draw(best.boxes, best.labels, confident, best.scores)
    truth = draw(one.boxes, one.labels, one.valid)
    return visualize.side_by_side(predicted, truth, ("prediction", "ground truth"))


def load_initial(path: epath.PathLike) -> Weights:
    """Returns the weights to start from: of a workdir, `checkpoints/<step>` or a file of weights.

    Raises:
      FileNotFoundError: there is no such file or checkpoint.
    """
    path = epath.Path(path)
    if path.suffix in SUFFIXES:
        return load_weights(path)
    workdir = path.parent.parent if path.name.isdigit() else path
    known = (workdir / "classes.json").exists()
    names = [category["name"] for category in read_classes(workdir)] if known else []
    return Weights.of(load_variables(path), names)


def restore_variables(
    config: ConfigDict, task: DetectionTask, workdir: epath.Path, checkpoint: str, mesh: Mesh
) -> tuple[int, PyTree]:
    """Returns step and variables to evaluate with of a checkpoint: a step, `best` or `latest`.

    Every device holds all of them, whatever `config.mesh.fsdp` divides in training.
    """
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    if checkpoint == "best":
        step = checkpoints.best if checkpoints.best is not None else checkpoints.latest
    elif checkpoint == "latest":
        step = checkpoints.latest
    elif checkpoint.isdigit():
        step = int(checkpoint)
    else:
        raise ValueError(f"--checkpoint is a step, best or latest, not {checkpoint!r}")
    optimizer, _ = build_optimizer(config, num_steps=1, steps_per_epoch=1.0)

    state = checkpoints.restore(abstract_state(config, task, optimizer, mesh), step)
    checkpoints.close()
    return int(state.step), gathered(mesh, state.eval_variables)


def check_same_classes(source: data.Source, eval_source: data.Source) -> None:
    """Raises ValueError unless both data sets have the same classes in the same order."""
    if source.class_names != eval_source.class_names:
        raise ValueError(
            f"training and evaluation data have different classes.\n"
            f"{source.name}: {', '.join(source.class_names)}\n"
            f"{eval_source.name}: {', '.join(eval_source.class_names)}"
        )


def check_annotated(source: data.Source) -> None:
    """Raises ValueError if a data set has no ground truth to train or to be scored with."""
    if not source.records.annotated:
        raise ValueError(
            f"{source.report.origin} has no annotations: training needs a file that has them, for "
            "config.data.train_annotations and config.data.eval_annotations; eval.py writes "
            "detections without them"
        )


def _plain(config: ConfigDict) -> dict[str, Any]:
    """Returns `config` as it looks after a round trip through JSON."""
    return json.loads(config.to_json())


def write_run_files(config: ConfigDict, workdir: epath.Path, source: data.Source) -> None:
    """Writes `config.json` and `classes.json`, and lists what changed since the last start.

    Raises:
      ValueError: the run was trained with other classes so far.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    now = _plain(config)
    path = workdir / "config.json"
    if path.exists():
        before = json.dumps(json.loads(path.read_text()), indent=2, sort_keys=True).splitlines()
        after = json.dumps(now, indent=2, sort_keys=True).splitlines()
        changes = [
            line
            for line in difflib.unified_diff(before, after, "before", "now", n=0, lineterm="")
            if not line.startswith("@@")
        ]
        if changes:
            logger.warning("the config differs from %s:\n%s", path, "\n".join(changes))
    path.write_text(json.dumps(now, indent=2))

    classes = [
        {"id": number, "name": name}
        for number, name in zip(source.category_ids, source.class_names, strict=True)
    ]
    path = workdir / "classes.json"
    if path.exists() and json.loads(path.read_text()) != classes:
        raise ValueError(
            f"{source.name} has other classes than the run in {workdir}:\n"
            f"{path}: {json.loads(path.read_text())}\nnow: {classes}\nuse another workdir"
        )
    path.write_text(json.dumps(classes, indent=2))


def read_classes(workdir: epath.Path) -> list[dict[str, Any]]:
    """Returns the categories, `[{"id": ..., "name": ...}]`, that a run was trained with."""
    path = workdir / "classes.json"
    if not path.exists():
        raise FileNotFoundError(f"no {path}: was this run trained?")
    return json.loads(path.read_text())


def write_evaluation(
    workdir: epath.Path, step: int, metrics: dict[str, Any], source: data.Source
) -> None:
    """Writes `eval/metrics.json` and `eval/detections.json`.

    Of data without annotations, whose results are there to be uploaded, it also writes a copy
    named as COCO's server expects, such as `eval/detections_test-dev2017_<run>_results.json` of
    `image_info_test-dev2017.json`; the workdir gives the run's name.
    """
    folder = workdir / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    evaluation.save_results(folder / "detections.json", metrics["results"])
    figures = {"step": step, "coco": metrics["coco"], "voc": metrics["voc"]}
    (folder / "metrics.json").write_text(json.dumps(figures, indent=2))
    if not source.records.annotated:
        images = epath.Path(source.name).stem.removeprefix("image_info_")
        path = folder / f"detections_{images}_{workdir.name}_results.json"
        evaluation.save_results(path, metrics["results"])
        logger.info("for upload: %s", path)
