"""From a detector to ONNX: programs that run without JAX and this package."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from ipg_jax.inference.detector import Detector
from ipg_jax.inference.export import detection_program, trained_task
from ipg_jax.inference.exported import description
from ipg_jax.inference.tiles import Detect
from ipg_jax.types import Array, Detections, Pyramid, Size

OPSET = 18
"""Version of ONNX's operators: that of ONNX 1.13, which runtimes have read since 2023."""

METADATA = "ipg_jax"
"""Key of the program's metadata under which there is JSON: what there is to know of a detector."""

OUTPUTS = tuple(field.name for field in dataclasses.fields(Detections))
"""Names of what a program gives; it takes `images` and `image_size`."""

_INSTALL = "pip install 'ipg-jax[onnx]' && pip install --no-deps jax2onnx"


def export_onnx(detector: Detector, size: Size) -> bytes:
    """Returns a detector as an ONNX program for images of one size.

    It takes `images`, uint8 `[1, height, width, 3]` in RGB, any in their padding, and `image_size`,
    int32 `[1, 2]`, the height and width of the content; makes the image pyramid, normalises,
    detects and suppresses; and gives the fields of `Detections` by their names. It computes in
    float32. Its metadata hold the names of the classes and what else a user of it has to know.

    Args:
      detector: the detector, of one device; of its tiles nothing is exported.
      size: height and width of the images, one of `export.whole_sizes`.

    Raises:
      ModuleNotFoundError: what converts it is not installed.
      ValueError: the detector is an exported one, computes in another type than float32, or has an
        operation that is not converted.
    """
    task = trained_task(detector)
    dtype = jnp.dtype(task.dtype)
    if dtype != jnp.float32:
        raise ValueError(
            f"the detector computes in {dtype.name}, which most runtimes of ONNX do not: set "
            "--config.model.dtype=float32"
        )
    try:
        import jax2onnx

        from ipg_jax.inference.onnx_graph import simplify
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: {_INSTALL}", name=error.name) from error

    detect, weights = detection_program(detector)

    def fields(images: Array, image_size: Array) -> tuple[Array, ...]:
        found = detect(weights, images, image_size)
        return tuple(found[name] for name in OUTPUTS)

    height, width = size
    inputs = [
        jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8),
        jax.ShapeDtypeStruct((1, 2), jnp.int32),
    ]
    # The converter puts its own functions into NumPy's namespace of JAX while it traces, not all of
    # which may be mapped over images. It finds none to put them in where all is traced before.
    traced = jax.extend.core.jaxpr_as_fun(jax.make_jaxpr(fields)(*inputs))
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # which warns of each shape in a loop
    try:
        model = jax2onnx.to_onnx(
            traced,
            inputs,
            model_name="ipg_jax",
            opset=OPSET,
            input_names=("images", "image_size"),
            output_names=OUTPUTS,
        )
    except NotImplementedError as error:
        raise ValueError(
            f"jax2onnx does not convert this detector ({error}): --format=stablehlo and "
            "--format=savedmodel do without it"
        ) from error
    model = simplify(model)
    about = model.metadata_props.add()
    about.key = METADATA
    about.value = json.dumps(description(detector, [size], max_detections=task.max_detections))
    return bytes(model.SerializeToString())


def onnx_detect(programs: Mapping[Size, bytes]) -> Detect:
    """Returns what detects by programs of `export_onnx`, in onnxruntime, an image at a time.

    Args:
      programs: by the height and width of their images.

    Raises:
      ModuleNotFoundError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: {_INSTALL}", name=error.name) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # not of shapes that it would have inferred otherwise
    sessions = {
        size: onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
        for size, program in programs.items()
    }

    def detect(pyramid: Pyramid, image_size: Int32[np.ndarray, "b 2"]) -> Detections:
        images = np.asarray(pyramid[0])
        (height, width) = images.shape[1:3]
        found = sessions[height, width].run(
            OUTPUTS, {"images": images, "image_size": np.asarray(image_size)}
        )
        return Detections(**dict(zip(OUTPUTS, found, strict=True)))

    return detect
