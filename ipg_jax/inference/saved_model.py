"""Exported detectors as TensorFlow's SavedModel, for TF Serving and what else reads it."""

from __future__ import annotations

import json
import os

import numpy as np
from etils import epath
from jaxtyping import Int32

from ipg_jax.files import make_folder, write_whole
from ipg_jax.inference.exported import ExportedDetector
from ipg_jax.inference.tiles import Detect
from ipg_jax.types import Detections, Pyramid

SIGNATURES = ("serving_default", "portrait")
"""Names of the signatures, in the order of `ExportedDetector.programs`."""


def write_saved_model(exported: ExportedDetector, folder: epath.PathLike) -> None:
    """Writes a SavedModel in the place of one that is there.

    Its signatures take `images` and `image_size` and give `boxes`, `scores`, `labels` and `valid`,
    as the programs do. What an exported file says of the detector is in
    `assets.extra/detector.json`. TensorFlow is imported, and its GPUs are hidden.

    Args:
      exported: the detector.
      folder: local or `gs://`.

    Raises:
      FileExistsError: the folder holds something else.
      OSError: it cannot be written.
    """
    folder = epath.Path(folder)
    if folder.exists() and not (folder / "saved_model.pb").exists():
        raise FileExistsError(f"{folder} is no SavedModel: name a folder that is not there yet")
    import tensorflow as tf
    from jax.experimental import jax2tf

    tf.config.set_visible_devices([], "GPU")  # it would take the memory that JAX needs
    weights = {
        name: tf.Variable(np.asarray(x), trainable=False) for name, x in exported.weights.items()
    }
    module = tf.Module()
    module.weights = weights  # tracked, in a dictionary of its own kind, which JAX does not take

    def signature(height: int, width: int) -> tf.types.experimental.GenericFunction:
        program = exported.programs[height, width]
        converted = jax2tf.convert(
            program.call,
            polymorphic_shapes=[None, "(b, ...)", "(b, ...)"],
            with_gradient=False,
            native_serialization_platforms=program.platforms,
        )
        return tf.function(
            lambda images, image_size: converted(weights, images, image_size),
            input_signature=[
                tf.TensorSpec((None, height, width, 3), tf.uint8, name="images"),
                tf.TensorSpec((None, 2), tf.int32, name="image_size"),
            ],
            autograph=False,
        )

    signatures = {
        name: signature(*size) for name, size in zip(SIGNATURES, exported.programs, strict=False)
    }
    make_folder(folder.parent)
    tf.saved_model.save(module, os.fspath(folder), signatures=signatures)
    make_folder(folder / "assets.extra")
    write_whole(folder / "assets.extra" / "detector.json", json.dumps(exported.header(), indent=2))


def load_saved_model(folder: epath.PathLike) -> Detect:
    """Returns the detector of a SavedModel that `write_saved_model` wrote.

    Raises:
      OSError: there is none.
    """
    import tensorflow as tf

    model = tf.saved_model.load(os.fspath(folder))
    signatures = {
        tuple(each.structured_input_signature[1]["images"].shape[1:3]): each
        for each in model.signatures.values()
    }

    def detect(pyramid: Pyramid, image_size: Int32[np.ndarray, "b 2"]) -> Detections:
        serve = signatures[pyramid[0].shape[1:3]]
        found = serve(images=tf.constant(pyramid[0]), image_size=tf.constant(image_size))
        return Detections(**{name: array.numpy() for name, array in found.items()})

    detect.model = model  # type: ignore[attr-defined]  # whose variables would be freed
    return detect
