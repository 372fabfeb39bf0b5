"""What runs where neither the data pipeline nor the config files can: on a bare accelerator."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PROGRAM = """
import sys

for name in (
    "array_record", "google_crc32c", "importlib_resources", "ml_collections", "pycocotools",
    "sklearn", "tensorboardX", "tensorflow", "tensorflow_datasets",
):
    sys.modules[name] = None  # as if it were not installed

import jax
import numpy as np
import ipg_jax
from ipg_jax import ops, weights
from detectors import TOY, make_batch, make_task
from jax_side import Programs

task = make_task("retinanet", stages=(2,), size=TOY, norm="frozen_batch_norm")
programs = Programs(task, make_batch(2, 64, 64, levels=task.pyramid_levels))
step, _ = programs.train(())
metrics = step()
print("loss", float(metrics["loss"]))
programs.make_busy()
predict, _ = programs.predict(())
found, _ = predict()
print("found", int(found.valid.sum()))
boxes = np.float32([[0, 0, 2, 2], [0, 0, 2, 2.1], [5, 5, 6, 6]])
print("kept", ops.nms(boxes, np.float32([0.9, 0.8, 0.7]), 0.5, 3)[1].sum())
print("arrays", len(weights.by_path(programs.state.variables)))
print("channels", len(ipg_jax.visualize.class_color(0)))  # without an import of its own
try:
    ipg_jax.build_task(None)
except ModuleNotFoundError as error:
    print("needs", error.name)
"""


def test_models_training_prediction_and_operators_need_no_data_pipeline():
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    said = dict(line.split() for line in result.stdout.splitlines())
    assert float(said["loss"]) > 0
    assert int(said["found"]) > 0
    assert said["kept"] == "2"
    assert int(said["arrays"]) > 50
    assert said["channels"] == "3"
    assert said["needs"] == "ml_collections"
