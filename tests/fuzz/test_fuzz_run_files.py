"""Damaged files of a workdir: named with the way out, or read as if nothing had happened."""

import contextlib
import json
import random

import pytest
from etils import epath
from mutators import limited_memory, mutate_bytes, mutate_tree, outcome

from ipg_jax import data
from ipg_jax.training.metrics import MetricWriter
from ipg_jax.training.trained import read_classes
from ipg_jax.training.workdir import check_workdir, write_run_files

CONFIG = {
    "seed": 0,
    "optimizer": {"learning_rate": 0.1, "milestones": [7, 11]},
    "data": {"name": ""},
}
METRICS = "".join(
    json.dumps({"step": step, "train/loss": step / 7, "eval/coco_AP": None}) + "\n"
    for step in (1, 1, 2, 3)
)


@pytest.fixture(autouse=True)
def memory():
    """No damage makes a reader take much of it."""
    with limited_memory():
        yield


@pytest.fixture(scope="module")
def source() -> data.Source:
    return data.DigitsSource(split="train", num_scenes=1, scene_size=64)


@pytest.fixture
def workdir(tmp_path, source) -> epath.Path:
    write_run_files(epath.Path(tmp_path), CONFIG, source)
    return epath.Path(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "classes.json"])
def test_json_files(workdir, source, name):
    rng = random.Random(f"run files {name}")
    path = workdir / name
    written = path.read_bytes()
    refused = 0
    for _ in range(150):
        if rng.random() < 0.5:
            tree = mutate_tree(rng, json.loads(written)).tree
            damaged = json.dumps(tree).encode()
        else:
            damaged = mutate_bytes(rng, written)
        path.write_bytes(damaged)
        known = outcome(lambda: read_classes(workdir), "classes.json")
        fits = outcome(lambda: [check_workdir(workdir, CONFIG, source)], name) is not None
        if name == "classes.json":
            # Never others than those of the data.
            assert fits == (known == [{"id": i, "name": str(i)} for i in range(10)])
        refused += not fits
        assert path.read_bytes() == damaged
    assert refused > 30


def test_metrics(tmp_path):
    rng = random.Random("run files metrics")
    path = tmp_path / "metrics.jsonl"
    for _ in range(100):
        damaged = mutate_bytes(rng, METRICS.encode())
        path.write_bytes(damaged)
        with contextlib.closing(MetricWriter(tmp_path, start_step=2)):
            pass
        before, after = damaged.split(b"\n"), path.read_bytes().split(b"\n")
        assert after[-1] == b""
        # No sound line of the time until the start is lost or moved, and none of later is left.
        sound = set(METRICS.encode().splitlines())
        late = METRICS.encode().splitlines()[-1]
        kept = [line for line in before if line in sound and line != late]
        assert [line for line in after if line in sound] == kept
        remaining = iter(before)
        assert all(line in remaining for line in after[:-1])
