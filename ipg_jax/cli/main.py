"""`ipg-jax COMMAND ...`: all programs of the package under one name."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "train": "train a detector, or go on with a run",
    "eval": "evaluate a trained detector",
    "predict": "detect objects in images",
    "inspect": "look at a data set before training: sizes, anchors, augmentations, pictures",
    "report": "write a page on a trained run: its errors, thresholds, comparison with others",
    "export": "write a trained detector as a file that runs without this package",
    "weights": "show or convert a file of weights",
    "configs": "list the configs that come with the package, or say how large a model is",
}


def main() -> None:
    """Runs the command that the first argument names."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "--helpshort", "help"):
        print(usage())
    elif name in COMMANDS:
        sys.argv = [f"ipg-jax {name}", *rest]
        importlib.import_module(f"ipg_jax.cli.{name}").run()
    else:
        print(f"error: {name!r} is no command of ipg-jax\n\n{usage()}", file=sys.stderr)
        sys.exit(2)


def usage() -> str:
    """Returns what there is to run."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ipg-jax COMMAND ...",
            "",
            *lines,
            "",
            "ipg-jax COMMAND --help says what it takes. For example:",
            "",
            "  ipg-jax train --config=digits_ipg --workdir=runs/digits",
            "  ipg-jax predict --workdir=runs/digits --out=found photos/",
        ]
    )


if __name__ == "__main__":
    main()
