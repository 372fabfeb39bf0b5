"""Evaluates a trained detector: `python eval.py --config=configs/NAME.py --workdir=DIR`.

Prints a table per class and writes `eval/metrics.json` and, in COCO's results format,
`eval/detections.json` into the workdir.
"""

from absl import app, flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config that the run was trained with.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, local or gs://.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "Which one: a step, best or latest.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other hosts of this job (TPU pod, SLURM, Kubernetes)."
)


def main(_: list[str]) -> None:
    """Runs the command line."""
    from ipg_jax.training import command_line

    command_line.start(distributed=DISTRIBUTED.value)
    from ipg_jax.training.build_runs import build_eval_run
    from ipg_jax.training.evaluate import evaluate, trained_class_names

    class_names = trained_class_names(WORKDIR.value)
    run = build_eval_run(CONFIG.value, class_names=class_names)
    evaluate(run, WORKDIR.value, CHECKPOINT.value)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
