"""Tests of what an accelerator may compute otherwise than a CPU, and timings of two operators.

    python benchmarks/accelerator_tests.py [--json=FILE] [--only=PATTERNS]

Operators beside torchvision's stored results, whole detectors beside torchvision's, an overfit of 8
images, bfloat16 beside float32, and two runs beside each other; at most 3 minutes, no pytest.
`--dry-run` runs every part on a CPU at toy sizes. The exit code is 1 if a test fails or does not
come to its end. `docs/dev/accelerator.md` says more.
"""

from __future__ import annotations

import functools
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from parts import Figures, Part, Result, main

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "detectors.npz"
DETECTORS = {"retinanet": "retinanet_resnet50_fpn", "faster_rcnn": "fasterrcnn_resnet50_fpn"}
STEPS = 60
_TOYS: dict[tuple[str, str], dict[str, Any]] = {}

LOSS_TOLERANCE = 0.05
"""By how much a loss in bfloat16 may differ from that in float32, of the latter. On a CPU it is up
to 0.016 with these random weights."""


def operators(dry: bool) -> Iterator[dict[str, Figures]]:
    """Compares the operators with stored results."""
    import golden
    import jax

    with jax.default_matmul_precision("highest"):
        found = golden.differences()
    yield {name: {"ok": value <= 1, "of_tolerance": value} for name, value in found.items()}


def parity(detector: str, dry: bool) -> Iterator[dict[str, Figures]]:
    """Compares a whole detector with torchvision's: losses and detections.

    With products in float32, which must agree, and in what the device takes by itself (TF32 on
    GPUs), which is only told. A toy is compared with itself.
    """
    import jax

    made = MadeDetector(detector, dry)
    want = made.run("float32") if dry else made.torchvisions()
    for precision in (None,) if dry else ("highest", None):
        with jax.default_matmul_precision(precision):
            have = made.run("float32")
        rows = made.comparison.compare(want, have)
        asked = dry or precision is not None
        yield {
            f"{precision or 'default'} precision": {
                "ok": not asked or all(row.ok for row in rows),
                "differences": {row.quantity: row.value for row in rows},
            }
        }


def types(detector: str, dry: bool) -> Iterator[dict[str, Figures]]:
    """Compares losses in bfloat16 with those in float32, of the same weights."""
    import numpy as np

    made = MadeDetector(detector, dry)
    exact, rounded = made.run("float32"), made.run("bfloat16")
    for name, value in exact.items():
        if np.ndim(value) == 0 and name.startswith("loss_") == (detector == "faster_rcnn"):
            difference = abs(float(rounded[name]) / float(value) - 1)
            yield {name: {"ok": difference < LOSS_TOLERANCE, "relative_difference": difference}}


class MadeDetector:
    """Torchvision's first version of a detector, with weights and pictures made by NumPy.

    Attributes:
      comparison: the module that compares detectors.
    """

    def __init__(self, detector: str, dry: bool) -> None:
        sys.path += [str(ROOT), str(ROOT / "tests" / "parity")]
        import detector_weights
        import whole_detectors

        self.comparison = whole_detectors
        self._batch = whole_detectors.make_batch(detector_weights.make_batch())
        self._detector, self._dry = detector, dry

    def torchvisions(self) -> dict[str, Any]:
        """Returns what torchvision's gave."""
        import numpy as np

        stored = np.load(GOLDEN)
        prefix = f"{DETECTORS[self._detector]}/"
        return {key.removeprefix(prefix): stored[key] for key in stored if key.startswith(prefix)}

    def run(self, dtype: str) -> dict[str, Any]:
        """Returns losses and detections under torchvision's names."""
        import json

        import jax
        import numpy as np

        task = self._task(dtype)
        if self._dry:
            if (self._detector, dtype) not in _TOYS:  # which parts of a dry run share
                variables = task.init(jax.random.key(0))
                found = self.comparison.run(task, variables, self._batch)
                _TOYS[self._detector, dtype] = found
            return _TOYS[self._detector, dtype]
        shapes = json.loads(str(np.load(GOLDEN)["shapes"]))[DETECTORS[self._detector]]
        variables = self.comparison.make_variables(task, shapes)
        return self.comparison.run(task, variables, self._batch)

    def _task(self, dtype: str) -> Any:
        import dataclasses

        import jax.numpy as jnp
        from detectors import STANDARD, TOY, make_task

        size = TOY if self._dry else STANDARD
        options = {"norm": "frozen_batch_norm", "num_classes": 80, "size": size}
        task = make_task(self._detector, dtype=jnp.dtype(dtype), **options)
        if self._detector == "retinanet":
            fpn = task.model.fpn.clone(extra_source="p")
            return dataclasses.replace(task, model=task.model.clone(fpn=fpn))
        few = dataclasses.replace(task.proposals, per_image=(100, 100))
        return dataclasses.replace(task, proposals=few)


def overfit(dry: bool) -> Iterator[dict[str, Figures]]:
    """Trains a narrow detector on 8 images of three squares each."""
    import jax.numpy as jnp
    import numpy as np
    from detectors import TOY, Size, adam, make_task
    from jax_side import Programs

    size = TOY if dry else Size(depth=18, base_channels=32, channels=64, convs=2)
    norm = "frozen_batch_norm" if dry else "batch_norm"
    task = make_task("retinanet", size=size, num_classes=3, dtype=jnp.float32, norm=norm)
    programs = Programs(task, squares(2 if dry else 8, 64 if dry else 128), adam(1e-3))
    step, _ = programs.train(() if dry else None)
    losses = [float(step()["loss"]) for _ in range(10 if dry else STEPS)]
    fell = losses[-1] < losses[0] / (1 if dry else 3)
    yield {
        "loss": {
            "ok": bool(np.isfinite(losses).all()) and fell,
            "first": losses[0],
            "last": losses[-1],
            "steps": len(losses),
        }
    }


def squares(images: int, side: int) -> Any:
    """Returns a batch whose images have a red, a green and a blue square, each a class."""
    import numpy as np
    from detectors import make_batch

    rng = np.random.default_rng(1)
    image = np.full((images, side, side, 3), 20, np.uint8)
    boxes = np.zeros((images, 3, 4), np.float32)
    extent = side // 4
    for i in range(images):
        for color, column in enumerate(rng.permutation(3)):
            x, y = column * side // 3, rng.integers(side - extent)
            image[i, y : y + extent, x : x + extent, color] = 230
            boxes[i, color] = x, y, x + extent, y + extent
    batch = make_batch(images, side, side, levels=1, num_boxes=3)
    return batch.replace(pyramid=(image,), boxes=boxes)


def determinism(flag: str, dry: bool) -> Iterator[dict[str, Figures]]:
    """Compares two runs from the same state; with the flag they must be equal to the bit."""
    if flag:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{flag}=true"
    import jax
    import jax_side
    import numpy as np
    from detectors import STANDARD, TOY

    shape, size = ((2, 64, 64), TOY) if dry else ((8, 256, 256), STANDARD)
    programs = jax_side.programs("retinanet", (), shape, size, False)
    step, _ = programs.train(() if dry else None)
    states = []
    for _ in range(2):
        programs.state = programs.first_state()
        for _ in range(3):
            step()
        states.append(jax.tree.leaves(jax.device_get(programs.state.params)))
    equal = sum(np.array_equal(a, b) for a, b in zip(*states, strict=True))
    arrays = len(states[0])
    yield {"parameters": {"ok": equal == arrays or not flag, "equal": equal, "of": arrays}}


def timings(dry: bool) -> Iterator[dict[str, Figures]]:
    """Times NMS and ROI align on the boxes of `benchmarks/ops.py`."""
    import statistics

    import jax
    import ops
    from torch_process import in_turns

    for name, (function, arguments) in ops.jax_functions().items():
        if dry and not name.startswith("nms 1000"):
            continue
        program = jax.jit(function).lower(*arguments).compile()
        call = functools.partial(program, *jax.device_put(arguments))
        seconds = 0.0 if dry else 0.5
        times = in_turns({"": call}, jax.block_until_ready, seconds=seconds)[""]
        yield {name: {"ok": True, "milliseconds": 1e3 * statistics.median(times)}}


PARTS = [
    Part("operators", 60, operators),
    Part("parity of retinanet", 60, functools.partial(parity, "retinanet")),
    Part("overfit of 8 images", 45, overfit),
    Part("bfloat16 of retinanet", 60, functools.partial(types, "retinanet")),
    Part("timings", 45, timings),
    Part("two runs", 60, functools.partial(determinism, "")),
    Part("two runs by one order", 60, functools.partial(determinism, "xla_gpu_deterministic_ops")),
    Part("parity of faster_rcnn", 60, functools.partial(parity, "faster_rcnn")),
    Part("bfloat16 of faster_rcnn", 60, functools.partial(types, "faster_rcnn")),
]


def failures(results: Sequence[Result]) -> list[str]:
    """Returns what failed, and the parts that did not come to their end."""
    found = [result.name for result in results if result.status != "done"]
    for result in results:
        found += [f"{result.name}: {name}" for name, row in result.figures.items() if not row["ok"]]
    return found


def table(results: Sequence[Result]) -> str:
    """Returns a row for each comparison."""
    lines = [""]
    for result in results:
        for name, figures in result.figures.items():
            rest = ", ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in figures.items()
                if key != "ok"
            )
            passed = "passed" if figures["ok"] else "FAILED"
            lines.append(f"{passed:8}{result.name:26}{name:30}{rest}")
        if result.status != "done":
            lines.append(f"{result.status:8}{result.name:26}{result.error}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(bool(failures(main(__doc__ or "", PARTS, __file__, budget=180.0, table=table))))
