"""From a detector to a SavedModel, which TensorFlow runs without JAX and this package."""

from __future__ import annotations

import json
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.extend.mlir.dialects import stablehlo
from jaxtyping import Int32

from ipg_jax.files import make_folder, write_whole
from ipg_jax.inference.detector import Detector
from ipg_jax.inference.export import PLATFORMS, detection_program, trained_task, whole_sizes
from ipg_jax.inference.exported import description
from ipg_jax.inference.tiles import Detect
from ipg_jax.types import Detections, Pyramid

STABLEHLO = "1.5.0"
"""Version of StableHLO of the programs; TensorFlow reads older ones than JAX writes by itself."""

DESCRIPTION = "assets.extra/detector.json"
"""File of a SavedModel that says what there is to know of the detector."""


def save_saved_model(detector: Detector, folder: epath.PathLike) -> None:
    """Writes a detector as a SavedModel, in the place of all that is in that folder.

    It has a signature `detect_HEIGHTxWIDTH` for each of `whole_sizes`, the first of which is
    `serving_default` too. A signature takes `images`, uint8 `[1, HEIGHT, WIDTH, 3]` in RGB, any in
    their padding, and `image_size`, int32 `[1, 2]`, the height and width of the content; makes the
    image pyramid, normalises, detects and suppresses; and gives the fields of `Detections`.

    Args:
      detector: the detector, of one device; of its tiles nothing is exported.
      folder: local or `gs://`; it is made if there is none.

    Raises:
      ValueError: the detector is an exported one.
      OSError: it cannot be written, or the folder holds something else (`check_replaceable`).
    """
    check_replaceable(folder)
    from ipg_jax.data.quiet_tensorflow import tf  # isort: split
    from tensorflow.compiler.tf2xla.python.xla import call_module

    detect, weights = detection_program(detector)
    export = jax.export.export(jax.jit(detect), platforms=PLATFORMS)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights)
    model = tf.Module()
    model.weights = [tf.Variable(x, trainable=False) for x in jax.tree.leaves(weights)]

    def signature(height: int, width: int) -> Any:
        images, image_size = (
            jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8),
            jax.ShapeDtypeStruct((1, 2), jnp.int32),
        )
        program = export(shapes, images, image_size)
        module = stablehlo.serialize_portable_artifact_str(str(program.mlir_module()), STABLEHLO)

        @tf.function(
            autograph=False,
            input_signature=[
                tf.TensorSpec(images.shape, tf.uint8, "images"),
                tf.TensorSpec(image_size.shape, tf.int32, "image_size"),
            ],
        )
        def call(images: Any, image_size: Any) -> Any:
            arguments = [*model.weights, images, image_size]
            found = call_module(
                [arguments[index] for index in program.module_kept_var_idx],
                version=program.calling_convention_version,
                module=module,
                Tout=[x.dtype for x in program.out_avals],
                Sout=[x.shape for x in program.out_avals],
                platforms=[platform.upper() for platform in PLATFORMS],
            )
            return jax.tree.unflatten(program.out_tree, found)

        return call

    sizes = whole_sizes(detector)
    signatures = {f"detect_{height}x{width}": signature(height, width) for height, width in sizes}
    signatures["serving_default"] = next(iter(signatures.values()))
    with tempfile.TemporaryDirectory() as made:
        tf.saved_model.save(model, made, signatures)
        about = description(detector, sizes, max_detections=trained_task(detector).max_detections)
        _replace(epath.Path(folder), epath.Path(made), about)


def check_replaceable(folder: epath.PathLike) -> None:
    """Checks that a folder holds nothing, or an earlier export.

    Raises:
      NotADirectoryError: it is a file.
      FileExistsError: it holds something else.
    """
    folder = epath.Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: a SavedModel is a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / DESCRIPTION).exists():
        raise FileExistsError(
            f"{folder} holds something else than a SavedModel of ipg-jax: name a new folder"
        )


def _replace(folder: epath.Path, made: epath.Path, about: dict[str, Any]) -> None:
    """Moves a SavedModel to its place.

    The description comes first, by which the folder is known as an export that may be replaced, and
    the program last: without it TensorFlow loads nothing of what was interrupted.
    """
    check_replaceable(folder)
    if folder.exists():
        folder.rmtree()
    files = {
        DESCRIPTION: json.dumps(about, indent=2).encode(),
        **{f"variables/{file.name}": file.read_bytes() for file in (made / "variables").iterdir()},
        **{name: (made / name).read_bytes() for name in ("fingerprint.pb", "saved_model.pb")},
    }
    for name, data in files.items():
        make_folder((folder / name).parent)
        write_whole(folder / name, data)


def saved_model_detect(folder: epath.PathLike) -> Detect:
    """Returns what detects by a SavedModel of `save_saved_model`, an image at a time.

    Raises:
      OSError: there is none.
    """
    from ipg_jax.data.quiet_tensorflow import tf

    signatures = tf.saved_model.load(str(folder)).signatures

    def detect(pyramid: Pyramid, image_size: Int32[np.ndarray, "b 2"]) -> Detections:
        images = np.asarray(pyramid[0])
        height, width = images.shape[1:3]
        found = signatures[f"detect_{height}x{width}"](
            images=tf.constant(images), image_size=tf.constant(np.asarray(image_size))
        )
        return Detections(**{name: x.numpy() for name, x in found.items()})

    return detect
