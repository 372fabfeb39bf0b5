"""Whatever ends a run, what it has done is there when it is started again."""

import os
import pathlib
import shutil
import signal

import pytest
from stand_in_run import StandInEvaluator, make_run, train_step

from ipg_jax import data
from ipg_jax.lock import FolderLock
from ipg_jax.training.checkpoint import Checkpoints
from ipg_jax.training.evaluate import evaluate
from ipg_jax.training.runs import EvalRun
from ipg_jax.training.train import train
from tools.random_kills import check_same, figures, steps


def contents(workdir: pathlib.Path) -> dict[str, bytes]:
    files = (path for path in workdir.rglob("*") if path.is_file())
    return {str(path.relative_to(workdir)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("uninterrupted")
    assert train(make_run(), workdir)
    return workdir


def test_each_trace_of_steps_has_a_folder_of_its_own(tmp_path, caplog):
    def traces() -> list[str]:
        found = (tmp_path / "profile").rglob("*.xplane.pb")
        return sorted(path.relative_to(tmp_path / "profile").parts[0] for path in found)

    caplog.set_level("INFO")
    assert train(make_run(num_steps=6), tmp_path, profile=(3, 4))
    assert traces() == ["steps_3_4"]
    assert caplog.text.count("wrote a trace to") == 1
    with pytest.raises(ValueError, match="--profile=4:3 is not first:last"):
        train(make_run(num_steps=7), tmp_path, profile=(4, 3))
    assert train(make_run(num_steps=8), tmp_path, profile=(2, 9))  # what of it is still to be done
    assert traces() == ["steps_3_4", "steps_7_8"]
    assert "no trace" not in caplog.text
    assert train(make_run(num_steps=9), tmp_path, profile=(7, 8))
    assert "--profile=7:8: no trace, the run does the steps 9 to 9" in caplog.text
    assert train(make_run(num_steps=10), tmp_path, profile=(11, 12))
    assert "--profile=11:12: no trace, the run does the steps 10 to 10" in caplog.text
    assert traces() == ["steps_3_4", "steps_7_8"]


def test_checkpoints_are_written_before_they_are_evaluated(uninterrupted):
    assert steps(uninterrupted) == [6, 8]
    evaluated = [record["step"] for record in figures(uninterrupted) if "eval/coco_AP" in record]
    assert evaluated == [3, 6, 8]
    assert Checkpoints(uninterrupted / "checkpoints", read_only=True).best == 8


@pytest.mark.parametrize("step", [3, 8])
def test_what_dies_in_an_evaluation_costs_no_step(uninterrupted, tmp_path, step, caplog):
    def die(at: int) -> None:
        if at == step:
            raise TypeError("mixed image ids")

    run = make_run()
    with pytest.raises(TypeError, match="mixed"):
        train(make_run(evaluator=StandInEvaluator(run.source, die)), tmp_path)
    assert max(steps(tmp_path)) == step
    caplog.set_level("INFO")
    assert train(run, tmp_path)
    assert f"the checkpoint of step {step} has not been evaluated yet" in caplog.text
    assert run.evaluator.steps == {3: [3, 6, 8], 8: [8]}[step]
    check_same(tmp_path, uninterrupted)
    assert train(run, tmp_path)
    assert "nothing to do" in caplog.text


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_saves_and_goes_on(uninterrupted, tmp_path, number):
    def stop(state, batch, key):
        if int(state.step) == 4:
            os.kill(os.getpid(), number)
        return train_step(state, batch, key)

    assert not train(make_run(train_step=stop), tmp_path)
    assert max(steps(tmp_path)) == 5
    assert train(make_run(), tmp_path)
    check_same(tmp_path, uninterrupted)


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_ends_an_evaluation_at_once(uninterrupted, tmp_path):
    def interrupt(step: int) -> None:
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("still here")

    run = make_run()
    with pytest.raises(KeyboardInterrupt):
        train(make_run(evaluator=StandInEvaluator(run.source, interrupt)), tmp_path)
    assert train(run, tmp_path)
    assert run.evaluator.steps == [6, 8]
    check_same(tmp_path, uninterrupted)


def test_a_start_that_is_refused_changes_nothing(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    before = contents(workdir)
    run = make_run(config={"seed": 1}, num_steps=20)
    other = data.DigitsSource(split="train", num_scenes=1, scene_size=64)
    other.class_names = tuple("abcdefghij")
    other_model = {"x": run.template.params["x"], "y": run.template.params["x"]}
    for changes, message in (
        ({"template": run.template.replace(params=other_model)}, "does not fit"),
        ({"source": other}, "other classes"),
    ):
        with pytest.raises(ValueError, match=message):
            train(make_run(config={"seed": 1}, num_steps=20, **changes), workdir)
        assert contents(workdir) == before
    with FolderLock(workdir) as lock:
        lock.acquire()
        with pytest.raises(ValueError, match="another process is at work"):
            train(run, workdir)
    assert contents(workdir) == before
    (workdir / "checkpoints" / "8" / "default" / "manifest.ocdbt").write_bytes(b"")
    damaged = contents(workdir)
    with pytest.raises(ValueError, match=r"checkpoint 6 .* does not fit"):
        train(make_run(template=run.template.replace(params=other_model)), workdir)
    assert contents(workdir) == damaged
    shutil.copytree(uninterrupted, workdir, dirs_exist_ok=True)
    assert train(make_run(config={"seed": 1}), workdir)  # nothing to do, nothing changed
    assert contents(workdir) == before


def test_a_first_start_that_is_refused_leaves_nothing(tmp_path):
    for changes, kind, message in (
        ({"init_from": str(tmp_path / "gone.pth")}, FileNotFoundError, "gone"),
        ({"batches": lambda start: fail("no such sizes")}, ValueError, "no such sizes"),
    ):
        with pytest.raises(kind, match=message):
            train(make_run(**changes), tmp_path / "run")
        assert not contents(tmp_path)
        assert not list((tmp_path / "run").iterdir())


def fail(message: str) -> None:
    raise ValueError(message)


def test_an_evaluation_that_cannot_be_written_is_refused_before_it_begins(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir, ignore=shutil.ignore_patterns("eval"))
    (workdir / "eval").touch()
    run = make_run()
    eval_run = EvalRun(evaluator=run.evaluator, template=run.template, verify_checkpoints=True)
    with pytest.raises(NotADirectoryError, match="eval is not a folder"):
        evaluate(eval_run, workdir)
    assert not run.evaluator.steps


def test_a_workdir_without_its_checkpoints_is_refused(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir, ignore=shutil.ignore_patterns("checkpoints"))
    before = contents(workdir)
    with pytest.raises(ValueError, match=r"no folder of checkpoints .* another workdir"):
        train(make_run(), workdir)
    assert contents(workdir) == before


def test_a_run_goes_on_from_an_older_checkpoint_where_the_newest_is_damaged(
    uninterrupted, tmp_path, caplog
):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    (workdir / "checkpoints" / "8" / "default" / "manifest.ocdbt").write_bytes(b"")
    run = make_run()
    assert train(run, workdir)
    assert "CHECKPOINT 8 IS DAMAGED" in caplog.text
    assert run.evaluator.steps == [8]
    check_same(workdir, uninterrupted)
