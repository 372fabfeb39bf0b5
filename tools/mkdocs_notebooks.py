"""Hook of mkdocs (`mkdocs.yml`): each notebook of `notebooks/` is a page, with its stored outputs.

Nothing is executed. The pages are Markdown as all others, so that mkdocs checks their links, and
nothing of them comes from other hosts.
"""

from __future__ import annotations

import base64
import json
import pathlib
import re
from typing import Any

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages and their pictures to the files of the site; mkdocs calls it."""
    from mkdocs.structure.files import File

    for path in sorted(FOLDER.glob("*.ipynb")):
        page, pictures = to_markdown(json.loads(path.read_text()), path.stem)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def to_markdown(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """Returns a notebook as Markdown, and its JPEG and PNG pictures by their file names.

    Args:
      notebook: of nbformat 4.
      name: how the names of its pictures begin.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace("](../docs/", "](../"))  # from the repository to the site
            continue
        magic = re.match(r"%%(\w+).*\n", source)
        shell = magic is not None and magic[1] == "bash"
        parts.append(_fence(source[magic.end() :], "sh") if shell else _fence(source, "python"))
        for output in cell["outputs"]:
            data = output.get("data", {})
            kind = next((kind for kind in ("image/jpeg", "image/png") if kind in data), None)
            if kind is not None:
                file = f"{name}_{len(pictures)}.{kind.removeprefix('image/')}"
                pictures[file] = base64.b64decode("".join(data[kind]))
                parts.append(f"![Output of the cell above]({file})")
            elif "text/html" in data:
                # A blank line would end the block of HTML.
                lines = "".join(data["text/html"]).splitlines()
                parts.append("\n".join(line for line in lines if line.strip()))
            else:
                text = output.get("text") or data["text/plain"]
                parts.append(_fence("".join(text), "text"))
    return "\n\n".join(parts) + "\n", pictures


def _fence(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"
