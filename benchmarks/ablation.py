"""Plain and guided detectors on the digits data set, a few hundred steps each, several seeds.

    python benchmarks/ablation.py --workdir=runs/ablation

Trains the small RetinaNet of `configs/digits_ipg.py`, with an FPN up to P5 that all stages reach,
without guidance, with each fusion, without guidance but with a wider FPN that makes up for the
operations that guidance adds, and guided at single stages. Prints a Markdown table: mean and
standard deviation over the seeds of the COCO figures on 200 unseen scenes, in percent, and the
operations of a forward pass of one image. Start it again to go on where it was stopped: finished
runs are read from `--workdir`. On two idle cores a pair of models takes 6 to 7 minutes.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib
import json
import os
import pathlib
import queue
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = "digits_ipg"
SCENE = 128  # pixels, the config's
FIGURES = ("AP", "AP50", "AP_small")


class Variant(NamedTuple):
    """A model to train: the config's argument, fields of `config.model`, how many seeds."""

    argument: str
    fields: dict[str, Any]
    seeds: int


FIELDS = {"fpn_levels": (2, 5)}  # of `config.model`, for all
BATCH = 4  # half the config's: so few steps teach more with twice as many of them
VARIANTS = {
    "plain": Variant("stages=", {}, 3),
    "plain, wider FPN": Variant("stages=", {"fpn_channels": 86}, 3),
    "sum": Variant("stages=234,fusion=sum", {}, 3),
    "product": Variant("stages=234,fusion=product", {}, 3),
    "concat": Variant("stages=234,fusion=concat", {}, 3),
    "attention": Variant("stages=234,fusion=attention", {}, 3),
    "sum at stage 2": Variant("stages=2", {}, 1),
    "sum at stage 3": Variant("stages=3", {}, 1),
    "sum at stage 4": Variant("stages=4", {}, 1),
}


def run(
    name: str, seed: int, steps: int, folder: pathlib.Path, cores: list[int]
) -> dict[str, float]:
    """Trains one model on some CPU cores unless `folder` holds it; returns its COCO figures.

    Raises:
      RuntimeError: training failed; what it wrote is in the file that is named.
    """
    workdir = folder / f"{name.replace(', ', '_').replace(' ', '_')}_{seed}"
    metrics = workdir / "eval" / "metrics.json"
    if metrics.exists() and json.loads(metrics.read_text())["step"] == steps:
        return json.loads(metrics.read_text())["coco"]
    variant = VARIANTS[name]
    flags = {
        "seed": seed,
        "num_steps": steps,
        "batch_size": BATCH,
        "optimizer.batch_size": BATCH,
        "eval_only_at_end": True,
        "checkpoint_every": 100,
        "eval.samples": 0,
        **{f"model.{field}": value for field, value in (FIELDS | variant.fields).items()},
    }
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        f"--config={ROOT / 'configs' / CONFIG}.py:{variant.argument}",
        f"--workdir={workdir}",
        *(f"--config.{field}={value}" for field, value in flags.items()),
    ]
    workdir.mkdir(parents=True, exist_ok=True)
    log = workdir / "train.log"
    start = time.time()
    with log.open("a") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        os.sched_setaffinity(process.pid, cores)
        if process.wait() != 0:
            raise RuntimeError(f"{name}, seed {seed}: training failed, see {log}")
    figures = json.loads(metrics.read_text())["coco"]
    seconds = time.time() - start
    print(f"{name}, seed {seed}: AP {100 * figures['AP']:.1f} in {seconds:.0f} s", flush=True)
    return figures


def operations(variant: Variant) -> float:
    """Returns the floating-point operations of a forward pass of one image, by XLA's count."""
    import jax
    import jax.numpy as jnp

    sys.path.insert(0, str(ROOT))  # configs lie beside benchmarks
    from ipg_jax import build_task

    config = importlib.import_module(f"configs.{CONFIG}").get_config(variant.argument).unlock()
    config.model.update(FIELDS | variant.fields)
    task = build_task(config)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    pyramid = tuple(
        jax.ShapeDtypeStruct((1, SCENE >> i, SCENE >> i, 3), jnp.float32)
        for i in range(task.pyramid_levels)
    )
    forward = jax.jit(lambda variables, pyramid: task.model.apply(variables, pyramid))
    return forward.lower(variables, pyramid).cost_analysis()["flops"]


def spread(values: list[float]) -> str:
    """Returns mean and standard deviation in percent; of one value, the value."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--jobs", type=int, default=2, help="models at once, on so many cores each")
    arguments = parser.parse_args()
    folder = arguments.workdir.absolute() / str(arguments.steps)

    available = sorted(os.sched_getaffinity(0))
    shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for job in range(arguments.jobs):
        shares.put(available[job :: arguments.jobs] or available)

    def run_on_a_share(job: tuple[str, int]) -> dict[str, float]:
        cores = shares.get()
        try:
            return run(*job, arguments.steps, folder, cores)
        finally:
            shares.put(cores)

    results: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    # Seed by seed, so that a table that was stopped early compares all variants.
    jobs = [
        (name, seed)
        for seed in range(max(variant.seeds for variant in VARIANTS.values()))
        for name, variant in VARIANTS.items()
        if seed < variant.seeds
    ]
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        try:
            for (name, _), figures in zip(jobs, pool.map(run_on_a_share, jobs), strict=True):
                results[name].append(figures)
        except RuntimeError as error:
            pool.shutdown(cancel_futures=True)  # those that run finish
            sys.exit(str(error))

    print(f"| model | seeds | GFLOP | {' | '.join(FIGURES)} |")
    print(f"|{' --- |' * (3 + len(FIGURES))}")
    for name, variant in VARIANTS.items():
        spreads = [spread([r[figure] for r in results[name]]) for figure in FIGURES]
        flops = f"{operations(variant) / 1e9:.2f}"
        print(f"| {name} | {variant.seeds} | {flops} | {' | '.join(spreads)} |")


if __name__ == "__main__":
    main()
