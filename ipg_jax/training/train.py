"""Training."""

from __future__ import annotations

import contextlib
import functools
import logging
import time

import jax
import numpy as np
from etils import epath

from ipg_jax import data
from ipg_jax.lock import FolderLock
from ipg_jax.training import hosts
from ipg_jax.training.checkpoint import Checkpoints, config_digest
from ipg_jax.training.metrics import DivergedError, MetricWriter, Progress, duration, log_progress
from ipg_jax.training.preemption import StopSignal
from ipg_jax.training.prefetch import prefetch_to_device
from ipg_jax.training.profiler import StepProfiler
from ipg_jax.training.runs import TrainRun
from ipg_jax.training.same_run import check_same_run
from ipg_jax.training.sharding import all_gather, replicated, shard_batch
from ipg_jax.training.state import TrainState
from ipg_jax.training.steps import Metrics
from ipg_jax.training.trained import load_initial
from ipg_jax.training.workdir import (
    check_workdir,
    write_evaluation,
    write_run_files,
)
from ipg_jax.weights import initialize

logger = logging.getLogger(__name__)


def train(
    run: TrainRun, workdir: epath.PathLike, *, profile: tuple[int, int] | None = None
) -> bool:
    """Trains, or goes on with the run that `workdir` holds.

    The batches, and with them the whole run, are a function of the config alone: a run that was
    killed and started again ends with the same parameters as one that was not. On SIGTERM and on
    Ctrl-C it saves and returns; a second Ctrl-C ends it at once. A checkpoint is written before
    it is evaluated, and one whose evaluation did not come to its end is evaluated at the next
    start.

    Args:
      run: what to train, on what and how (`build_runs.build_train_run`).
      workdir: folder of the run (see the README for what it holds); made if need be.
      profile: first and last step, counted from 1, of which a trace is written to
        `profile/steps_<first>_<last>/`.

    Returns:
      Whether the run is at its end: False if a signal stopped it before.

    Raises:
      DivergedError: a loss was not finite; the message names the step and the images.
      UnreadableImagesError: too many of the last images could not be read.
      OSError: a file of the run or a checkpoint cannot be written; those before are kept.
      ValueError: the run does not fit what `workdir` holds, or the weights it starts from; another
        run is at work there; or the processes of the run do not train the same.
    """
    workdir = epath.Path(workdir)
    primary = jax.process_index() == 0
    begin = time.perf_counter()

    with contextlib.ExitStack() as stack:
        # -------------------------------------------------------------- workdir: what does not fit
        # is refused, here and with the state, before anything in it changes
        check_same_run(run.config, sources_of(run))
        lock = stack.enter_context(FolderLock(workdir))
        hosts.from_primary(lambda: claim(lock, workdir, run))
        checkpoints = Checkpoints(
            workdir / "checkpoints",
            keep=run.keep_checkpoints,
            digest=config_digest(run.config),
            verify=run.verify_checkpoints,
        )
        stack.enter_context(contextlib.closing(checkpoints))

        # -------------------------------------------------------------- state: resume, else
        # init_from, else scratch
        key = jax.random.key(run.seed)
        if checkpoints.latest is not None:
            state = checkpoints.restore(run.template)
            logger.info("resumed %s at step %d", workdir, state.step)
        else:
            state = first_state(run, key)
        logger.info("%.2f M parameters", sum(x.size for x in jax.tree.leaves(state.params)) / 1e6)
        start = int(state.step)
        evaluated = not evaluation_due(run, start) or checkpoints.evaluated(start)
        if start >= run.num_steps and evaluated:
            logger.info("nothing to do: %s is at step %d of %d", workdir, start, run.num_steps)
            return True

        batches = run.batches(start)

        # -------------------------------------------------------------- metrics and evaluation
        checkpoints.begin_writing()
        writer = stack.enter_context(
            MetricWriter(
                workdir,
                start_step=start,
                evaluated=evaluated,
                enabled=primary,
                trackers=run.trackers,
                config=run.config,
            )
        )
        if primary:
            write_run_files(workdir, run.config, run.source)

        def evaluate(step: int) -> None:
            """Evaluates `state`, once its checkpoint is written: what fails then costs no step."""
            assert run.evaluator is not None
            checkpoints.wait()
            found = run.evaluator(state.eval_variables, step)
            writer.scalars(step, {f"eval/{k}": v for k, v in found.scalars().items()})
            for number, picture in enumerate(found.samples):
                writer.image(step, f"sample{number}", picture)
            if primary:
                write_evaluation(workdir, step, found, run.evaluator.source)
            checkpoints.record(step, found.coco or {})

        if not evaluated:
            logger.info("the checkpoint of step %d has not been evaluated yet", start)
            evaluate(start)
        if start >= run.num_steps:
            return True

        # -------------------------------------------------------------- input
        place = functools.partial(shard_batch, run.mesh)
        placed = stack.enter_context(contextlib.closing(prefetch_to_device(batches, place)))
        progress = Progress(start, run.num_steps, run.batch_size)
        window: list[dict[str, float]] = []
        pending: Metrics | None = None
        # Of all processes, so that they stop together.
        count_unreadable = jax.jit(lambda x: (x == 0).sum(), out_shardings=replicated(run.mesh))
        unreadable_window = data.UnreadableWindow(run.source, run.max_unreadable)

        def finish(step: int) -> None:
            """Waits for `step`, checks its images and that its loss is finite, and counts it."""
            nonlocal pending
            if pending is None:
                return
            values = {name: float(value) for name, value in jax.device_get(pending).items()}
            pending = None
            unreadable_window.add(step, run.batch_size, int(values.pop("unreadable")))
            if not np.isfinite([values["loss"], values["grad_norm"]]).all():
                raise diverged(run, step, values, checkpoints.latest)
            window.append(values)
            progress.tick(step)

        # -------------------------------------------------------------- loop
        stop = stack.enter_context(StopSignal())
        profiler = StepProfiler(workdir / "profile", profile, start=start, end=run.num_steps)
        stack.callback(profiler.stop)
        logger.info("compiling the training step, which takes minutes for large models")
        for step in range(start + 1, run.num_steps + 1):
            batch = next(placed)
            profiler.before(step)
            state, metrics = run.train_step(state, batch, key)
            # One step is in flight while its predecessor is looked at: the device never waits for
            # the host, and a bad loss is seen at once.
            finish(step - 1)
            pending = metrics | {"unreadable": count_unreadable(batch.weight)}
            if step == start + 1:
                finish(step)
                logger.info("first step after %s", duration(time.perf_counter() - begin))
            if profiler.due(step):
                finish(step)
                profiler.stop()

            last = step == run.num_steps
            stopping = stop.requested or checkpoints.reached_preemption(step)
            due = last or evaluation_due(run, step)
            if step % run.log_every == 0 or due or stopping:
                finish(step)
                means = {k: float(np.mean([w[k] for w in window])) for k in window[0]}
                window.clear()
                log_progress(step, run.num_steps, step / run.steps_per_epoch, means, progress)
                speed = {"images_per_second": progress.images_per_second}
                unreadable = {"unreadable_images": float(run.source.unreadable)}
                writer.scalars(
                    step, {f"train/{k}": v for k, v in (means | speed | unreadable).items()}
                )
            if due or stopping or step % run.checkpoint_every == 0:
                finish(step)
                checkpoints.save(step, state)
                if evaluation_due(run, step) and (last or not stopping):
                    evaluate(step)
                progress.pause()
            if stopping and not last:
                logger.info("stopped at step %d: start the same command again to go on", step)
                return False
    logger.info("done: checkpoints, metrics and samples are in %s", workdir)
    return True


def sources_of(run: TrainRun) -> dict[str, data.Source]:
    """Returns the data of a run by their purpose."""
    evaluation = {} if run.evaluator is None else {"evaluation": run.evaluator.source}
    return {"training": run.source} | evaluation


def claim(lock: FolderLock, workdir: epath.Path, run: TrainRun) -> str:
    """Locks the workdir and checks that the run fits it; returns nothing to tell."""
    lock.acquire()
    check_workdir(workdir, run.config, run.source)
    return ""


def evaluation_due(run: TrainRun, step: int) -> bool:
    """Returns whether the run is evaluated after `step`."""
    if run.evaluator is None or step == 0:
        return False
    return step == run.num_steps or (run.eval_every is not None and step % run.eval_every == 0)


def first_state(run: TrainRun, key: jax.Array) -> TrainState:
    """Returns the state of a run that begins: from `run.init_from`, or from scratch."""
    weights = None if run.init_from is None else load_initial(run.init_from)  # before it compiles
    placement = jax.tree.map(lambda x: x.sharding, run.template)
    state = jax.jit(run.init_state, out_shardings=placement)(key)
    if weights is None:
        return state
    variables = initialize(
        all_gather(run.mesh, state.variables),
        weights,
        class_names=run.source.class_names,
        missing=run.init_missing,
        unexpected=run.init_unexpected,
    )
    logger.info("started from %s", run.init_from)
    state = TrainState.create(variables, run.optimizer, ema=state.ema is not None)
    return jax.device_put(state, placement)


def diverged(
    run: TrainRun, step: int, values: dict[str, float], checkpoint: int | None
) -> DivergedError:
    """Returns the error of a step whose loss or gradient is not finite."""
    images = ", ".join(f"{number} ({name})" for number, name in run.batch_records(step - 1))
    return DivergedError(
        f"step {step}: {', '.join(f'{k}={v:.4g}' for k, v in values.items())}; "
        f"its images were {images}. The last good checkpoint is {checkpoint}. "
        "Lower config.optimizer.learning_rate, set config.optimizer.clip_norm, or look "
        "at these images and their labels."
    )
