"""The examples of CONTRIBUTING.md run as they stand there."""

import pathlib
import re
import sys
import types

import pytest

from ipg_jax.data import AUGMENTATIONS
from ipg_jax.models import BACKBONES, FUSIONS, NECKS
from ipg_jax.tasks import MATCHERS
from ipg_jax.training.build_data import SOURCES

TEXT = pathlib.Path(__file__).parents[1].joinpath("CONTRIBUTING.md").read_text()
SECTION = TEXT.partition("\n## Adding things\n")[2].partition("\n## ")[0]
EXAMPLES = {
    title: code
    for title, rest in re.findall(
        r"^\*\*An? ([^*.]+?)\.?\*\*(.*?)(?=^\*\*|\Z)", SECTION, re.M | re.S
    )
    for code in re.findall(r"^```python\n(.*?)^```", rest, re.M | re.S)
}
REGISTRIES = (AUGMENTATIONS, BACKBONES, FUSIONS, MATCHERS, NECKS, SOURCES)


@pytest.fixture
def registries():
    before = [dict(registry) for registry in REGISTRIES]
    yield REGISTRIES
    for registry, entries in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(entries)


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_runs(title: str, registries, monkeypatch):
    names = {name for registry in registries for name in registry}
    module = types.ModuleType("contributed")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(EXAMPLES[title], f"CONTRIBUTING.md, {title}", "exec"), module.__dict__)
    added = {name for registry in registries for name in registry} - names
    assert len(added) == (title != "config")


def test_everything_that_is_registered_has_an_example():
    assert set(EXAMPLES) == {
        "fusion",
        "backbone",
        "neck",
        "matcher",
        "source of data",
        "augmentation",
        "config",
    }
