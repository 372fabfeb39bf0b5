"""The reference's side of a benchmark, in an interpreter of its own.

Torch and JAX need not share an environment: `TorchSide` starts the given interpreter with a script
that answers each line `name arg arg` on its standard input by one JSON value. Blocks of both sides
alternate, so that whatever else the machine does slows both alike.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import IO, Any, cast


class TorchSide:
    """A Python process that answers one request after another."""

    def __init__(self, script: str, python: str | None = None) -> None:
        """Starts `script` (a path) under the interpreter `python` (by default, this one).

        Raises:
          RuntimeError: the interpreter has no torch.
        """
        python = python or sys.executable
        if subprocess.run([python, "-c", "import torchvision"], capture_output=True).returncode:
            raise RuntimeError(
                f"{python} cannot import torchvision: `pip install -e '.[parity]'` in an "
                "environment, and name its interpreter with --torch_python"
            )
        self._process = subprocess.Popen(
            [python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._input = cast(IO[str], self._process.stdin)
        self._output = cast(IO[str], self._process.stdout)

    def ask(self, *words: Any) -> Any:
        """Returns the answer to one request."""
        self._input.write(json.dumps(words) + "\n")
        self._input.flush()
        line = self._output.readline()
        if not line:
            raise RuntimeError("the torch process ended; its error stands above")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._input.close()
        self._process.wait()


def serve(**functions: Any) -> None:
    """Answers requests until the input ends; runs in the reference's interpreter."""
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(functions[name](*arguments)), flush=True)
