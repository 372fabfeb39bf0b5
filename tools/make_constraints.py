"""Writes constraints.txt: the installed versions of all that this project needs, at any depth.

Run it in an environment where the project is installed with its `dev` and `docs` extras, and
jax2onnx as docs/export.md says:

    python tools/make_constraints.py > constraints.txt
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "ipg-jax"
EXTRAS = ("demo", "test", "dev", "docs")
BESIDES = ("jax2onnx",)  # installed without what it asks for
HEADER = """\
# Versions that the tests pass with. Made by `python tools/make_constraints.py > constraints.txt`
# with the `dev` and `docs` extras; use as `pip install -c constraints.txt -e ".[dev]"`."""


def requirements(name: str, extra: str) -> Iterator[Requirement]:
    """What distribution `name` needs here for one of its extras, or for none if that is empty."""
    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def closure() -> set[str]:
    """Canonical names of all distributions that the project needs, without itself.

    Without setuptools, too: each version of Python needs another one.
    """
    todo = [(PROJECT, extra) for extra in ("", *EXTRAS)]
    seen = set(todo)
    while todo:
        for requirement in requirements(*todo.pop()):
            name = canonicalize_name(requirement.name)
            new = {(name, extra) for extra in ("", *requirement.extras)} - seen
            seen |= new
            todo += new
    return {name for name, _ in seen} - {PROJECT, "setuptools"} | {*BESIDES}


if __name__ == "__main__":
    print(HEADER)
    for name in sorted(closure()):
        print(f"{name}=={metadata.version(name)}")
