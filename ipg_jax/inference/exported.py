"""A detector in one file: its programs, its weights, and what there is to know of both.

The file is a zip archive in which nothing is compressed. JAX, NumPy and `flatbuffers` run it
without this package (`docs/export.md`):

    detector.json           names of the classes, thresholds, sizes of images (`_HEADER`)
    programs/HEIGHTxWIDTH   StableHLO, as `jax.export` serialises it
    weights/NAME.npy        an array that the programs take

A program takes the weights by name, uint8 images `[b, HEIGHT, WIDTH, 3]`, any in their padding, and
int32 `[b, 2]`, the height and width of each one's content, for any b. It gives a dictionary of the
fields of `Detections`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jaxlib
import numpy as np
from etils import epath
from jaxtyping import Int

import ipg_jax
from ipg_jax.files import read_regular, write_whole
from ipg_jax.images import ImageOptions, make_geometry
from ipg_jax.types import Array, Detections, Pyramid, Size

if TYPE_CHECKING:
    from ipg_jax.inference.detector import Detector

FORMAT = "ipg_jax detector"
VERSION = 1
"""Of the format; a file of a later one is refused."""

_HEADER = "detector.json"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ExportedDetector:
    """A detector without its model; `inference.detector.Detector` takes it for a task.

    Attributes:
      programs: by the height and width of the images that each is for, landscape first.
      weights: what the programs take first.
      class_names: the name of each label.
      category_ids: the training data's own id of each label.
      thresholds: least score of an object, of each label.
      image_size: limits of the (short, long) side, in pixels, to which pictures are resized.
      pyramid_levels: levels of the image pyramid that the model reads; the programs make them.
      max_detections: boxes that are found in an image at most.
      image_options: how files are read.
    """

    programs: Mapping[Size, jax.export.Exported]
    weights: Mapping[str, Array]
    class_names: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    thresholds: tuple[float, ...]
    image_size: Size
    pyramid_levels: int
    max_detections: int
    image_options: ImageOptions

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def platforms(self) -> tuple[str, ...]:
        """Where the programs run, as `jax.export` names it: `cpu`, `cuda`, `rocm`, `tpu`."""
        return tuple(next(iter(self.programs.values())).platforms)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of a `Detector` that the file knows."""
        return {
            "class_names": self.class_names,
            "category_ids": self.category_ids,
            "threshold": self.thresholds,
            "image_size": self.image_size,
            "image_options": self.image_options,
        }

    def predict(
        self, variables: Mapping[str, Array], pyramid: Pyramid, image_size: Int[Array, "b 2"]
    ) -> Detections:
        """Does what `DetectionTask.predict` does.

        Args:
          variables: `weights`.
          pyramid: only the first level is read.
          image_size: height and width of each image's content.

        Raises:
          ValueError: there is no program for images of that size.
        """
        height, width = pyramid[0].shape[1:3]
        if (height, width) not in self.programs:
            raise ValueError(
                f"the exported detector takes images of {shown_sizes(self.programs)} pixels with "
                f"their padding, not of {height} x {width}: export it with another "
                "config.image_size for other sizes, or for tiles of another size"
            )
        return Detections(**self.programs[height, width].call(variables, pyramid[0], image_size))

    def header(self) -> dict[str, Any]:
        """Returns what the file says of the detector, as JSON."""
        return {
            "format": FORMAT,
            "version": VERSION,
            **description(self, self.programs, max_detections=self.max_detections),
            "platforms": self.platforms,
            "pyramid_levels": self.pyramid_levels,
        }

    def save(self, path: epath.PathLike) -> None:
        """Writes the file, local or `gs://`, in the place of one of that name.

        Raises:
          OSError: it cannot be written.
        """
        members = {_HEADER: json.dumps(self.header(), indent=2).encode()}
        for (height, width), program in self.programs.items():
            members[_program(height, width)] = bytes(program.serialize())
        for name, array in self.weights.items():
            buffer = io.BytesIO()
            np.save(buffer, np.asarray(array), allow_pickle=False)
            members[f"weights/{name}.npy"] = buffer.getvalue()
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in members.items():
                archive.writestr(zipfile.ZipInfo(name), data)  # with no date: the same bytes
        write_whole(path, file.getvalue())

    @classmethod
    def load(cls, path: epath.PathLike) -> ExportedDetector:
        """Reads a file, local or `gs://`.

        Load only files that you trust: programs are handed to XLA as they are.

        Raises:
          OSError: it cannot be read.
          ValueError: it is none of `save`, damaged, or of a later version; the message names it.
        """
        data = read_regular(path)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                header = json.loads(archive.read(_HEADER))
                known = header["format"] == FORMAT
        except (zipfile.BadZipFile, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is no exported detector, or the end of one is missing ({error}): "
                "ipg-jax export --format=stablehlo writes them, and what it writes "
                "in other formats is for onnxruntime and TensorFlow"
            ) from error
        if not known:
            raise ValueError(f"{path} is no exported detector, but a {header['format']!r}")
        if header.get("version") != VERSION:
            raise ValueError(
                f"{path} is of version {header.get('version')} of the format, and this ipg_jax "
                f"({ipg_jax.__version__}) reads version {VERSION}: it was written by "
                f"{header.get('written_by')}"
            )
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return cls._read(archive, header)
        except Exception as error:  # of zipfile, NumPy, flatbuffers, JAX, and of a wrong header
            raise ValueError(
                f"{path} cannot be read ({type(error).__name__}: {error}): it is damaged, or jax "
                f"{jax.__version__} does not read what was written by {header.get('written_by')}"
            ) from error

    @classmethod
    def _read(cls, archive: zipfile.ZipFile, header: dict[str, Any]) -> ExportedDetector:
        sizes = [(each["height"], each["width"]) for each in header["inputs"]]
        names = [name for name in archive.namelist() if name.startswith("weights/")]
        short, long = header["image_size"]
        exported = cls(
            programs={
                size: jax.export.deserialize(bytearray(archive.read(_program(*size))))
                for size in sizes
            },
            weights={
                name.removeprefix("weights/").removesuffix(".npy"): np.load(
                    io.BytesIO(archive.read(name)), allow_pickle=False
                )
                for name in names
            },
            class_names=tuple(header["class_names"]),
            category_ids=tuple(header["category_ids"]),
            thresholds=tuple(header["thresholds"]),
            image_size=(short, long),
            pyramid_levels=header["pyramid_levels"],
            max_detections=header["max_detections"],
            image_options=ImageOptions(**header["image_options"]),
        )
        exported._check()
        return exported

    def _check(self) -> None:
        """Raises ValueError or TypeError where the header, weights and programs do not belong."""
        classes = len(self.class_names)
        if not len(self.category_ids) == len(self.thresholds) == classes:
            raise ValueError(f"there are not as many ids and thresholds as its {classes} classes")
        if not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise ValueError(f"thresholds are scores from 0 to 1, not {self.thresholds}")
        canvases = make_geometry(self.image_size, self.pyramid_levels).canvases
        if {*canvases} != {*self.programs}:
            raise ValueError(f"there are programs for {shown_sizes(self.programs) or 'no images'}")
        for size, program in self.programs.items():
            (weights, *_), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
            shapes = {name: x.shape for name, x in weights.items()}
            wrong = {*shapes.items()} ^ {(name, x.shape) for name, x in self.weights.items()}
            if wrong:
                raise ValueError(
                    f"{min(wrong)[0]} among its weights is not what {_program(*size)} takes"
                )


def description(
    detector: Detector | ExportedDetector, sizes: Iterable[Size], *, max_detections: int
) -> dict[str, Any]:
    """Returns what a user of a detector's programs has to know, as JSON.

    Args:
      detector: the detector.
      sizes: height and width of the images that there are programs for.
      max_detections: boxes that are found in an image at most.
    """
    return {
        "written_by": {
            "ipg_jax": ipg_jax.__version__,
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
        },
        "class_names": detector.class_names,
        "category_ids": detector.category_ids,
        "thresholds": [float(threshold) for threshold in detector.thresholds],
        "image_size": detector.image_size,
        "inputs": [{"height": height, "width": width} for height, width in sizes],
        "max_detections": max_detections,
        "image_options": dataclasses.asdict(detector.image_options),
    }


def shown_sizes(programs: Mapping[Size, Any]) -> str:
    """Returns the sizes of images that there are programs for, as text."""
    return " or ".join(f"{height} x {width}" for height, width in programs)


def _program(height: int, width: int) -> str:
    return f"programs/{height}x{width}"
