"""For test_processes.py: what two processes tell one another; prints what each is told.

Most cases are a pair of inputs, in which some things may differ and others may not.
"""

import dataclasses
import itertools
import sys
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from stand_in_run import make_batch, make_run

from ipg_jax import data
from ipg_jax.training import command_line, hosts
from ipg_jax.training.benchmark import measure_and_print
from ipg_jax.training.runs import TrainRun
from ipg_jax.training.same_run import check_same_run
from ipg_jax.training.sharding import make_mesh, process_rows
from ipg_jax.training.train import train
from ipg_jax.types import Batch

CONFIG = {"seed": 0, "optimizer": {"learning_rate": 0.1}, "data": {"root": "a"}, "num_steps": 5}


def digits(num_scenes: int = 9) -> data.Source:
    return data.DigitsSource(split="train", num_scenes=num_scenes, scene_size=64)


def moved_box() -> data.Source:
    source = digits()
    boxes = source.records.boxes.copy()
    boxes[source.records.offsets[4]] += np.float32(1)
    source.records = dataclasses.replace(source.records, boxes=boxes)
    return source


def renamed(class_names: list[str]) -> data.Source:
    source = digits()
    source.class_names = tuple(class_names)
    return source


def with_report() -> data.Source:
    source = digits()
    source.report.add(data.Rule.UNREADABLE_IMAGE, ["lost.jpg"])
    return source


def fail() -> str:
    raise ValueError("no such workdir")


def read_slowly(start_step: int) -> Iterator[Batch]:
    """Yields half of each batch; process 1 takes longer to read its own."""
    for step in itertools.count(start_step):
        time.sleep(0.1 * jax.process_index())
        yield jax.tree.map(lambda x: x[:4], make_batch(step))


def sum_of_batch(state, batch, key):
    """A step for which all processes have to meet."""
    return state + 1, batch.pyramid[0].astype(jnp.float32).sum()


def measure_rates() -> None:
    """Measures without a model what both processes do together."""
    run = dataclasses.replace(
        make_run(),
        batches=read_slowly,
        init_state=lambda key: jnp.zeros(()),
        template=jax.eval_shape(jnp.zeros, ()),
        train_step=jax.jit(sum_of_batch),
    )
    print(*measure_and_print(run, seconds=1.0))


def lose_the_disk(index: int) -> np.ndarray:
    raise OSError("the disk is gone")


def run_without_images(lost: bool) -> TrainRun:
    """Trains nothing on images that this process can read, unless they are `lost`."""
    source = digits(40)
    if lost:
        source.load_image = lose_the_disk
    rows = process_rows(make_mesh(), 8)
    metrics = {"loss": np.float32(1), "grad_norm": np.float32(1)}
    return make_run(
        source=source,
        batches=lambda start: data.train_batches(
            source, batch_size=8, seed=0, image_size=(64, 64), levels=1, rows=rows
        ),
        train_step=lambda state, batch, key: (state, metrics),
        max_unreadable=0.3,
        evaluator=None,
    )


def main(workdir: str) -> None:
    command_line.start()
    process = jax.process_index()
    same = digits()

    def pick(first, second):
        return second if process else first

    cases = {
        "same": lambda: check_same_run(CONFIG, {"training": same}),
        "rate": lambda: check_same_run(
            CONFIG | {"optimizer": {"learning_rate": pick(0.1, 0.2)}}, {"training": same}
        ),
        "place": lambda: check_same_run(
            CONFIG | {"data": {"root": pick("a", "b")}}, {"training": same}
        ),
        "fewer": lambda: check_same_run(CONFIG, {"evaluation": digits(pick(9, 4))}),
        "box": lambda: check_same_run(CONFIG, {"training": pick(same, moved_box())}),
        "names": lambda: check_same_run(
            CONFIG, {"training": renamed(pick(["a", "b"], ["b", "a"]))}
        ),
        "report": lambda: check_same_run(CONFIG, {"training": pick(same, with_report())}),
        "told": lambda: print(hosts.from_primary(lambda: f"by process {process}")),
        "error": lambda: hosts.from_primary(fail),
        "train": lambda: train(
            make_run(config=CONFIG | {"num_steps": pick(5, 6), "batch_size": pick(8, 16)}), workdir
        ),
        "rates": measure_rates,
        "unreadable": lambda: train(run_without_images(bool(process)), f"{workdir}_unreadable"),
    }
    for name, case in cases.items():
        begin = time.monotonic()
        print(f"--- {name}")
        try:
            case()
            print("no error")
        except (ValueError, data.UnreadableImagesError) as error:
            print(error)
        assert name == "unreadable" or time.monotonic() - begin < 30  # that one trains


if __name__ == "__main__":
    main(sys.argv[1])
