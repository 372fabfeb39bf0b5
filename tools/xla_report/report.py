"""What a compiled program needs and where its time goes, as JSON types.

Cycles are estimates of the compiler: good to compare two versions of a program, no promise of
seconds. `docs/performance.md` says what each figure means.
"""

from __future__ import annotations

import collections
import pathlib
import re
import time
from typing import Any

import jax

from tools.xla_report.hlo import COLLECTIVES, Program, parse_program
from tools.xla_report.topologies import Chip

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
