"""Shows what a file of weights or a run holds, and writes it as one file of this package's layout.

Without an argument it lists the detectors that have names. With a config, the weights are also put
into its model, as `config.init_from` would. A file of a run is a whole detector, with its config,
classes and thresholds: `ipg_jax.Detector.load(FILE)` and `ipg-jax predict --workdir=FILE` take it.

    ipg-jax weights
    ipg-jax weights resnet50.pth
    ipg-jax weights detector.pth --config=configs/NAME.py --out=detector.safetensors
    ipg-jax weights runs/hit_uav --half --about="People from above" --out=people.safetensors
"""

import collections

from absl import app, flags
from ml_collections import config_flags

from ipg_jax.cli import program
from ipg_jax.weights import (
    Weights,
    initialize,
    is_weights,
    known_models,
    load_weights,
    locate,
    save_weights,
)

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Put the weights into the model of this config.", lock_config=True
)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "Of a run: a step, best or latest.")
HALF = flags.DEFINE_bool("half", False, "Write kernels as float16: half the size.")
ABOUT = flags.DEFINE_string(
    "about", "", "Of a run: what to say of the detector, its data, figures and licence."
)
OUT = flags.DEFINE_string("out", None, "The .safetensors to write.")
flags.register_validator(
    "out",
    lambda out: out is None or out.endswith(".safetensors"),
    "weights are written as .safetensors",
)
CLASSES = flags.DEFINE_list(
    "classes", [], "Names of the detector's classes, without the background; COCO's are known."
)
EPSILON = flags.DEFINE_float(
    "epsilon", None, "Of the batch norms of a torch model, if it was trained with another one."
)


def table(weights: Weights) -> str:
    """Returns a line for each array, its path, shape and name in the file, and what is left out."""
    rows = [
        (path, "x".join(map(str, array.shape)) or "scalar", weights.sources.get(path, ""))
        for path, array in weights.arrays.items()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f"{path:{widths[0]}}  {shape:{widths[1]}}  {name}" for path, shape, name in rows]
    reasons = collections.defaultdict(list)
    for name, reason in weights.left_out.items():
        reasons[reason].append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        lines.append(f"left out, {reason}: {', '.join(names[:4])}{more}")
    size = sum(array.size for array in weights.arrays.values())
    lines.append(
        f"{len(rows)} arrays, {size / 1e6:.2f} M values, {len(weights.class_names)} classes"
    )
    return "\n".join(lines)


def check(weights: Weights) -> None:
    """Puts the weights into the model of the config; raises ValueError with what does not fit."""
    import jax
    import numpy as np

    from ipg_jax.training import command_line
    from ipg_jax.training.build import build_task

    command_line.start()
    config = CONFIG.value
    task = build_task(config)
    abstract = jax.eval_shape(task.init, jax.random.key(0))
    fresh = jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract))
    names = tuple(config.data.class_names or ())
    if not names and task.num_classes == len(weights.class_names):
        names = weights.class_names
    elif not names and weights.class_names:
        print("The classes will be those of the data; to see them here: config.data.class_names.")
        names = tuple(f"class {i}" for i in range(task.num_classes))
    initialize(
        fresh,
        weights,
        class_names=names,
        missing=config.init_missing or "",
        unexpected=config.init_unexpected or "",
    )
    print("the weights fit the model of the config")


def read(path: str) -> Weights:
    """Returns the weights of a file, of a detector that has a name, or of a run."""
    path = locate(path)
    if is_weights(path):
        return load_weights(path, class_names=CLASSES.value, epsilon=EPSILON.value)
    from ipg_jax.training.build_predict import detector_weights

    return detector_weights(path, checkpoint=CHECKPOINT.value, about=ABOUT.value)


def main(arguments: list[str]) -> None:
    """Runs the command line."""
    if len(arguments) > 2:
        raise app.UsageError("name one file of weights or one run")
    if len(arguments) == 1:
        for name, model in known_models().items():
            print(f"{name}: {model.about}")
        return
    weights = read(arguments[1])
    print(table(weights))
    if weights.detector is not None:
        print(f"a whole detector: {', '.join(weights.class_names)}")
        if weights.detector["about"]:
            print(weights.detector["about"])
    if CONFIG.value:
        check(weights)
    if OUT.value:
        save_weights(OUT.value, weights, half=HALF.value)
        print(f"wrote {OUT.value}")


def run() -> None:
    """Parses the flags and shows the weights."""
    program.run(main, __name__, positional=True)


if __name__ == "__main__":
    run()
