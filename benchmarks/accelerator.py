"""Speed and memory on an accelerator, beside torchvision's on the same card.

    python benchmarks/accelerator.py [--json=FILE] [--only=PATTERNS] [--torch-python=PATH]

RetinaNet and Faster R-CNN, ResNet-50 FPN, plain and with sum guidance at stages 2-4: the training
step and the prediction with NMS in bfloat16, for 8 images of 800x1344 and for 16 of 640x640;
torchvision's with AMP in bfloat16, channels last, eager and by `torch.compile`; and every kernel's
fast form against its reference, one at a time. Batches are synthetic.

Needs JAX, Flax, Optax, Orbax and jaxtyping, and for the comparison torch and torchvision. The most
important comes first, and all stops after 8 minutes. `--dry-run` runs every part on a CPU at toy
sizes. `docs/dev/accelerator.md` says what the figures mean.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from parts import Figures, Part, Result, main

LARGE, MEDIUM = (8, 800, 1344), (16, 640, 640)  # images, height, width
TOY = (2, 64, 64)
KERNELS = (  # the likeliest first; the last one is for CPUs
    "relu_max_pool",
    "relu",
    "dense_focal_loss",
    "stem_conv",
    "packed_conv2d",
    "conv2d",
)


def ours(
    detector: str, stages: tuple[int, ...], shape: tuple[int, int, int], dry: bool
) -> Iterator[dict[str, Figures]]:
    """Measures our training step, then our prediction."""
    import jax_side

    programs = our_programs(detector, stages, shape, dry)
    fast, seconds = ((), 0.0) if dry else (None, 3.0)  # a GPU's forms are the references
    train = programs.figures(*programs.train(fast), seconds=seconds)
    yield {"train": jax_side.about() | train}
    programs.make_busy()
    yield {"predict": programs.figures(*programs.predict(fast), seconds=seconds)}


def our_programs(
    detector: str,
    stages: tuple[int, ...],
    shape: tuple[int, int, int],
    dry: bool,
    packed: bool = False,
) -> Any:
    """Returns our programs; imports JAX, which only the process of a part does."""
    import jax_side
    from detectors import STANDARD
    from detectors import TOY as SMALL

    jax_side.check_device(dry)
    if dry:
        return jax_side.programs(detector, stages[:1], TOY, SMALL, packed)
    return jax_side.programs(detector, stages, shape, STANDARD, packed)


def theirs(
    detector: str, compiled: str, shape: tuple[int, int, int], dry: bool
) -> Iterator[dict[str, Figures]]:
    """Measures torchvision's training step, then its prediction."""
    import torch_side

    side = torch_side.Side(detector, TOY if dry else shape, compiled=compiled, toy=dry)
    seconds = 0.0 if dry else 3.0
    yield {"train": torch_side.about() | side.figures(side.train, seconds=seconds)}
    side.make_busy()
    yield {"predict": side.figures(side.predict, seconds=seconds)}


def kernel(name: str, shape: tuple[int, int, int], dry: bool) -> Iterator[dict[str, Figures]]:
    """Measures the training step with one kernel's fast form, in turns with all references."""
    import jax
    from torch_process import in_turns

    plain = our_programs("retinanet", (), shape, dry)
    changed = our_programs("retinanet", (), shape, dry, packed=name == "stem_conv")
    reference, _ = plain.train(())
    fast, known = changed.train((name,))
    wait = jax.block_until_ready
    times = in_turns({"reference": reference, "fast": fast}, wait, seconds=0.0 if dry else 5.0)
    ratios = [a / b for a, b in zip(times["fast"], times["reference"], strict=True)]
    quarters = statistics.quantiles(ratios, n=4)
    yield {
        "train": known
        | {
            "seconds": statistics.median(times["fast"]),
            "reference_seconds": statistics.median(times["reference"]),
            "ratio": statistics.median(ratios),
            "ratio_quartiles": [quarters[0], quarters[2]],
            "samples": len(ratios),
        }
    }


def all_parts() -> list[Part]:
    """Returns the parts, the most important first."""

    def our(detector: str, guided: bool, shape: tuple[int, int, int]) -> Part:
        stages = (2, 3, 4) if guided else ()
        name = f"{detector} {'guided' if guided else 'plain'} {label(shape)}"
        return Part(name, 120, functools.partial(ours, detector, stages, shape))

    def their(detector: str, compiled: str, shape: tuple[int, int, int]) -> Part:
        name = f"torchvision {detector} {compiled or 'eager'} {label(shape)}"
        run = functools.partial(theirs, detector, compiled, shape)
        return Part(name, 120 if compiled else 45, run, side="torch")

    def fast(name: str) -> Part:
        run = functools.partial(kernel, name, MEDIUM)
        return Part(f"kernel {name} {label(MEDIUM)}", 90, run)

    def comparison(detector: str, shape: tuple[int, int, int]) -> list[Part]:
        return [
            our(detector, False, shape),
            their(detector, "", shape),
            our(detector, True, shape),
            their(detector, "parts", shape),
            their(detector, "whole", shape),
        ]

    return [
        *comparison("retinanet", LARGE),
        *map(fast, KERNELS[:3]),
        *comparison("faster_rcnn", LARGE),
        *map(fast, KERNELS[3:5]),
        *comparison("retinanet", MEDIUM),
        *comparison("faster_rcnn", MEDIUM),
        *map(fast, KERNELS[5:]),
    ]


def label(shape: tuple[int, int, int]) -> str:
    """Returns a batch's size as parts are named after it."""
    images, height, width = shape
    return f"{height}x{width}x{images}"


def targets(results: Sequence[Result]) -> list[tuple[str, float | None, float]]:
    """Returns what is to be reached: what, the ratio measured or None, at most."""
    seconds = {
        (result.name, measure): figures["seconds"]
        for result in results
        for measure, figures in result.figures.items()
    }

    def of(detector: str, side: str, measure: str) -> float | None:
        if side != "compiled":
            return seconds.get((f"{detector} {side} {label(LARGE)}", measure))
        known = [of(detector, how, measure) for how in ("parts", "whole")]
        return min((each for each in known if each), default=None)

    rows = []
    for measure, plain, guided, side, most in (
        ("train", "retinanet plain", "torchvision retinanet", "eager", 0.8),
        ("train", "retinanet plain", "torchvision retinanet", "compiled", 1.0),
        ("train", "retinanet guided", "retinanet", "plain", 1.25),
        ("predict", "retinanet plain", "torchvision retinanet", "eager", 0.7),
    ):
        first = seconds.get((f"{plain} {label(LARGE)}", measure))
        second = of(guided, side, measure)
        ratio = first / second if first and second else None
        rows.append((f"{measure}: {plain} / {guided} {side}", ratio, most))
    return rows


def table(results: Sequence[Result]) -> str:
    """Returns what people read: a row for each measurement, then the targets and the kernels."""
    width = max(len(result.name) for result in results) + 1
    lines = [
        "",
        f"{'part':{width}}{'':9}{'ms':>9}{'images/s':>10}{'GB':>7}{'compile s':>11}{'of peak':>9}",
    ]
    for result in results:
        for measure, figures in result.figures.items():
            lines.append(f"{result.name:{width}}{measure:9}{row(figures)}")
        if result.status != "done":
            lines.append(f"{result.name:{width}}{result.status}: {result.error}")
    lines += ["", f"{'at 800x1344x8':60}{'ratio':>8}{'at most':>9}"]
    for what, ratio, most in targets(results):
        lines.append(f"{what:60}{'-' if ratio is None else f'{ratio:.3f}':>8}{most:9.2f}")
    lines += ["", f"{'kernel, fast over reference':60}{'ratio':>8}{'gains 2 %':>10}"]
    for result in results:
        if result.name.startswith("kernel") and (figures := result.figures.get("train")):
            gains = "yes" if figures["ratio"] <= 0.98 else "no"
            lines.append(f"{result.name:60}{figures['ratio']:8.3f}{gains:>10}")
    return "\n".join(lines)


def row(figures: Figures) -> str:
    """Returns the columns of one measurement; a dash where nothing is known."""

    def cell(value: float | None, width: int, digits: int, factor: float = 1.0) -> str:
        return f"{'-' if value is None else f'{value * factor:.{digits}f}':>{width}}"

    compiling = figures.get("compile_seconds", figures.get("first_call_seconds"))
    if figures.get("compiled_before"):
        compiling = None
    return (
        cell(figures["seconds"], 9, 1, 1e3)
        + cell(figures.get("images_per_second"), 10, 1)
        + cell(figures.get("peak_bytes"), 7, 1, 1e-9)
        + cell(compiling, 11, 1)
        + cell(figures.get("share_of_peak"), 8, 1, 100)
        + ("%" if figures.get("share_of_peak") is not None else "")
    )


if __name__ == "__main__":
    main(__doc__ or "", all_parts(), __file__, budget=480.0, table=table)
