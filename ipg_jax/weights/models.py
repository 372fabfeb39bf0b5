"""Trained detectors by name: the one that ships with this package, and those to be downloaded."""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import urllib.request
from typing import NamedTuple

from etils import epath

from ipg_jax.files import make_folder, read_json, read_regular, write_whole

logger = logging.getLogger(__name__)

REGISTRY = epath.Path(__file__).parent / "models.json"
"""Names of detectors with the `url` of each one's file, or its `file` beside this one, its `sha256`
and a text `about` it."""

CACHE_VARIABLE = "IPG_JAX_CACHE"
"""Environment variable with the folder for downloaded files, instead of `~/.cache/ipg_jax`."""

TIMEOUT = 60.0
"""Seconds for which a host may say nothing."""


class Model(NamedTuple):
    """A detector that has a name.

    Attributes:
      file: its file, if it ships with the package.
      url: where its file is, if it does not.
      sha256: of the file.
      about: what it finds, how well, and whose data it was trained on.
    """

    file: epath.Path | None
    url: str | None
    sha256: str
    about: str


def known_models(registry: epath.PathLike = REGISTRY) -> dict[str, Model]:
    """Returns the detectors that have names.

    Args:
      registry: a JSON file as `REGISTRY`.

    Raises:
      OSError: it cannot be read.
      ValueError: it is damaged.
    """
    registry = epath.Path(registry)
    models = {}
    for name, entry in read_json(registry, dict, "write it again").items():
        try:
            file, url = entry.get("file"), entry.get("url")
            if (file is None) == (url is None):
                raise ValueError("it has either a file or a url")
            sha256, about = entry["sha256"], entry["about"]
            if not all(isinstance(text, str) for text in (file or url, sha256, about)):
                raise ValueError("one of its values is no text")
            models[name] = Model(registry.parent / file if file else None, url, sha256, about)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{registry} is damaged at {name!r}: {error!r}") from error
    return models


def locate(path: epath.PathLike, registry: epath.PathLike = REGISTRY) -> epath.Path:
    """Returns the file of a detector that has a name, and any other path as it is.

    A file that does not ship is downloaded once, into the folder of `CACHE_VARIABLE`, and compared
    with its SHA-256.

    Args:
      path: the name of a detector, or the path of a file or folder, which goes before a name.
      registry: see `known_models`.

    Raises:
      FileNotFoundError: it is neither a path that exists nor a name, but nearly a name.
      OSError: the file cannot be downloaded.
      ValueError: the file is not the one that was published.
    """
    name, path = os.fspath(path), epath.Path(path)
    if "/" in name or path.suffix or path.exists():
        return path
    models = known_models(registry)
    if name in models:
        return _file_of(name, models[name])
    if near := difflib.get_close_matches(name.lower(), models, 1, 0.7):
        raise FileNotFoundError(f"there is no {name}; did you mean the detector {near[0]!r}?")
    return path


def _file_of(name: str, model: Model) -> epath.Path:
    """Returns the file of a detector, which is there and whole."""
    if model.file is not None:
        _check(model.file, read_regular(model.file), model, "install the package again")
        return model.file
    folder = epath.Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/ipg_jax").expanduser()
    path = folder / f"{name}.safetensors"
    if path.exists():
        _check(path, read_regular(path), model, "remove it, and it is downloaded again")
        return path
    assert model.url is not None
    logger.info("downloading %s from %s to %s", name, model.url, path)
    try:
        with urllib.request.urlopen(model.url, timeout=TIMEOUT) as answer:
            data = answer.read()
    except OSError as error:
        raise OSError(
            f"{name} cannot be downloaded from {model.url}: {error}. A file that was downloaded "
            f"elsewhere may be put at {path}"
        ) from error
    _check(model.url, data, model, "try again, or report it")
    make_folder(folder)
    write_whole(path, data)
    return path


def _check(where: object, data: bytes, model: Model, remedy: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != model.sha256:
        raise ValueError(
            f"{where} is not the file that was published (SHA-256 {found[:12]}... of "
            f"{len(data):,} bytes, not {model.sha256[:12]}...): {remedy}"
        )
