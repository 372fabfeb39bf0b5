"""Our side of the comparisons on accelerators: programs, their times, memory and operations."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from cards import peak_flops
from detectors import STANDARD, Optimizer, make_batch, make_task, sgd
from torch_process import in_turns

from ipg_jax import kernels
from ipg_jax.kernels import Kernel
from ipg_jax.tasks import DetectionTask
from ipg_jax.training.sharding import make_mesh, replicated, shard_batch
from ipg_jax.training.state import TrainState
from ipg_jax.training.steps import Policy, make_predict_step, make_train_step
from ipg_jax.types import Batch

Known: TypeAlias = dict[str, Any]
"""What is known of a program, as JSON types."""

_cache_hits: list[str] = []


@jax.monitoring.register_event_listener
def _listen(event: str, **_: Any) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        _cache_hits.append(event)


class Programs:
    """A detector's training and prediction steps on one device, compiled when asked for.

    Attributes:
      device: the device.
      task: the detector.
      state: that of the training, which its step replaces.
      batch: on the device.
    """

    def __init__(
        self, task: DetectionTask, batch: Batch, optimizer: Optimizer | None = None
    ) -> None:
        self.device = jax.devices()[0]
        self.task = task
        self._mesh = make_mesh(devices=[self.device])
        self._optimizer, self._schedule = optimizer or sgd(1e-4)
        self.state = self.first_state()
        self.batch = shard_batch(self._mesh, batch)
        self._key = jax.device_put(jax.random.key(0), replicated(self._mesh))
        self._compiled: dict[Any, tuple[jax.stages.Compiled, Known]] = {}

    def first_state(self) -> TrainState:
        """Returns the state before the first step, always the same."""

        def create(key: jax.Array) -> TrainState:
            return TrainState.create(self.task.init(key), self._optimizer, ema=False)

        # Any weights do; of these random numbers the program compiles in a fraction of the time.
        key = jax.random.key(0, impl="unsafe_rbg")
        return jax.jit(create, out_shardings=replicated(self._mesh))(key)

    def train(self, fast: tuple[Kernel, ...] | None = None) -> tuple[Callable[[], Any], Known]:
        """Returns the training step as a call, and what is known of its program.

        Args:
          fast: the kernels that have their fast forms, the others having the reference; by default
            each has that of the platform.
        """
        step = make_train_step(
            self.task.loss_and_updates,
            self._optimizer,
            self._mesh,
            schedule=self._schedule,
            policy=Policy(self.task.dtype),
        )
        args = self.state, self.batch, self._key
        program, known = self._compile_once("train", step, fast, args)

        def call() -> Any:
            self.state, metrics = program(self.state, self.batch, self._key)
            return metrics

        return call, known

    def make_busy(self) -> None:
        """Lets NMS have much to do, as it has with a trained detector.

        Fresh weights find nothing. With RetinaNet's logits around 0 every level has as many
        candidates as it may have; of a roi of Faster R-CNN three classes are above the threshold.
        """
        params = jax.tree.map(lambda x: x, self.state.params)  # other dicts, the same arrays
        if "head" in params:
            layer = params["head"]["class_logits"]
            layer["bias"] = jax.numpy.zeros_like(layer["bias"])
        else:
            layer = params["box_head"]["class_logits"]
            layer["bias"] = layer["bias"].at[:3].set(3.0)
        self.state = self.state.replace(params=params)

    def predict(self, fast: tuple[Kernel, ...] | None = None) -> tuple[Callable[[], Any], Known]:
        """Returns the prediction with NMS as a call, and what is known of it, as `train` does."""
        step = make_predict_step(self.task.predict, self._mesh)
        args = self.state.variables, self.batch
        program, known = self._compile_once("predict", step, fast, args)
        return lambda: program(self.state.variables, self.batch), known

    def _compile_once(
        self, name: str, step: Any, fast: tuple[Kernel, ...] | None, args: tuple[Any, ...]
    ) -> tuple[jax.stages.Compiled, Known]:
        key = name, fast
        if key not in self._compiled:
            self._compiled[key] = compile_step(step, fast, args)
        return self._compiled[key]

    def figures(self, call: Callable[[], Any], known: Known, *, seconds: float = 3.0) -> Known:
        """Returns what is known of a program with its time, memory and share of the card's peak.

        Args:
          call: the program's.
          known: of it.
          seconds: how long to measure.
        """
        times = in_turns({"": call}, jax.block_until_ready, seconds=seconds)[""]
        median = statistics.median(times)
        peak = peak_flops(self.device.device_kind)
        stats = self.device.memory_stats() or {}
        return known | {
            "seconds": median,
            "fastest_seconds": min(times),
            "samples": len(times),
            "images_per_second": self.batch.weight.size / median,
            "peak_bytes": stats.get("peak_bytes_in_use"),
            "share_of_peak": known["flops"] / median / peak if peak else None,
        }


@functools.cache  # in a dry run, where many parts have the same size and share a process
def programs(
    detector: Any, stages: tuple[int, ...], shape: tuple[int, int, int], size: Any, packed: bool
) -> Programs:
    """Returns the programs of a detector for batches of `(images, height, width)`.

    A toy has frozen norms: without statistics what no loss needs is not compiled.
    """
    norm: Any = "batch_norm" if size == STANDARD else "frozen_batch_norm"
    task = make_task(detector, stages=stages, size=size, norm=norm)
    return Programs(task, make_batch(*shape, levels=task.pyramid_levels, packed=packed))


def compile_step(
    step: Any, fast: tuple[Kernel, ...] | None, args: tuple[Any, ...]
) -> tuple[jax.stages.Compiled, Known]:
    """Compiles a jitted function, and returns what that took and what came of it.

    Args:
      step: the function.
      fast: see `Programs.train`.
      args: what to compile it for.
    """
    forms = None if fast is None else dict.fromkeys(kernels.KERNELS, "reference")
    if fast:
        forms |= dict.fromkeys(fast, "fast")
    hits = len(_cache_hits)
    begin = time.perf_counter()
    with kernels.use(forms):
        lowered = step.lower(*args)
    traced = time.perf_counter()
    program = lowered.compile()
    end = time.perf_counter()
    memory = program.memory_analysis()
    return program, {
        "trace_seconds": traced - begin,
        "compile_seconds": end - traced,
        "compiled_before": len(_cache_hits) > hits,
        **operations(lowered, program),
        "program_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
    }


def operations(lowered: jax.stages.Lowered, program: jax.stages.Compiled) -> Known:
    """Returns the operations of a compiled program, and where the number is from.

    XLA counts convolutions that it hands to a library as such or not at all, by its version. Where
    less than half is left of those of the program before it was compiled, these stand in.
    """
    before = (lowered.cost_analysis() or {}).get("flops", 0.0)
    after = (program.cost_analysis() or {}).get("flops", 0.0)
    compiled = after >= before / 2
    return {
        "flops": after if compiled else before,
        "flops_of": "compiled program" if compiled else "program before compilation",
    }


def check_device(dry: bool) -> None:
    """Ends a part that would measure a CPU at full size.

    Raises:
      RuntimeError: JAX has no accelerator.
    """
    device = jax.devices()[0]
    if device.platform == "cpu" and not dry:
        raise RuntimeError(
            "JAX finds no accelerator here: install its package for the card, or use --dry-run"
        )


def about() -> Known:
    """Returns the device and the versions."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "peak_flops": peak_flops(device.device_kind),
        "jax": jax.__version__,
    }
