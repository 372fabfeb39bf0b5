"""Runs the notebooks and stores their outputs in them, for GitHub and the site (`notebook` extra).

    python tools/run_notebooks.py

Standard error is left out: TensorFlow writes there about GPUs when it is imported. Of a picture,
which Pillow gives as PNG and as JPEG, the JPEG is stored, which is the smaller one.
"""

from __future__ import annotations

import pathlib

import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"


def run(path: pathlib.Path) -> None:
    """Runs a notebook from its first cell on, and writes it with what its cells gave."""
    notebook = nbformat.read(path, as_version=4)
    here = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, resources=here, coalesce_streams=True).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        if cell.cell_type == "code":
            cell.outputs = [x for x in cell.outputs if x.get("name") != "stderr"]
            for data in (x["data"] for x in cell.outputs if "data" in x):
                if "image/jpeg" in data:
                    data.pop("image/png", None)
    notebook.metadata.language_info = {"name": "python"}  # without the version
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ipynb")):
        run(path)
        print(f"{path.name}: {path.stat().st_size / 1000:,.0f} kB")
