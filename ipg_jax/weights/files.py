"""Files of weights: `.safetensors`, of torch models or our own, and torch's `.pth`."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from ipg_jax.files import make_folder, read_regular, write_whole
from ipg_jax.text import shown
from ipg_jax.types import Array
from ipg_jax.weights.layouts import EPSILON, convert
from ipg_jax.weights.merge import Weights

FORMAT = "ipg_jax"  # in the metadata of our own files
TORCH_SUFFIXES = (".pth", ".pt", ".bin")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)

# The files of torchvision's first RetinaNet and Faster R-CNN, by the start of their SHA-256, which
# their names end in: they were trained with an epsilon of 0 in their frozen batch norms.
NO_EPSILON = ("eeacb38b", "258fb6c6")

SHARED = 4
"""How many times as many bytes as a torch file has its tensors may declare, by sharing them."""

TENSOR_TYPES = {
    "BF16": np.dtype(jnp.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
}


def is_weights(path: epath.PathLike) -> bool:
    """Returns whether a path is of a file of weights, by its name, and not of a folder."""
    path = epath.Path(path)
    return path.suffix in SUFFIXES and not path.is_dir()


def load_weights(
    path: epath.PathLike, *, class_names: Sequence[str] = (), epsilon: float | None = None
) -> Weights:
    """Reads a file of weights: one of `save_weights`, or of a torch model (see `layouts`).

    Args:
      path: a `.safetensors`, or a `.pth` (`.pt`, `.bin`), local or `gs://`. The latter are read
        with torch's loader of plain tensors only; code in them never runs.
      class_names: of a torch detector's classes, without the background; COCO's are known.
      epsilon: of a torch model's batch norms; by default 1e-5, and 0 for the two files of
        torchvision that were trained so.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it is no regular file, or cannot be read.
      ModuleNotFoundError: a `.pth` without torch.
      ValueError: the file is damaged, holds more than plain tensors, declares more data than it
        has, or is of no known model; the message names it.
    """
    path = epath.Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: files of weights end in one of {', '.join(SUFFIXES)}")
    data = read_regular(path)
    try:
        metadata: dict[str, str] = {}
        if path.suffix in TORCH_SUFFIXES:
            state = _read_torch(data)
        else:
            state, metadata = _read_safetensors(data)
        if metadata.get("format") == FORMAT:
            return Weights(state, _class_names(metadata), detector=_detector(metadata))
        if epsilon is None:
            known = hashlib.sha256(data).hexdigest().startswith(NO_EPSILON)
            epsilon = 0.0 if known else EPSILON
        return convert(state, class_names=class_names, epsilon=epsilon)
    except ValueError as error:
        raise ValueError(f"{path}: {shown(error, limit=2000)}") from error


def load_detector(path: epath.PathLike) -> tuple[Weights, dict[str, Any]]:
    """Reads the file of a whole detector, as `ipg-jax weights WORKDIR --out=FILE` writes it.

    Args:
      path: a `.safetensors`, local or `gs://`.

    Returns:
      The weights, and `Weights.detector`.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it is no regular file, or cannot be read.
      ValueError: the file is damaged, or holds weights alone.
    """
    weights = load_weights(path)
    if weights.detector is None:
        raise ValueError(
            f"{path} holds weights alone: whole detectors, with their config and classes, are "
            "written of a run by ipg-jax weights WORKDIR --out=FILE"
        )
    return weights, dict(weights.detector)


def save_weights(path: epath.PathLike, weights: Weights, *, half: bool = False) -> None:
    """Writes weights as a `.safetensors` with the paths of this package.

    Args:
      path: local or `gs://`; its folder is made if need be.
      weights: what to write.
      half: whether kernels, which are nearly all of the file, are written as float16; they are
        float32 again when they are read. Vectors, such as norms' statistics, stay as they are.

    Raises:
      ValueError: the name does not end in `.safetensors`, or a kernel has values that float16 has
        not.
    """
    path = epath.Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights are written as .safetensors")
    arrays = {name: np.ascontiguousarray(array) for name, array in weights.arrays.items()}
    if half:
        arrays = {name: _half(name, array) for name, array in arrays.items()}
    metadata = {"format": FORMAT, "class_names": json.dumps(weights.class_names)}
    if weights.detector is not None:
        metadata["detector"] = json.dumps(weights.detector)
    make_folder(path.parent)
    write_whole(path, safetensors.numpy.save(arrays, metadata))


def _half(name: str, array: np.ndarray) -> np.ndarray:
    """The array as float16 if it is a kernel."""
    if array.ndim < 2 or not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    most = float(np.abs(array.astype(np.float32)).max(initial=0.0))
    if not most <= float(np.finfo(np.float16).max):
        raise ValueError(f"{name} has values up to {most:.3g}, which float16 has not")
    return array.astype(np.float16)


def _read_safetensors(data: bytes) -> tuple[dict[str, Array], dict[str, str]]:
    """Returns the arrays of a file, floats as float32, and its metadata."""
    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a sound .safetensors file: {error}") from error
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    arrays: dict[str, Array] = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in TENSOR_TYPES:
            raise ValueError(f"{name} is {tensor['dtype']}, not one of {', '.join(TENSOR_TYPES)}")
        array = np.frombuffer(tensor["data"], TENSOR_TYPES[tensor["dtype"]])
        arrays[name] = _float32(array.reshape(tensor["shape"]))
    return arrays, metadata


def _class_names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the class names in the metadata of a file of ours."""
    text = metadata.get("class_names", "missing")
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names in its metadata is {text!r:.80}, not a JSON list of texts")
    return tuple(names)


def _detector(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Returns what the metadata of a file of ours says of a whole detector; None if nothing."""
    if "detector" not in metadata:
        return None
    try:
        found = json.loads(metadata["detector"])
    except (ValueError, RecursionError):
        found = None
    kinds = {"config": dict, "categories": list, "thresholds": list | None, "about": str}
    if not isinstance(found, dict) or not all(
        name in found and isinstance(found[name], kind) for name, kind in kinds.items()
    ):
        raise ValueError(f"detector in its metadata is no JSON object with {', '.join(kinds)}")
    return found


def _read_torch(data: bytes) -> dict[str, Array]:
    """Returns the arrays of a `state_dict`, also one that lies among others in a checkpoint."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'a .pth file is read with torch: pip install "ipg-jax[torch]", or use a .safetensors'
        ) from error
    if data[:4] == b"PK\3\4":  # a zip file, as torch writes since version 1.6
        _check_archive(data)
    try:
        state: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    # What a damaged pickle ends in may be of any kind, and is not shown: torch's own message
    # advises to load such files all the same.
    except Exception as error:
        raise ValueError(
            "damaged, or not of plain tensors only, and so not read; of a checkpoint with more in "
            "it, save the state_dict by itself"
        ) from error
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and torch.is_tensor(x) for name, x in state.items()
    ):
        raise ValueError("holds no state_dict, tensors by their names")
    # Tensors may share data, also with themselves: one number can be declared to be a billion.
    declared = sum(x.numel() * x.element_size() for x in state.values())
    if declared > SHARED * len(data) + 2**20:
        raise ValueError(f"its tensors declare {declared} bytes, the file has {len(data)}")
    arrays: dict[str, Array] = {}
    for name, x in state.items():
        x = x.detach()  # parameters that were saved as such require gradients
        try:
            arrays[name] = _float32((x.float() if x.is_floating_point() else x).numpy())
        except (RuntimeError, TypeError) as error:  # sparse and quantized ones
            raise ValueError(f"{name} is no plain tensor: {error}") from error
    return arrays


def _check_archive(data: bytes) -> None:
    """Raises ValueError unless all of a zip file is there, uncompressed and whole.

    Nothing is unpacked: torch stores its records as they are, so that one which claims to be larger
    than it is was not written by torch.
    """
    damaged = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = archive.infolist()
            for record in records:
                if record.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(
                        f"{record.filename} in it is compressed ({record.compress_size} bytes for "
                        f"{record.file_size}), which torch never does: save it again with torch"
                    )
            declared = sum(record.file_size for record in records)
            if declared > len(data):
                raise ValueError(f"its records declare {declared} bytes, the file has {len(data)}")
            for record in records:
                try:
                    archive.read(record)
                except zipfile.BadZipFile:
                    damaged.append(record.filename)
    # What `zipfile` raises of a damaged directory: the third where a flipped bit asks for a newer
    # version of the format, the last where it says that a record is encrypted.
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError) as error:
        raise ValueError(f"damaged: {error}") from error
    # Without any right checksum it was written by `torch.serialization.set_crc32_options(False)`.
    if damaged and len(damaged) < len(records):
        raise ValueError(f"damaged: {damaged[0]} in it is not as it was written (CRC-32)")


def _float32(array: np.ndarray) -> np.ndarray:
    is_float = jnp.issubdtype(array.dtype, jnp.floating)
    return array.astype(np.float32, copy=False) if is_float else array
