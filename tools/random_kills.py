"""Ends a run at random moments and starts it again, until it has the bits of one left in peace.

    python -m tools.random_kills --kills=30 --seed=0
    python -m tools.random_kills --script=tests/training/stand_in_run.py  # many times as fast

A tiny run of `train.py` is trained once without interruption. Then it is killed (SIGKILL) or
stopped (Ctrl-C) after a random time and started again, over and over; each time that it comes to
its end, its checkpoints, metrics and evaluations have to be those of the first, and another one is
begun. Every step is saved and every second one is evaluated, so that the moments fall into starts,
steps, saves and evaluations; how many in each is printed. What differs ends the script with an
error. With `--script` that is run instead of `train.py`, with the workdir as its argument.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from ipg_jax.training.checkpoint import load_variables

ROOT = pathlib.Path(__file__).parents[1]
FLAGS = (
    "--config=configs/digits_ipg.py:stages=2",
    "--config.batch_size=4",
    "--config.num_steps=12",
    "--config.image_size=(64, 64)",
    "--config.log_every=1",
    "--config.checkpoint_every=1",
    "--config.eval_every=2",
    "--config.data.scene_size=64",
    "--config.data.train_scenes=20",
    "--config.data.eval_scenes=10",
    "--config.model.base_channels=16",
    "--config.model.fpn_levels=(3, 4)",
    "--config.model.fpn_channels=32",
    "--config.model.retinanet_head.convs=1",
    "--config.model.retinanet_head.channels=32",
    "--config.eval.samples=0",
    "--config.eval.score_threshold=0.0",
)
BEGUN = "compiling the training step"
"""What a run prints once signals are caught and its steps begin."""


class Run:
    """A process that trains in `workdir`, and what it prints."""

    def __init__(self, workdir: pathlib.Path, script: str | None) -> None:
        """Starts the process."""
        workdir.mkdir(parents=True, exist_ok=True)
        self.workdir = workdir
        self._output = workdir / "output.txt"
        self._before = self._output.stat().st_size if self._output.exists() else 0
        command = [script, str(workdir)] if script else ["train.py", f"--workdir={workdir}", *FLAGS]
        with self._output.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def printed(self) -> str:
        """What it has printed since it was started."""
        return self._output.read_bytes()[self._before :].decode(errors="replace")

    def wait(self, seconds: float | None, *, until: str = "") -> bool:
        """Waits for its end, or until a text is printed; returns whether it has ended.

        Raises:
          AssertionError: it has ended with an error.
        """
        deadline = time.monotonic() + (float("inf") if seconds is None else seconds)
        while self.process.poll() is None:
            if time.monotonic() > deadline or (until and until in self.printed):
                return False
            time.sleep(0.002)
        assert self.process.returncode == 0, self.printed
        return True

    def moment(self) -> str:
        """Returns what it was doing when it was ended, by what it printed and left behind."""
        if BEGUN not in self.printed:
            return "start"
        folder = self.workdir / "checkpoints"
        if any("tmp" in path.name for path in folder.iterdir()):
            return "save"
        newest = max(steps(self.workdir), default=0)
        evaluated = (folder / str(newest) / "metrics" / "metrics").exists()
        due = any(record["step"] == newest for record in figures(self.workdir))
        return "evaluation" if newest and due and not evaluated else "step"


def steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps of the checkpoints."""
    names = [path.name for path in (workdir / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def figures(workdir: pathlib.Path) -> list[dict]:
    """Returns the metrics of a run without its speed; a line that is cut off is left out."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    records = map(json.loads, lines)
    return [{k: v for k, v in r.items() if k != "train/images_per_second"} for r in records]


def check_same(workdir: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """Raises AssertionError unless both runs have the same bits."""
    assert steps(workdir) == steps(undisturbed), f"other checkpoints in {workdir}"
    for step in steps(workdir):
        ours, theirs = (
            load_variables(folder / "checkpoints" / str(step)) for folder in (workdir, undisturbed)
        )
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert figures(workdir) == figures(undisturbed), f"other metrics in {workdir}"
    for name in ("eval/metrics.json", "eval/detections.json", "config.json", "classes.json"):
        assert (workdir / name).read_bytes() == (undisturbed / name).read_bytes(), name


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--script", default=None, help="what to run instead of train.py")
    parser.add_argument("--folder", type=pathlib.Path, default=None, help="where the runs are kept")
    arguments = parser.parse_args()
    folder = arguments.folder or pathlib.Path(tempfile.mkdtemp(prefix="random_kills_"))
    rng = random.Random(arguments.seed)

    for name in ("warm_up", "undisturbed"):  # the first compiles, for all others
        begin = time.monotonic()
        run = Run(folder / name, arguments.script)
        assert not run.wait(None, until=BEGUN), "it had nothing to do"
        begun = time.monotonic()
        run.wait(None)
    to_begin, to_end = begun - begin, time.monotonic() - begun
    print(f"a start takes {to_begin:.1f} s, the steps {to_end:.1f} s; see {folder}", flush=True)

    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    runs = 0
    while counts.total() < arguments.kills:
        workdir = folder / f"run{runs}"
        done = False
        while not done:
            run = Run(workdir, arguments.script)
            if counts.total() == arguments.kills:
                done = run.wait(None)
                continue
            if rng.random() < 0.25:
                done = run.wait(rng.uniform(0, to_begin))
            else:
                done = run.wait(None, until=BEGUN) or run.wait(rng.uniform(0, to_end))
            if not done:
                number = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGINT))
                run.process.send_signal(number)
                code, when = run.process.wait(), run.moment()
                if when == "step" and steps(workdir) == steps(folder / "undisturbed"):
                    when = "exit"  # with all its work done
                if number == signal.SIGINT and when not in ("start", "exit") and code != 0:
                    raise SystemExit(f"Ctrl-C in a {when} ended with code {code}: see {folder}")
                counts[number.name, when] += 1
        check_same(workdir, folder / "undisturbed")
        runs += 1
        print(f"run {runs} has the same bits after {counts.total()} kills", flush=True)
    for (name, when), count in sorted(counts.items()):
        print(f"{count} x {name} in a {when}")
    print(f"{counts.total()} ends of {runs} runs with seed {arguments.seed}: all the same bits")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    cache = pathlib.Path(tempfile.gettempdir()) / "random_kills_cache"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    main()
