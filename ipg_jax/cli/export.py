"""Writes a trained detector as programs that run without this package: `ipg-jax export`.

    ipg-jax export --workdir=runs/digits
    ipg-jax export --workdir=hit_uav_small --out=detector.zip --images=photos
    ipg-jax export --workdir=runs/digits --format=onnx

stablehlo is one file, `export/detector.zip` of the workdir unless --out says another, that
`ipg_jax.Detector.load` and JAX alone run; onnx is `export/detector.onnx`, or two such files with
their sizes in their names, for landscape and for portrait images; savedmodel is a folder,
`export/savedmodel`, for TensorFlow (docs/export.md). What was written is read again and compared
with the detector on up to 20 images: those of --images, or of the data that the config evaluates
on, which `--config.a.b=value` changes. The exit code is 1 if a score, or the corner of a box as a
share of the box's longer side, differs by more than --tolerance.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import flags
from etils import epath

from ipg_jax.cli import program
from ipg_jax.cli.flags import parse_with_trained_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from ipg_jax.images import ImageOptions
    from ipg_jax.inference.detector import Detector
    from ipg_jax.inference.export import Difference
    from ipg_jax.inference.tiles import Detect
    from ipg_jax.training.trained import TrainedDetector

NAMES = {"stablehlo": "detector.zip", "onnx": "detector.onnx", "savedmodel": "savedmodel"}
"""Of the file, or the folder, of each format."""

NOT_OFFERED = {
    "litert": "the converter of TensorFlow 2.21 lacks the sorting that NMS does; what works is "
    f"--format={' and --format='.join(NAMES)}"
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
    [*NAMES, *NOT_OFFERED],
    "What to write; of the others it says what stands in the way.",
)
OUT = flags.DEFINE_string("out", None, "File, of savedmodel folder, local or gs://.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "Which one: a step, best or latest.")
PLATFORMS = flags.DEFINE_list(
    "platforms",
    ["cpu", "cuda", "tpu"],
    "Where a file of stablehlo is to run: some of cpu, cuda, rocm and tpu.",
)
COMPARED = flags.DEFINE_multi_string(
    "images",
    [],
    "Image, folder of images or pattern to compare the export on; may be repeated. By default the "
    "images of the run's evaluation; of a detector that is a file, which names no data, none.",
)
TOLERANCE = flags.DEFINE_float("tolerance", 0.01, "Largest difference that is no failure.", 0.0)
flags.register_validator(
    TOLERANCE, lambda value: not math.isnan(value), "--tolerance is a number: NaN compares nothing"
)

IMAGES = 20
"""How many images are compared at most."""


def main(_: list[str]) -> None:
    """Runs the command line."""
    if FORMAT.value in NOT_OFFERED:
        raise flags.Error(f"--format={FORMAT.value} is not offered: {NOT_OFFERED[FORMAT.value]}")
    if FORMAT.value != "stablehlo" and flags.FLAGS["platforms"].present:
        raise flags.Error(f"--platforms is of --format=stablehlo, not of {FORMAT.value}")
    from ipg_jax.training import command_line

    command_line.start()
    from ipg_jax.files import make_folder
    from ipg_jax.inference.detector import Detector, one_device
    from ipg_jax.inference.export import differences
    from ipg_jax.training.build_predict import load_trained
    from ipg_jax.training.build_trained import for_trained
    from ipg_jax.weights import locate

    workdir = locate(command_line.home(WORKDIR.value))
    if not OUT.value and workdir.exists() and not workdir.is_dir():
        raise flags.Error(f"--workdir={workdir} is a file: say by --out where to write")
    default = workdir / "export" / NAMES[FORMAT.value]
    out = check_out(command_line.home(OUT.value or str(default)), FORMAT.value)
    config = for_trained(flags.FLAGS.config, workdir)
    if FORMAT.value == "onnx" and config.model.dtype != "float32":
        print(f"computes in float32, not {config.model.dtype}, which few runtimes of ONNX do")
        config.model.dtype = "float32"
    trained = load_trained(workdir, checkpoint=CHECKPOINT.value, config=config)
    images: Iterable[tuple[str, np.ndarray]] | None = None
    if COMPARED.value:
        images = named_images([*map(command_line.home, COMPARED.value)], trained.image_options)
    elif workdir.is_dir():
        images = images_of_the_run(config, trained)
    detector = Detector.of(trained, mesh=one_device())
    make_folder(out.parent)
    writers = {"stablehlo": write_stablehlo, "onnx": write_onnx, "savedmodel": write_saved_model}
    read_again = writers[FORMAT.value](detector, out)
    if images is None:
        print("it was not compared with the detector: name images to do that on by --images=FOLDER")
        return

    detect = read_again()
    print("objects  scores   boxes    pixels   unmatched  image")
    found = []
    for name, image in images:
        one = differences(detector, detect, image)
        figures = f"{one.objects:7}  {one.score:.1e}  {one.box:.1e}  {one.pixels:.1e}"
        print(f"{figures}  {one.unmatched:9}  {name}")
        found.append(one)
    print(judged(found, TOLERANCE.value))


def check_out(out: str, kind: str) -> epath.Path:
    """Returns where to write, which is nothing that a file, or a folder, of a format cannot be.

    Args:
      out: what the user said.
      kind: one of `NAMES`.

    Raises:
      flags.Error: it is a folder where a file is to be, or in a store that is not known.
      OSError: it is a file where a folder is to be, or a folder that holds something else.
    """
    from ipg_jax.files import check_folder

    if "://" in out and not out.startswith("gs://"):
        raise flags.Error(f"--out={out} is neither a local path nor gs://...")
    path = epath.Path(out)
    check_folder(path.parent)
    if kind == "savedmodel":
        from ipg_jax.inference.saved_model import check_replaceable

        check_replaceable(path)
    elif path.is_dir() or out.endswith("/"):
        name = NAMES[kind]
        raise flags.Error(f"--out={path} is a folder: name a file in it, such as {path}/{name}")
    return path


def write_stablehlo(detector: Detector, out: epath.Path) -> Callable[[], Detect]:
    """Writes a file of programs for JAX, and says so; returns what reads it, to detect by it."""
    import jax

    from ipg_jax.inference.export import export_detector
    from ipg_jax.inference.exported import ExportedDetector, shown_sizes

    exported = export_detector(detector, platforms=PLATFORMS.value)
    exported.save(out)
    print(
        f"wrote {out}: images of {shown_sizes(exported.programs)} pixels, "
        f"for {', '.join(exported.platforms)}"
    )

    def read() -> Detect:
        loaded = ExportedDetector.load(out)
        return functools.partial(jax.jit(loaded.predict), loaded.weights)

    return read


def write_onnx(detector: Detector, out: epath.Path) -> Callable[[], Detect]:
    """Writes a file of ONNX for each size of images, and says so; returns what reads them."""
    from ipg_jax.files import read_regular, write_whole
    from ipg_jax.inference.export import whole_sizes
    from ipg_jax.inference.onnx_export import export_onnx, onnx_detect

    sizes = whole_sizes(detector)
    files = {
        (height, width): out
        if len(sizes) == 1
        else out.with_name(f"{out.stem}-{height}x{width}{out.suffix}")
        for height, width in sizes
    }
    for file in files.values():
        check_out(str(file), "onnx")
    for (height, width), file in files.items():
        write_whole(file, export_onnx(detector, (height, width)))
        print(f"wrote {file}: images of {height} x {width} pixels")
    return lambda: onnx_detect({size: read_regular(file) for size, file in files.items()})


def write_saved_model(detector: Detector, out: epath.Path) -> Callable[[], Detect]:
    """Writes a SavedModel, and says so; returns what reads it."""
    from ipg_jax.inference.export import whole_sizes
    from ipg_jax.inference.exported import shown_sizes
    from ipg_jax.inference.saved_model import save_saved_model, saved_model_detect

    save_saved_model(detector, out)
    print(f"wrote {out}: images of {shown_sizes(dict.fromkeys(whole_sizes(detector)))} pixels")
    return functools.partial(saved_model_detect, out)


def named_images(arguments: Sequence[str], options: ImageOptions) -> list[tuple[str, np.ndarray]]:
    """Reads some of the images that the user named; returns their names and pixels.

    Args:
      arguments: files, folders and patterns.
      options: how files are read.

    Raises:
      flags.Error: an argument stands for no image.
      OSError: one cannot be read.
      ValueError: one is damaged.
    """
    from ipg_jax.images import read_picture
    from ipg_jax.inference.inputs import find_inputs
    from ipg_jax.inference.videos import is_video
    from ipg_jax.text import shown

    inputs = find_inputs(arguments)
    for argument, reason in inputs.refused.items():
        raise flags.Error(f"--images={argument}: {reason}")
    files = [path for path in inputs.files if not is_video(path)]
    if not files:
        raise flags.Error(f"--images={' '.join(arguments)}: there are videos, and no images")
    return [
        (shown(files[index]), read_picture(files[index], options)) for index in spread(len(files))
    ]


def images_of_the_run(
    config: ConfigDict, trained: TrainedDetector
) -> Iterator[tuple[str, np.ndarray]]:
    """Opens the data that the run evaluates on; yields the name and the pixels of some images.

    Images that cannot be read are logged and left out.

    Raises:
      OSError: a file that names the data cannot be read.
      ValueError: the data is damaged, or has other classes.
    """
    from ipg_jax.text import shown
    from ipg_jax.training.build_data import open_source

    names = [category["name"] for category in trained.categories]
    source = open_source(config, train=False, class_names=names)
    images = ((index, source.try_load_image(index)) for index in spread(len(source)))
    return (
        (shown(source.records.file_names[index]), image)
        for index, image in images
        if image is not None
    )


def spread(count: int) -> list[int]:
    """Returns up to `IMAGES` of so many indices, evenly spread."""
    return np.linspace(0, count - 1, min(IMAGES, count)).astype(int).tolist()


def judged(found: Sequence[Difference], tolerance: float) -> str:
    """Returns what is to be said of all images, or ends the process: they differ by too much."""
    if not any(one.objects for one in found):
        return "nothing was found in these images: nothing could be compared"
    worst = type(found[0])(*np.max(found, axis=0).tolist())  # NaN, if one is
    figures = (
        f"scores differ by up to {worst.score:.1e}, boxes by {worst.pixels:.1e} pixels and "
        f"{worst.box:.1e} of their side, labels of {sum(one.unmatched for one in found)} objects"
    )
    if not worst.largest <= tolerance:
        sys.exit(
            f"{figures}: more than --tolerance={tolerance:g}; do not use the export before you "
            "know why"
        )
    return f"{figures}; --tolerance is {tolerance:g}"


def run() -> None:
    """Parses the flags and exports."""
    program.run(main, __name__, parse_with_trained_config)


if __name__ == "__main__":
    run()
