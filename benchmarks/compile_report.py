"""What a program compiled for accelerators needs and where its time goes, without the accelerators.

XLA:TPU compiles for any slice on a machine that has none (`libtpu` is enough), and so does XLA:GPU
(the CUDA wheels are enough). The optimised program says how much memory it needs, what it sends
between chips and, on TPUs, how many cycles the compiler expects of every instruction. These are
estimates of a compiler: good to compare two versions of a program, no promise of seconds.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import math
import os
import pathlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import topologies
from ml_collections import ConfigDict

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of an accelerator.

    Attributes:
      flops: bf16 operations a second.
      hbm: bytes of memory.
      bandwidth: bytes a second of that memory.
      clock: cycles a second in which the compiler estimates; 0 where it gives no estimates.
    """

    flops: float
    hbm: float
    bandwidth: float
    clock: float = 0.0


# Peak, memory and bandwidth of a chip: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}. The clock is
# that at which its matrix units reach the peak, 2 operations a cycle and cell: 8 units of 128x128
# (v4, v5p; two cores together), 4 of 128x128 (v5e), 4 of 256x256 (v6e). Jouppi et al., "TPU v4",
# 2023, give the 1.05 GHz of v4. H100 SXM: NVIDIA's data sheet, dense.
CHIPS = {
    "v4": Chip(flops=275e12, hbm=32 * GIB, bandwidth=1228e9, clock=1.05e9),
    "v5e": Chip(flops=197e12, hbm=16 * GIB, bandwidth=819e9, clock=1.5e9),
    "v5p": Chip(flops=459e12, hbm=95 * GIB, bandwidth=2765e9, clock=1.75e9),
    "v6e": Chip(flops=918e12, hbm=32 * GIB, bandwidth=1640e9, clock=1.75e9),
    "h100": Chip(flops=989e12, hbm=80e9, bandwidth=3350e9),
}

# What XLA:GPU asks of a GPU (its `GpuTargetConfigProto`): CUDA's device properties of an H100 SXM.
GPU_TARGETS = {
    "h100": """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  l2_cache_size: 52428800
  device_memory_size: 84942979072
  memory_bandwidth: 3352320000000
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
""",
}

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)

NOTABLE = ("convolution", "dot", "sort", "scatter", "gather", *COLLECTIVES, "custom-call")
"""Opcodes that tell what a fusion is about, the first that it holds."""

KERNELS = (
    "convolution",
    "dot",
    "sort",
    "scatter",
    "select-and-scatter",
    "gather",
    "custom-call",
    "fusion",
)
NO_WORK = ("AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast")
"""Custom calls that only tell the compiler something."""

PACKAGE = "ipg_jax"


# ------------------------------------------------------------------ topologies


class TopologyError(ValueError):
    """A topology cannot be compiled for; the message says why and what to do."""


def topology_devices(name: str) -> tuple[Chip, Sequence[jax.Device]]:
    """Returns the chip and the devices of a topology that need not exist, one device a chip.

    Args:
      name: the kind of chip and the shape of the slice, as in `v5e:2x4` or `v5p:2x2x4`; or `h100:8`
        for eight GPUs of one host.

    Raises:
      TopologyError: the name is unknown or the compiler is not installed.
    """
    kind, _, shape = name.partition(":")
    sides = shape.split("x")
    if kind not in CHIPS or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise TopologyError(
            f"--topology is KIND:SHAPE, as in v5e:2x4 or h100:8, with KIND one of {sorted(CHIPS)}, "
            f"not {name!r}"
        )
    if kind in GPU_TARGETS:
        return CHIPS[kind], _gpu_devices(kind, shape)
    options: dict[str, Any] = {}
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as on a real slice
    if kind in ("v5e", "v6e") and min(map(int, sides)) < 2:
        options["chips_per_host_bounds"] = (*(min(2, int(side)) for side in sides), 1)
    # libtpu looks for a host's chips when it is loaded, holds a lock on them and complains aloud
    # if there are none. Nothing here touches a chip.
    os.environ |= {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }
    if importlib.util.find_spec("libtpu") is None:
        raise TopologyError("libtpu is not installed: pip install 'ipg-jax[tpu-report]'")
    try:
        return CHIPS[kind], topologies.get_topology_desc(name, platform="tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise TopologyError(f"XLA:TPU refuses --topology={name}: {error}") from error


def _gpu_devices(kind: str, shape: str) -> Sequence[jax.Device]:
    """Returns the devices of one host with `shape` GPUs."""
    if not shape.isdigit():
        raise TopologyError(f"--topology={kind}:{shape}: GPUs are counted, as in {kind}:8")
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        raise TopologyError("XLA:GPU is not installed: pip install 'ipg-jax[gpu-report]'")
    # Otherwise the plugin asks the driver, which is not there, for its version.
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    try:
        return topologies.get_topology_desc(
            "", platform="cuda", target_config=GPU_TARGETS[kind], topology=f"1x1x{shape}"
        ).devices
    except jax.errors.JaxRuntimeError as error:
        raise TopologyError(f"XLA:GPU refuses --topology={kind}:{shape}: {error}") from error


# ------------------------------------------------------------------ steps


def lower_step(
    config: ConfigDict,
    devices: Sequence[jax.Device],
    *,
    mode: Literal["train", "predict"],
    batch_per_device: int,
    image_size: tuple[int, int],
    max_boxes: int = 100,
    fold: bool = False,
) -> jax.stages.Lowered:
    """Returns the step that a run of `config` would compile, on arguments without values.

    Args:
      config: a config of `configs/`; its `batch_size` is set.
      devices: chips, present or not, that the mesh of `config.mesh` is laid over.
      mode: the training step, or that of evaluation.
      batch_per_device: images for each device along the data axis.
      image_size: height and width of the padded images.
      max_boxes: rows for objects.
      fold: whether prediction gets variables with the fusions folded into what reads them.
    """
    from ipg_jax import Batch, build_task
    from ipg_jax.models import IMAGE_BLOCK, fold_fusion
    from ipg_jax.training.build import abstract_state, build_optimizer, build_train_step
    from ipg_jax.training.sharding import (
        batch_devices,
        batch_sharding,
        check_batch_size,
        make_mesh,
        replicated,
    )
    from ipg_jax.training.steps import make_predict_step

    mesh = make_mesh(**config.mesh, devices=devices)
    config.batch_size = batch_per_device * batch_devices(mesh)
    check_batch_size(
        mesh, config.batch_size, config.optimizer.accumulation if mode == "train" else 1
    )
    task = build_task(config)
    # The learning rate enters as numbers: any length of the run gives the same program.
    optimizer, schedule = build_optimizer(config, num_steps=1000, steps_per_epoch=80.0)

    def rows(*shape: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((config.batch_size, *shape), dtype)

    def placed(x: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    key = placed(jax.eval_shape(lambda: jax.random.key(0)), replicated(mesh))
    state = abstract_state(config, task, optimizer, mesh)
    height, width = image_size
    batch = Batch(
        pyramid=tuple(
            rows(
                (height >> level) // IMAGE_BLOCK,
                (width >> level) // IMAGE_BLOCK,
                3 * IMAGE_BLOCK**2,
                dtype=np.uint8,
            )
            for level in range(task.pyramid_levels)
        ),
        boxes=rows(max_boxes, 4, dtype=np.float32),
        labels=rows(max_boxes, dtype=np.int32),
        valid=rows(max_boxes, dtype=np.bool_),
        ignore=rows(max_boxes, dtype=np.bool_),
        image_size=rows(2, dtype=np.int32),
        scale=rows(2, dtype=np.float32),
        image_id=rows(dtype=np.int32),
        weight=rows(dtype=np.float32),
    )
    batch = jax.tree.map(placed, batch, batch_sharding(mesh, batch))
    if mode == "predict":
        variables = state.variables
        if fold:
            zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables)
            variables = fold_fusion(zeros)
        variables = jax.tree.map(lambda x: placed(x, replicated(mesh)), variables)
        return make_predict_step(task, mesh).lower(variables, batch)
    placement = jax.tree.map(lambda x: x.sharding, state)
    step = build_train_step(config, task, optimizer, schedule, mesh, placement)
    return step.lower(state, batch, key)


# ------------------------------------------------------------------ programs as text


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a compiled program.

    Attributes:
      name: its own.
      opcode: what it does, `fusion` for most.
      bytes: size of its result.
      operands: names of what it reads.
      calls: names of the computations it runs, without the condition of a `while`.
      condition: name of that condition.
      known_trips: how often the body of a `while` runs, where the compiler says so (on GPUs).
      value: of an integer constant.
      cycles: the compiler's estimate; 0 where it gives none.
      op_name: the path of the JAX operation that it comes from.
      frame: the stack frame of that operation, 0 for none.
      target: of a custom call.
      channel: of a collective; shared by the pieces that an asynchronous one is split into.
    """

    name: str
    opcode: str
    bytes: int
    operands: tuple[str, ...]
    calls: tuple[str, ...]
    condition: str
    known_trips: int | None
    value: int | None
    cycles: int
    op_name: str
    frame: int
    target: str
    channel: str


@dataclasses.dataclass(frozen=True)
class Program:
    """An optimised program.

    Attributes:
      entry: name of the computation that runs first.
      computations: instructions by computation.
      frames: for each stack frame, `(file, line, parent)`; parent 0 for none.
    """

    entry: str
    computations: dict[str, list[Instruction]]
    frames: dict[int, tuple[str, int, int]]

    def executed(self, *, inside_fusions: bool = False) -> Iterator[tuple[Instruction, int]]:
        """Yields every instruction that is reached, with how often it runs.

        Of a conditional, all branches count; a loop whose length depends on the data counts once.

        Args:
          inside_fusions: whether to go into what runs as one kernel.
        """
        enters = ["while", "call", "conditional", "async-start"]
        enters += ["fusion"] if inside_fusions else []

        def walk(name: str, times: int) -> Iterator[tuple[Instruction, int]]:
            for instruction in self.computations[name]:
                yield instruction, times
                if instruction.opcode in enters:
                    for called in instruction.calls:
                        yield from walk(called, times * (self.trips(instruction) or 1))

        yield from walk(self.entry, 1)

    def trips(self, instruction: Instruction) -> int | None:
        """Returns how often a computation that is called runs, or None where the data decide.

        A loop of fixed length, such as that of `jax.lax.scan`, counts from 0 up to the only
        constant of its condition.
        """
        if instruction.opcode != "while":
            return 1
        if instruction.known_trips is not None:
            return instruction.known_trips
        condition = self.computations[instruction.condition]
        limits = [i.value for i in condition if i.value is not None]
        fixed = len(limits) == 1 and sum(i.opcode == "compare" for i in condition) == 1
        return limits[0] if fixed else None

    def kind(self, instruction: Instruction) -> str:
        """Returns the opcode of an instruction, or of the most notable one inside a fusion."""
        inside, calls = {instruction.opcode}, list(instruction.calls)
        while instruction.opcode == "fusion" and calls:
            for part in self.computations[calls.pop()]:
                inside.add(part.opcode)
                calls += part.calls if part.opcode == "fusion" else ()
        return next((name for name in NOTABLE if name in inside), instruction.opcode)

    def source(self, frame: int) -> str:
        """Returns `file:line` of the innermost frame in this package, or else of the innermost."""
        first = ""
        while frame in self.frames:
            file, line, parent = self.frames[frame]
            parts = pathlib.PurePath(file).parts
            if PACKAGE in parts:
                start = len(parts) - parts[::-1].index(PACKAGE)
                return f"{'/'.join(parts[start:])}:{line}"
            first = first or f"{parts[-1]}:{line}"
            if parent >= frame:
                raise ValueError(f"stack frame {frame} has the parent {parent}, not an earlier one")
            frame = parent
        return first


_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_CALLS = re.compile(r"\b(?:calls|body|to_apply|branch_computations)=(\{[^}]*\}|%?[\w.-]+)")
_NAME = re.compile(r"%([\w.-]+)")


def parse_program(text: str) -> Program:
    """Reads what `Compiled.as_text()` prints."""
    entry, computations = "", dict[str, list[Instruction]]()
    instructions: list[Instruction] = []
    tables: dict[str, dict[int, str]] = {}
    table: dict[int, str] = {}
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            instructions.append(_parse_instruction(*match.groups()))
        elif match := _COMPUTATION.match(line):
            instructions = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif line in ("FileNames", "FileLocations", "StackFrames"):
            table = tables.setdefault(line, {})
        elif match := re.match(r"^(\d+) (.*)$", line):
            table[int(match[1])] = match[2]
        else:
            table = {}
    if not entry:
        raise ValueError("the text has no ENTRY computation: it is no HLO module")

    def fields(row: str) -> dict[str, int]:
        return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", row)}

    frames = {}
    for number, row in tables.get("StackFrames", {}).items():
        frame = fields(row)
        location = fields(tables["FileLocations"][frame["file_location_id"]])
        file = tables["FileNames"][location["file_name_id"]].strip('"')
        # Parents are printed one too high; a frame without one names itself or frame 1.
        frames[number] = (file, location["line"], frame["parent_frame_id"] - 1)
    return Program(entry, computations, frames)


def _parse_instruction(name: str, rest: str) -> Instruction:
    """Parses `shape opcode(operands), attributes`."""
    shape_end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:shape_end], rest[shape_end:].lstrip()
    opcode, _, _ = rest.partition("(")
    operands_end = _closing(rest, len(opcode))
    attributes = rest[operands_end:]
    cycles = re.search(r'"estimated_cycles":"(\d+)"', attributes)
    condition = re.search(r"\bcondition=%?([\w.-]+)", attributes)
    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', attributes)
    value = re.match(r"constant\((-?\d+)\)", rest)
    op_name = re.search(r'op_name="([^"]*)"', attributes)
    frame = re.search(r"stack_frame_id=(\d+)", attributes)
    target = re.search(r'custom_call_target="([^"]*)"', attributes)
    channel = re.search(r"channel_id=(\d+)", attributes)
    return Instruction(
        name=name,
        opcode=opcode,
        bytes=shape_bytes(shape),
        operands=tuple(_NAME.findall(rest[len(opcode) : operands_end])),
        calls=tuple(
            called.strip(" %")
            for group in _CALLS.findall(attributes)
            for called in group.strip("{}").split(",")
        ),
        condition=condition[1] if condition else "",
        known_trips=int(trips[1]) if trips else None,
        value=int(value[1]) if value else None,
        cycles=int(cycles[1]) if cycles else 0,
        op_name=op_name[1] if op_name else "",
        frame=int(frame[1]) if frame else 0,
        target=target[1] if target else "",
        channel=channel[1] if channel else name,
    )


def _closing(text: str, start: int) -> int:
    """Returns where the parenthesis that opens at `start` is closed."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    raise ValueError(f"unbalanced parentheses: {text[start : start + 80]}")


def shape_bytes(shape: str) -> int:
    """Returns the bytes of an HLO shape, `bf16[8,128]{1,0}` or a tuple of such, without padding."""
    total = 0.0
    for _, bits, sides in _ARRAY.findall(shape):
        size = math.prod(int(side) for side in sides.split(",") if side)
        total += size * (int(bits) / 8 if bits else 1)
    return math.ceil(total)


# ------------------------------------------------------------------ reports


def compile_and_report(
    lowered: jax.stages.Lowered, chip: Chip, *, images: int, hlo: str = ""
) -> dict[str, Any]:
    """Compiles and returns what is to be known of the program, as JSON types.

    Args:
      lowered: the program.
      chip: what it is compiled for.
      images: images of the batch that a chip holds.
      hlo: a file to write the optimised program to, if not empty.

    Returns:
      `{"fits": False, "compile_seconds": ..., "error": ...}` if the chip's memory does not suffice,
      otherwise `fits`, `compile_seconds`, the figures of `program_report`, and per chip `flops`,
      `bytes_accessed`, `estimated_seconds` and `share_of_peak` (all four None where the compiler
      has no cost model) and `memory` in bytes.
    """
    begin = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        seconds = time.perf_counter() - begin
        return {"fits": False, "compile_seconds": seconds, "error": str(error).splitlines()[0]}
    seconds = time.perf_counter() - begin
    text = compiled.as_text()
    if hlo:
        pathlib.Path(hlo).write_text(text)
    report = program_report(parse_program(text))
    flops = moved = estimate = share = None
    if chip.clock:
        costs = compiled.cost_analysis()
        flops, moved = costs["flops"], costs["bytes accessed"]
        estimate = report["estimated_cycles"] / chip.clock
        share = flops / estimate / chip.flops if estimate else None
    stats = compiled.memory_analysis()
    resident = stats.argument_size_in_bytes + stats.generated_code_size_in_bytes
    peak = resident + stats.output_size_in_bytes - stats.alias_size_in_bytes
    peak += stats.temp_size_in_bytes
    return {
        "fits": peak <= chip.hbm,
        "compile_seconds": seconds,
        "flops": flops,
        "bytes_accessed": moved,
        "estimated_seconds": estimate,
        "share_of_peak": share,
        "memory": {
            "peak": peak,
            "available": chip.hbm,
            "arguments": stats.argument_size_in_bytes,
            "temporaries": stats.temp_size_in_bytes,
            "code": stats.generated_code_size_in_bytes,
            # Activations grow with the images, the rest does not.
            "images_that_fit": int(
                (chip.hbm - (peak - stats.temp_size_in_bytes))
                // max(1.0, stats.temp_size_in_bytes / images)
            ),
        },
        **report,
    }


def program_report(program: Program, top: int = 20) -> dict[str, Any]:
    """Returns what the text of a program tells, as JSON types.

    Args:
      program: the optimised program of one chip.
      top: how many source lines and instructions to list.

    Returns:
      A dict of

      * `estimated_cycles` of the entry computation, the figure to compare programs by;
      * `loop_cycles` of what runs inside loops beyond that, and `unknown_loops`, how many of these
        have a length that depends on the data and count as if they ran once;
      * `without_estimate`: how often kernels run that the compiler gives no cycles (sorts, gathers
        and scatters on TPUs, all of them on GPUs);
      * `collectives` by kind with their number and bytes;
      * `kinds` of instructions, `parts` of the model and `sources` (lines of code), each with their
        cycles forward and backward, the costliest first;
      * the `costliest` instructions.
    """
    entry = {id(i) for i in program.computations[program.entry]}
    cycles = {"entry": 0, "loops": 0}
    unknown_loops = 0
    without: collections.Counter[str] = collections.Counter()
    tables: dict[str, dict[str, dict[str, int]]] = {"kinds": {}, "parts": {}, "sources": {}}
    costliest = []
    for instruction, times in program.executed():
        spent = instruction.cycles * times
        cycles["entry" if id(instruction) in entry else "loops"] += spent
        unknown_loops += program.trips(instruction) is None
        kind, source = program.kind(instruction), program.source(instruction.frame)
        if not spent:
            if kind in KERNELS and instruction.target not in NO_WORK:
                without[instruction.target or kind] += times
            continue
        direction, part = part_of(instruction.op_name)
        for table, key in zip(tables.values(), (kind, part, source), strict=True):
            table.setdefault(key, {"forward": 0, "backward": 0})[direction] += spent
        costliest.append(
            {
                "cycles": spent,
                "times": times,
                "kind": kind,
                "name": instruction.name,
                "operation": short_name(instruction.op_name),
                "source": source,
            }
        )
    costliest.sort(key=lambda row: -row["cycles"])
    for name, table in tables.items():
        ordered = sorted(table.items(), key=lambda item: -sum(item[1].values()))
        tables[name] = dict(ordered[:top] if name == "sources" else ordered)
    return {
        "estimated_cycles": cycles["entry"],
        "loop_cycles": cycles["loops"],
        "unknown_loops": unknown_loops,
        "without_estimate": dict(without.most_common()),
        "collectives": collectives(program),
        **tables,
        "costliest": costliest[:top],
    }


def collectives(program: Program) -> dict[str, dict[str, int]]:
    """Returns number and bytes of each kind of collective that a chip takes part in.

    The bytes are those of the whole payload: what goes in or what comes out, whichever is larger.
    """
    # XLA:TPU writes a reduce-scatter as the fusion of an all-reduce and a slice of it.
    scattered = {
        id(instruction)
        for name, instructions in program.computations.items()
        for instruction in instructions
        if name.startswith("all-reduce-scatter")
    }
    operands = {
        instruction.name: instruction.bytes
        for instructions in program.computations.values()
        for instruction in instructions
    }
    found: dict[str, tuple[str, int, int]] = {}
    for instruction, times in program.executed(inside_fusions=True):
        kind = instruction.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        read = sum(operands[name] for name in instruction.operands)
        # The result of a `-start` holds its operands too.
        made = instruction.bytes - (read if kind != instruction.opcode else 0)
        # An asynchronous collective appears again in the loops that it goes on beside; several
        # reduce-scatters can have one channel.
        key = instruction.channel
        if id(instruction) in scattered:
            kind, key = "reduce-scatter", instruction.name
        _, size, before = found.get(key, (kind, 0, times))
        found[key] = (kind, max(size, read, made), min(before, times))
    table: dict[str, dict[str, int]] = {}
    for kind, size, times in found.values():
        row = table.setdefault(kind, {"count": 0, "bytes": 0})
        row["count"] += times
        row["bytes"] += times * size
    return table


def short_name(op_name: str) -> str:
    """Returns the path of a JAX operation without the transformations around it."""
    inner = re.sub(r"\b\w+\(([^()]*)\)", r"\1", op_name)
    while inner != op_name:
        op_name, inner = inner, re.sub(r"\b\w+\(([^()]*)\)", r"\1", inner)
    return "/".join(part for part in op_name.split("/") if part)


def part_of(op_name: str) -> tuple[str, str]:
    """Returns the direction, `forward` or `backward`, and the part of the model of an operation."""
    direction = "backward" if "transpose(" in op_name else "forward"
    path = short_name(op_name).split("/")[1:-1]
    # Flax names the methods of modules, too: `head/head._outputs/class_tower`.
    return direction, "/".join([name for name in path if "." not in name][:3])


def format_report(report: dict[str, Any], chip: Chip) -> str:
    """Returns the tables that people read."""
    lines = [f"compiled in           {report['compile_seconds']:.0f} s"]
    if not report["fits"] and "error" in report:
        return "\n".join([*lines, f"does not fit          {report['error']}"])
    memory = report["memory"]
    if report["flops"] is not None:
        lines += [
            f"operations            {report['flops'] / 1e12:.3f} TFLOP a chip",
            f"memory traffic        {report['bytes_accessed'] / 1e9:.2f} GB",
        ]
    lines += [
        f"peak memory           {memory['peak'] / GIB:.2f} of {memory['available'] / GIB:.1f} GiB"
        f"{'' if report['fits'] else ': DOES NOT FIT'}",
        f"  arguments, code     {(memory['arguments'] + memory['code']) / GIB:.2f} GiB",
        f"  temporaries         {memory['temporaries'] / GIB:.2f} GiB",
        f"  images that fit     about {memory['images_that_fit']} a chip",
    ]
    if report["estimated_seconds"]:
        lines += [
            f"estimated cycles      {report['estimated_cycles'] / 1e6:.2f} million",
            f"estimated step time   {report['estimated_seconds'] * 1e3:.1f} ms at "
            f"{chip.clock / 1e9:.2f} GHz, {report['share_of_peak']:.0%} of the chip's peak",
        ]
        if report["loop_cycles"]:
            lines.append(
                f"  loops besides       {report['loop_cycles'] / 1e6:.2f} million cycles, "
                f"{report['unknown_loops']} loops of unknown length"
            )
    if report["without_estimate"]:
        kinds = ", ".join(f"{n} {kind}" for kind, n in report["without_estimate"].items())
        lines.append(f"{'not estimated' if chip.clock else 'kernels':22}{kinds}")
    if report["collectives"]:
        lines += ["", f"{'collective':20}{'number':>8}{'MB':>10}"]
        lines += [
            f"{kind:20}{row['count']:8}{row['bytes'] / 1e6:10.2f}"
            for kind, row in report["collectives"].items()
        ]
    for name in ("kinds", "parts", "sources") if report["costliest"] else ():
        lines += ["", f"{'million cycles':>14}{'forward':>10}{'backward':>10}  {name}"]
        for key, row in report[name].items():
            total = row["forward"] + row["backward"]
            if total >= 0.002 * report["estimated_cycles"]:
                lines.append(
                    f"{total / 1e6:14.2f}{row['forward'] / 1e6:10.2f}{row['backward'] / 1e6:10.2f}"
                    f"  {key or '(not of the model)'}"
                )
    if report["costliest"]:
        lines += ["", f"{'million cycles':>14}{'share':>7}  {'kind':12} {'source':28} operation"]
        lines += [
            f"{row['cycles'] / 1e6:14.3f}{row['cycles'] / report['estimated_cycles']:7.1%}"
            f"  {row['kind']:12} {row['source']:28} {row['operation']}"
            for row in report["costliest"]
        ]
    return "\n".join(lines)
