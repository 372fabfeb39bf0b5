"""Runs in trackers: the real packages, with a store in the workdir and without a network."""

import json
import sys

import numpy as np
import pytest
from stand_in_run import make_run
from tiny_run import make_tiny_config

from ipg_jax.training.build_runs import build_train_run
from ipg_jax.training.metrics import MetricWriter
from ipg_jax.training.train import train

pytestmark = pytest.mark.filterwarnings("ignore")  # of what is deprecated within these packages

PICTURE = np.full((4, 5, 3), 200, np.uint8)


@pytest.fixture(autouse=True)
def _on_this_machine(monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def mlflow_client(workdir):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{workdir}/mlflow.db")


def mlflow_runs(workdir):
    client = mlflow_client(workdir)
    return client.search_runs([client.get_experiment_by_name("ipg_jax").experiment_id])


def test_no_tracker_leaves_the_files_alone(tmp_path):
    with MetricWriter(tmp_path, trackers=()) as writer:
        writer.scalars(1, {"loss": 0.5})
        writer.image(1, "sample0", PICTURE)
    names = {path.name for path in tmp_path.rglob("*")}
    assert names == {"metrics.jsonl", "samples", "sample0_0000001.png"}


def test_mlflow_goes_on_in_the_run_that_it_began(tmp_path, caplog):
    trackers = ("tensorboard", "mlflow")
    train(make_run(num_steps=4, trackers=trackers, evaluator=None), tmp_path)
    train(make_run(num_steps=8, trackers=trackers, evaluator=None), tmp_path)
    (run,) = mlflow_runs(tmp_path)
    assert (run.info.run_name, run.info.status) == (tmp_path.name, "FINISHED")
    assert run.data.params == {"seed": "0"}
    history = mlflow_client(tmp_path).get_metric_history(run.info.run_id, "train/loss")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(m.step, m.value) for m in history] == [(x["step"], x["train/loss"]) for x in lines]
    assert [m.step for m in history] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(tmp_path.glob("events.out.tfevents*"))

    # From scratch, with the pictures of an evaluation, and to the end of an error.
    writer = MetricWriter(tmp_path, trackers=trackers)
    writer.image(2, "sample0", PICTURE)
    writer.close(failed=True)
    new, old = mlflow_runs(tmp_path)  # the newest comes first
    assert old.info.run_id == run.info.run_id
    assert new.info.status == "FAILED"
    assert list((tmp_path / "mlartifacts" / new.info.run_id).rglob("sample0*.png"))

    # A tracker that fails ends no run.
    with MetricWriter(tmp_path, trackers=trackers, start_step=2) as writer:
        mlflow_client(tmp_path).delete_run(new.info.run_id)  # which then takes no values
        for step in (3, 4):
            writer.scalars(step, {"loss": 0.5})
    assert [line.partition(",")[0] for line in caplog.messages if "mlflow failed" in line] == [
        "mlflow failed and shows no more of this run"
    ]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 4]


def test_weights_and_biases_goes_on_in_the_run_that_it_began(tmp_path):
    train(make_run(num_steps=4, trackers=("wandb",), evaluator=None), tmp_path)
    train(make_run(num_steps=8, trackers=("wandb",), evaluator=None), tmp_path)
    run_id = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    logs = {path.stem: path.read_bytes() for path in (tmp_path / "wandb").rglob("run-*.wandb")}
    assert list(logs) == [f"run-{run_id}"]
    assert b"train/loss" in logs[f"run-{run_id}"]
    with MetricWriter(tmp_path, trackers=("wandb",), start_step=8) as writer:
        writer.image(8, "sample0", PICTURE)
    assert list((tmp_path / "wandb").rglob(f"*-{run_id}*/files/media/images/sample0*.png"))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_said_with_its_extra_before_anything_is_read(
    name, monkeypatch
):
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    config = make_tiny_config().unlock()
    config.trackers = ("tensorboard", name)
    config.data.source, config.data.root = "voc", "/gone"
    with pytest.raises(ImportError, match=rf"trackers has {name}, .*'ipg-jax\[{name}\]'"):
        build_train_run(config)


def test_a_tracker_that_does_not_start_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://nowhere")
    (tmp_path / "trackers.json").write_text('{"mlflow": "gone"}')
    message = r"^config\.trackers: mlflow does not start with the run gone of .*trackers\.json: "
    with pytest.raises(ValueError, match=message):
        MetricWriter(tmp_path, trackers=("mlflow",), start_step=2)
    (tmp_path / "trackers.json").write_text("[")
    with pytest.raises(ValueError, match=r"trackers\.json is damaged.*begin new runs"):
        MetricWriter(tmp_path, trackers=("mlflow",), start_step=2)
