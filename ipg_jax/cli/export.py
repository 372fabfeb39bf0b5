"""Writes a trained detector as programs that run without this package: `ipg-jax export`.

    ipg-jax export --workdir=runs/digits

stablehlo is one file, `export/detector.zip` of the workdir unless --out says another, that
`ipg_jax.Detector.load` and JAX alone run (docs/export.md). What was written is read again and
compared with the detector on up to 20 images of the data that the config evaluates on, which
`--config.a.b=value` changes. The exit code is 1 if a score, or the corner of a box as a share of
the box's longer side, differs by more than --tolerance.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import flags
from etils import epath

from ipg_jax.cli import program
from ipg_jax.cli.flags import parse_with_trained_config

if TYPE_CHECKING:
    from ipg_jax.inference.export import Difference

_OFFERED = "what works is --format=stablehlo"
NOT_OFFERED = {
    "savedmodel": f"TensorFlow reads an older StableHLO than JAX writes; {_OFFERED}",
    "onnx": f"jax2onnx pins an older orbax-checkpoint than this package has; {_OFFERED}",
    "litert": f"its converters were not tried with a detector yet; {_OFFERED}",
}

WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run, local or gs://, or a file or name of a detector (docs/detector.md).",
    required=True,
)
FORMAT = flags.DEFINE_enum(
    "format",
    "stablehlo",
    ["stablehlo", *NOT_OFFERED],
    "What to write; of the others it says what stands in the way.",
)
OUT = flags.DEFINE_string("out", None, "File, local or gs://.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "Which one: a step, best or latest.")
PLATFORMS = flags.DEFINE_list(
    "platforms", ["cpu", "cuda", "tpu"], "Where it is to run: some of cpu, cuda, rocm and tpu."
)
TOLERANCE = flags.DEFINE_float("tolerance", 0.01, "Largest difference that is no failure.", 0.0)

IMAGES = 20
"""How many images are compared at most."""


def main(_: list[str]) -> None:
    """Runs the command line."""
    if FORMAT.value in NOT_OFFERED:
        raise flags.Error(f"--format={FORMAT.value} is not offered: {NOT_OFFERED[FORMAT.value]}")
    from ipg_jax.training import command_line

    command_line.start()
    with command_line.without_start_up_notes():
        import jax

        from ipg_jax.files import make_folder
        from ipg_jax.inference.detector import Detector, one_device
        from ipg_jax.inference.export import differences, export_detector
        from ipg_jax.inference.exported import ExportedDetector, shown_sizes
        from ipg_jax.text import shown
        from ipg_jax.training.build_data import open_source
        from ipg_jax.training.build_predict import load_trained
        from ipg_jax.training.build_trained import for_trained
        from ipg_jax.weights import locate

    workdir = locate(command_line.home(WORKDIR.value))
    if OUT.value is None and not workdir.is_dir():
        raise flags.Error(f"--workdir={workdir} is a file: say by --out where to write")
    config = for_trained(flags.FLAGS.config, workdir)
    trained = load_trained(workdir, checkpoint=CHECKPOINT.value, config=config)
    names = [category["name"] for category in trained.categories]
    source = open_source(config, train=False, class_names=names)
    detector = Detector.of(trained, mesh=one_device())
    exported = export_detector(detector, platforms=PLATFORMS.value)
    out = epath.Path(command_line.home(OUT.value or workdir / "export" / "detector.zip"))
    make_folder(out.parent)
    exported.save(out)
    loaded = ExportedDetector.load(out)
    detect = functools.partial(jax.jit(loaded.predict), loaded.weights)
    print(
        f"wrote {out}: images of {shown_sizes(exported.programs)} pixels, "
        f"for {', '.join(exported.platforms)}"
    )

    print("objects  scores   boxes    image")
    found = []
    count = min(IMAGES, len(source))
    for index in np.linspace(0, len(source) - 1, count).astype(int).tolist():
        image = source.try_load_image(index)
        if image is None:
            continue
        one = differences(detector, detect, image)
        name = shown(source.records.file_names[index])
        print(f"{one.objects:7}  {one.score:.1e}  {one.box:.1e}  {name}")
        found.append(one)
    print(judged(found, TOLERANCE.value))


def judged(found: Sequence[Difference], tolerance: float) -> str:
    """Returns what is to be said of all images, or ends the process: they differ by too much."""
    if not any(one.objects for one in found):
        return "nothing was found in these images: nothing could be compared"
    worst = float(np.max([one.largest for one in found]))  # NaN, if one is
    if not worst <= tolerance:
        sys.exit(
            f"the export differs from the detector by up to {worst:.1e}, more than "
            f"--tolerance={tolerance:g}: do not use it before you know why"
        )
    return f"all within {worst:.1e}; --tolerance is {tolerance:g}"


def run() -> None:
    """Parses the flags and exports."""
    program.run(main, __name__, parse_with_trained_config)


if __name__ == "__main__":
    run()
