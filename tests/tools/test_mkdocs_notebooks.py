"""Notebooks as pages of the site."""

import base64

from tools.mkdocs_notebooks import to_markdown


def test_cells_and_their_outputs_become_markdown():
    png = base64.b64encode(b"picture").decode()
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": ["# Title\n", "[a](../docs/data.md#x), [b](c)"]},
            {
                "cell_type": "code",
                "source": ["x = 1\n", "x"],
                "outputs": [
                    {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]},
                    {"output_type": "execute_result", "data": {"text/plain": ["1"]}},
                ],
            },
            {
                "cell_type": "code",
                "source": ["%%bash\n", "ls"],
                "outputs": [
                    {
                        "output_type": "display_data",
                        "data": {"image/png": png, "text/plain": ["<Image>"]},
                    },
                    {
                        "output_type": "execute_result",
                        "data": {"text/html": ["<p>\n", "\n", "a</p>"], "text/plain": ["<HTML>"]},
                    },
                ],
            },
        ]
    }
    page, pictures = to_markdown(notebook, "name")
    assert pictures == {"name_0.png": b"picture"}
    assert page == (
        "# Title\n[a](../data.md#x), [b](c)\n\n"
        "```python\nx = 1\nx\n```\n\n"
        "```text\none\ntwo\n```\n\n"
        "```text\n1\n```\n\n"
        "```sh\nls\n```\n\n"
        "![Output of the cell above](name_0.png)\n\n"
        "<p>\na</p>\n"
    )


def test_a_cell_with_nothing_to_show_is_its_source():
    notebook = {"cells": [{"cell_type": "code", "source": ["%%writefile a.py\n"], "outputs": []}]}
    assert to_markdown(notebook, "name") == ("```python\n%%writefile a.py\n```\n", {})
