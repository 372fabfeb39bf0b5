"""Evaluates a trained detector: `python eval.py --workdir=DIR`.

    ipg-jax eval --workdir=runs/digits --checkpoint=latest
    ipg-jax eval --workdir=runs/aerial --config.eval.detected="('whole', 'tiled')"

Prints a table per class and writes `eval/metrics.json` and, in COCO's results format,
`eval/detections.json` into the workdir. The config is that of the run; `--config.a.b=value` changes
fields that do not make the model, such as `--config.eval.nms=soft_linear`.
"""

from absl import flags

from ipg_jax.cli import program
from ipg_jax.cli.flags import parse_with_trained_config

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, local or gs://.", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "Which one: a step, best or latest.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other hosts of this job (TPU pod, SLURM, Kubernetes)."
)


def main(_: list[str]) -> None:
    """Runs the command line."""
    from ipg_jax.training import command_line
    from ipg_jax.training.build_trained import for_trained

    command_line.start(distributed=DISTRIBUTED.value)
    workdir = command_line.home(WORKDIR.value)
    config = for_trained(flags.FLAGS.config, workdir)
    from ipg_jax.training.build_runs import build_eval_run
    from ipg_jax.training.evaluate import evaluate, trained_class_names

    run = build_eval_run(config, class_names=trained_class_names(workdir))
    evaluate(run, workdir, CHECKPOINT.value)


def run() -> None:
    """Parses the flags and evaluates."""
    program.run(main, __name__, parse_with_trained_config)
