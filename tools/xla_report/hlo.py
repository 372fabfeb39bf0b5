"""Reads the text of an optimised program, as `jax.stages.Compiled.as_text()` prints it."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Iterator

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

PACKAGE = "ipg_jax"
"""The package whose lines `Program.source` names."""


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
