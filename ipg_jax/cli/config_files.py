"""The configs that come with the package, by their names."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Sequence


def config_files() -> dict[str, str]:
    """Returns the files of the package's configs by their names, such as `digits_ipg`."""
    found = importlib.util.find_spec("ipg_jax.configs")
    assert found is not None
    assert found.origin is not None
    folder = pathlib.Path(found.origin).parent
    return {
        path.stem: os.fspath(path)
        for path in sorted(folder.glob("*.py"))
        if path.stem not in ("__init__", "common")
    }


def with_config_files(arguments: Sequence[str]) -> list[str]:
    """Returns arguments of a command line in which files stand for names of configs.

    Config files may import `configs.common`, also where the package is installed.
    `--config=digits_ipg:stages=2` becomes `--config=.../digits_ipg.py:stages=2`. What has a folder
    or a suffix is a file already.

    Raises:
      ValueError: there is no config of such a name.
    """
    _let_files_import_configs()
    changed = list(arguments)
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag not in ("--config", "-config"):
            continue
        if equals:
            changed[i] = f"{flag}={_file(value)}"
        elif i + 1 < len(arguments):
            changed[i + 1] = _file(arguments[i + 1])
    return changed


def _let_files_import_configs() -> None:
    """Makes `import configs.common` work outside of a clone too.

    A folder `configs` of the user's, which is a package as well, keeps the modules that it has.
    """
    users = importlib.util.find_spec("configs")
    if users is not None and importlib.util.find_spec("configs.common") is not None:
        return  # a clone
    package = importlib.import_module("ipg_jax.configs")
    if users is not None:
        package.__path__ = [*(users.submodule_search_locations or ()), *package.__path__]
    sys.modules["configs"] = package


def _file(value: str) -> str:
    name, colon, rest = value.partition(":")
    if not re.fullmatch(r"\w+", name):
        return value
    files = config_files()
    if name not in files:
        near = difflib.get_close_matches(name, files, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"--config={name} is neither a file nor one of the configs of ipg_jax, which "
            f"`ipg-jax configs` lists{hint}"
        )
    return f"{files[name]}{colon}{rest}"
