"""Seeded damage to files: trees as JSON holds them, XML, and any bytes.

A mutator takes a `random.Random` and a sound input, and returns a damaged copy. `limited` is what
every mutation runs under: a limit of time and of memory.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import os
import random
import resource
import shutil
import signal
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

HOSTILE: tuple[Any, ...] = (
    *(None, "", "abc", [], {}, [0], {"a": 1}, [[]]),
    *(-1, 0.5, 10**400, -(10**400), 2**63, 1e308, float("nan"), float("inf"), float("-inf")),
    *("0x10", "1_0", "nan", "\x00", "\ud800", "line\nbreak\x1b[2J", "٣", "a" * 5000),
)
"""Values that are none of an id, a size, a flag or a box; some are names."""

HOSTILE_TEXTS: tuple[str, ...] = (
    *("", "abc", "0x10", "1_0", "nan", "NaN", "inf", "-inf", "1e400", "9" * 400, "-1", "0.5"),
    *("1,5", "٣", "Unspecified", "[0]", "a" * 5000),
)
"""The like for elements of XML, which hold text."""


@dataclasses.dataclass(frozen=True)
class TreeMutation:
    """A damaged tree, and what was done to it.

    Attributes:
      tree: the whole of it.
      path: the keys and positions that lead to the value.
      value: what stands there now; `REMOVED` if nothing does.
    """

    tree: Any
    path: tuple[str | int, ...]
    value: Any


REMOVED = object()


def mutate_tree(rng: random.Random, tree: Any) -> TreeMutation:
    """Replaces one value of a tree of dicts and lists by a hostile one, removes or repeats it."""
    tree = copy.deepcopy(tree)
    path = rng.choice(list(_paths(tree)))
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    kind = rng.random()
    if kind < 0.75:
        value = copy.deepcopy(rng.choice(HOSTILE))
        parent[path[-1]] = value
    elif kind < 0.9 or not isinstance(parent, list):
        value = REMOVED
        del parent[path[-1]]
    else:
        value = copy.deepcopy(parent[path[-1]])
        parent.insert(path[-1], value)
    return TreeMutation(tree, path, value)


def _paths(tree: Any, prefix: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*prefix, key)
        if isinstance(value, (dict, list)):
            yield from _paths(value, (*prefix, key))


def repeat_value(rng: random.Random, tree: Any, tables: Sequence[str]) -> TreeMutation:
    """Gives one entry of a table, a list of dicts, a value of another entry."""
    tree = copy.deepcopy(tree)
    table = rng.choice(tables)
    source, target = rng.sample(range(len(tree[table])), 2)
    key = rng.choice(list(tree[table][source]))
    value = copy.deepcopy(tree[table][source][key])
    tree[table][target][key] = value
    return TreeMutation(tree, (table, target, key), value)


def mutate_folder(rng: random.Random, root: Path) -> None:
    """Adds a link between folders, or a file whose name differs from another's in its suffix."""
    found = [path for path in sorted(root.rglob("*")) if not path.is_symlink()]
    folders = [root, *(path for path in found if path.is_dir())]
    file = rng.choice([path for path in found if path.is_file()])
    match rng.randrange(4):
        case 0 | 1:
            new = rng.choice(folders) / f"link{rng.randrange(3)}"
            target = rng.choice([*folders, root.parent, root / "nowhere", new])
            if not os.path.lexists(new):
                new.symlink_to(target)
        case 2:
            suffix = rng.choice((".xml", ".XML", ".Xml", ".jpg", ".JPG", ".jpeg", ".png", ".txt"))
            if not file.with_suffix(suffix).exists():
                shutil.copy(file, file.with_suffix(suffix))
        case 3:
            folder = file.with_suffix(rng.choice((".d", ".png")))
            if not folder.exists():
                folder.mkdir()


def mutate_xml(rng: random.Random, text: str) -> tuple[str, bool]:
    """Replaces the text of one element of an XML document, or removes, repeats or renames it.

    Returns:
      The document, and whether it is a text that was replaced.
    """
    root = ElementTree.fromstring(text)
    parent, child = rng.choice([(parent, child) for parent in root.iter() for child in parent])
    kind = rng.randrange(8)
    match kind:
        case 0:
            parent.remove(child)
        case 1:
            parent.insert(0, copy.deepcopy(child))
        case 2:
            child.tag = rng.choice(("x", "object", "annotation", "bndbox", "name"))
        case _:
            child.text = rng.choice(HOSTILE_TEXTS)
            for grandchild in list(child):
                child.remove(grandchild)
    return ElementTree.tostring(root, encoding="unicode"), kind > 2


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flips bits, or overwrites, inserts, repeats, removes or cuts off some bytes."""
    damaged = bytearray(data)
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 4, 64, 1024)))
    match rng.randrange(7):
        case 0 | 1:
            for _ in range(rng.choice((1, 1, 8))):
                damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 2:
            damaged[start:end] = rng.choice((b"\x00", b"\xff")) * (end - start)
        case 3:
            damaged[start:start] = rng.randbytes(rng.choice((1, 4, 64)))
        case 4:
            damaged[start:start] = damaged[start:end]
        case 5:
            del damaged[start:end]
        case 6:
            del damaged[start:]
    return bytes(damaged)


@contextlib.contextmanager
def limited(*, seconds: float = 10.0) -> Iterator[None]:
    """Raises TimeoutError in a block that takes longer: what hangs is a failure with a name.

    The garbage collector waits: it may take seconds to free what other tests have compiled.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    gc.disable()
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()


@contextlib.contextmanager
def limited_memory(gibibytes: float = 1.0) -> Iterator[None]:
    """Fails if a block needs more memory at any time than it began with and `gibibytes`."""
    # Linux forgets the peak so far.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin
    assert grown < gibibytes * 2**20, f"needed {grown / 2**20:.2f} GiB more"


def outcome(read: Callable[[], Any], *names: str, seconds: float = 10.0) -> Any:
    """What a reader makes of a damaged file: its result, or None where it refuses the file.

    It may refuse with an OSError or a ValueError whose message is printable and has one of `names`
    in it; any other exception fails the test, as does a hang.
    """
    try:
        with limited(seconds=seconds):
            return read()
    except TimeoutError:
        raise
    except (OSError, ValueError) as error:
        message = str(error)
        named = any(name in message for name in names)
        if named and all(line.isprintable() for line in message.split("\n")):
            return None
        raise AssertionError(f"refused without a printable name: {message!r}") from error
