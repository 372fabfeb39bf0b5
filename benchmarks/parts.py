"""Runs a list of measurements one after another, each in a process and with a limit of its own.

A list is for machines that are at hand for minutes: the most important part comes first, what fails
or takes too long is reported and the rest goes on, and whatever was found is in a JSON file at any
time. Between parts nothing is left on the device: a part's memory goes with its process, so that
XLA, which takes most of a GPU's memory at its start, and torch never share it.

A script calls `main`; the process of a part is the same script with `--part=NAME`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import fnmatch
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from torch_process import torch_interpreter

Figures = dict[str, Any]
MARK = "FIGURES "
"""How a line begins that a part's process tells its figures on."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One measurement.

    Attributes:
      name: without commas.
      limit: seconds after which its process is killed.
      run: yields `{name: figures}` as they are found; gets whether sizes are toys.
      side: whose interpreter runs it.
    """

    name: str
    limit: float
    run: Callable[[bool], Iterator[dict[str, Figures]]]
    side: Literal["jax", "torch"] = "jax"


@dataclasses.dataclass
class Result:
    """What became of a part.

    Attributes:
      name: the part's.
      status: `done`, `failed`, `killed` (at its limit) or `not run`.
      seconds: how long it took.
      figures: by name, also of a part that did not come to its end.
      error: what it said last, or why it was not run.
    """

    name: str
    status: str = "not run"
    seconds: float = 0.0
    figures: dict[str, Figures] = dataclasses.field(default_factory=dict)
    error: str = ""


def main(
    description: str,
    parts: Sequence[Part],
    script: str,
    *,
    budget: float,
    table: Callable[[Sequence[Result]], str],
) -> list[Result]:
    """Reads the flags and runs the parts, or the one that this process is for.

    Args:
      description: what `--help` shows.
      parts: the most important first.
      script: path of the script.
      budget: seconds for all parts together.
      table: what to print of the results at the end.

    Returns:
      The results, to which nothing is added in the process of a part.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", default="accelerator.json", help="where the results go")
    parser.add_argument(
        "--only", default="*", help="patterns of parts' names, as of a shell, between commas"
    )
    parser.add_argument("--budget", type=float, default=budget, help="seconds for all parts")
    parser.add_argument(
        "--dry-run", action="store_true", help="toy sizes, on the CPU, without a budget"
    )
    parser.add_argument("--torch-python", default="", help="an interpreter that has torch")
    parser.add_argument("--list", action="store_true", help="names and limits of the parts")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.torch_python and shutil.which(flags.torch_python) is None:
        parser.error(f"--torch-python={flags.torch_python}: there is no such program")
    if flags.part:
        wanted = flags.part.split(",")
        _run_here([part for part in parts if part.name in wanted], dry=flags.dry_run)
        return []
    patterns = flags.only.split(",")
    parts = [part for part in parts if any(fnmatch.fnmatch(part.name, x) for x in patterns)]
    if not parts:
        parser.error(f"--only={flags.only}: no part has such a name, see --list")
    if flags.list:
        print("\n".join(f"{part.limit:5.0f} s  {part.name}" for part in parts))
        return []
    runner = _Runner(parts, script, flags)
    runner.run()
    print(table(runner.results))
    print(json.dumps(runner.record()))
    return runner.results


def _run_here(parts: Sequence[Part], *, dry: bool) -> None:
    """Runs parts in this process and tells their figures, a line each."""

    def tell(part: Part, **content: Any) -> None:
        print(MARK + json.dumps({"part": part.name} | content), flush=True)

    for part in parts:
        begin = time.perf_counter()
        try:
            for figures in part.run(dry):
                tell(part, figures=figures)
        except Exception as error:  # told in the table; the other parts go on
            import traceback

            traceback.print_exc()
            last = str(error).strip().splitlines()
            tell(part, error=f"{type(error).__name__}: {last[0] if last else ''}")
        tell(part, seconds=time.perf_counter() - begin)


class _Runner:
    """Runs parts as processes; `results` and the JSON file are up to date at any time."""

    def __init__(self, parts: Sequence[Part], script: str, flags: argparse.Namespace) -> None:
        self.parts, self.script, self.flags = parts, script, flags
        self.results = [Result(part.name) for part in parts]
        self._by_name = {result.name: result for result in self.results}
        self._torch = torch_interpreter(flags.torch_python)
        self._begin = time.perf_counter()
        self._started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

    def run(self) -> None:
        """Runs all parts that the budget has time for."""
        with tempfile.TemporaryDirectory() as cache:
            for group in self._groups():
                left = self.flags.budget - (time.perf_counter() - self._begin)
                if self.flags.dry_run:
                    left = math.inf
                limit = sum(part.limit for part in group)
                if group[0].side == "torch" and not self._torch:
                    self._skip(group, "torch is not installed here: see --torch-python")
                elif left < limit / 2:
                    self._skip(group, f"of the budget {max(0, left):.0f} s were left")
                else:
                    self._run_group(group, min(limit, left), cache)
                self._write()

    def _groups(self) -> Iterator[Sequence[Part]]:
        """Yields what shares a process: one part, or in a dry run all of a side."""
        if not self.flags.dry_run:
            yield from ([part] for part in self.parts)
            return
        for side in ("jax", "torch"):
            if group := [part for part in self.parts if part.side == side]:
                yield group

    def _skip(self, group: Sequence[Part], why: str) -> None:
        for part in group:
            self._by_name[part.name].error = why
            print(f"{part.name}: not run, {why}", flush=True)

    def _run_group(self, group: Sequence[Part], limit: float, cache: str) -> None:
        begin = time.perf_counter()
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                self._command(group),
                env=self._environment(cache),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # so that what it starts is killed with it
            )
            killed = threading.Event()
            timer = threading.Timer(limit, lambda: (killed.set(), _kill(process)))
            timer.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    if line.startswith(MARK):
                        self._hear(json.loads(line.removeprefix(MARK)))
                    if all(self._by_name[part.name].status != "not run" for part in group):
                        break
                else:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=10)
            finally:
                timer.cancel()
                _kill(process)
            code = process.wait()
            errors.seek(0)
            said = errors.read()
        for part in group:
            result = self._by_name[part.name]
            if result.status == "not run":  # it did not come to its end
                result.seconds = time.perf_counter() - begin
                result.status = "killed" if killed.is_set() else "failed"
                last = said.strip().splitlines()[-1:] or ["nothing"]
                result.error = (
                    f"killed after {limit:.0f} s"
                    if killed.is_set()
                    else f"exit code {code}, last line: {last[0]}"
                )
            if result.error:
                print(f"{part.name}: {result.status}, {result.error}", flush=True)
        if said and any(self._by_name[part.name].error for part in group):
            print(said[-4000:], file=sys.stderr, flush=True)

    def _command(self, group: Sequence[Part]) -> list[str]:
        python = self._torch if group[0].side == "torch" else sys.executable
        command = [python, self.script, f"--part={','.join(part.name for part in group)}"]
        return [*command, "--dry-run"] if self.flags.dry_run else command

    def _environment(self, cache: str) -> dict[str, str]:
        """Returns the variables of a part's process.

        Parts of one run share compiled programs, and what XLA found out about kernels.
        """
        ours = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        }
        if self.flags.dry_run:
            return ours | os.environ | {"JAX_PLATFORMS": "cpu"}
        return os.environ | ours  # an empty cache, so that compilations are timed

    def _hear(self, said: dict[str, Any]) -> None:
        result = self._by_name[said["part"]]
        for name, figures in said.get("figures", {}).items():
            result.figures[name] = figures
            print(f"{result.name}: {name} {_short(figures)}", flush=True)
        result.error = said.get("error", result.error)
        if "seconds" in said:
            result.seconds = said["seconds"]
            result.status = "failed" if result.error else "done"
        self._write()

    def record(self) -> dict[str, Any]:
        """Returns all that is known so far, as JSON types."""
        return {
            "command": " ".join(sys.argv),
            "started": self._started,
            "seconds": time.perf_counter() - self._begin,
            "dry_run": self.flags.dry_run,
            "parts": [dataclasses.asdict(result) for result in self.results],
        }

    def _write(self) -> None:
        path = pathlib.Path(self.flags.json)
        new = path.with_name(path.name + ".new")
        new.write_text(json.dumps(self.record(), indent=1))
        new.replace(path)


def _kill(process: subprocess.Popen[str]) -> None:
    """Ends a process and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _short(figures: Figures) -> str:
    """Returns the figures of one measurement for a line of progress."""
    parts = []
    for key, value in figures.items():
        if isinstance(value, float):
            parts.append(f"{key}={value:.4g}")
        elif isinstance(value, bool | int | str):
            parts.append(f"{key}={value}")
    return " ".join(parts)
