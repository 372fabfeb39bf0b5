"""Writes the report of a trained run: one HTML page that needs no other file and no network.

    ipg-jax report --workdir=runs/digits
    ipg-jax report --workdir=runs/guided --compare=runs/plain --out=page.html

The page has the curves of the run, AP by class and size, the best threshold of each class, the
errors by kind and size, and pictures of the worst. It reads the workdir's `eval/`, which a training
with evaluations and `eval.py` write, and the images. The best thresholds go into `thresholds.json`
beside the page. `--config.a.b=value` changes fields of the run's config, such as where the data
are. `--compare` says of other runs on the same data whether their AP differs by more than chance.
"""

import json
import os

from absl import flags
from etils import epath

from ipg_jax.cli import program
from ipg_jax.cli.flags import parse_with_trained_config

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, local or gs://.", required=True)
OUT = flags.DEFINE_string("out", None, "File of the page; None for report/index.html of the run.")
COMPARE = flags.DEFINE_multi_string(
    "compare", [], "Folder of another run on the same data to compare with; may be repeated."
)


def main(_: list[str]) -> None:
    """Runs the command line."""
    from ipg_jax.training import command_line

    command_line.start()
    from ipg_jax.analysis.compare import compare, run_hits
    from ipg_jax.analysis.comparison import comparison_section, verdicts
    from ipg_jax.analysis.curves import curves, thresholds_json
    from ipg_jax.analysis.errors import judge
    from ipg_jax.analysis.run_figures import check_comparable
    from ipg_jax.analysis.run_page import run_page
    from ipg_jax.evaluation import nothing_found
    from ipg_jax.files import make_folder, write_whole
    from ipg_jax.training.build_report import check_evaluated_on, open_evaluated, read_run
    from ipg_jax.training.build_trained import for_trained

    assert WORKDIR.value is not None
    workdir = epath.Path(command_line.home(WORKDIR.value))
    config = for_trained(flags.FLAGS.config, workdir)
    first = read_run(workdir, config)
    runs, folders = [first], [workdir]
    for folder in COMPARE.value:
        other = epath.Path(command_line.home(folder))
        runs.append(read_run(other, for_trained(None, other)))
        folders.append(other)
        check_comparable(first, runs[-1])
    source = open_evaluated(workdir, config)
    for folder, one in zip(folders, runs, strict=True):
        check_evaluated_on(folder, one, source)
    comparison = ""
    if len(runs) > 1:
        names = [one.name for one in runs]
        if len({*names}) < len(names):
            names = [os.fspath(workdir), *COMPARE.value]
        hits = [run_hits(source, one.results, max_detections=one.max_detections) for one in runs]
        compared = compare(source.class_names, hits)
        comparison = comparison_section(names, compared)
        print("\n".join(verdicts(names, compared)))
    path = epath.Path(command_line.home(OUT.value)) if OUT.value else workdir / "report/index.html"
    judged = judge(source, first.results)
    of_classes = curves(judged)
    text = run_page(source, first, judged, of_classes, comparison)
    make_folder(path.parent)
    best = {"step": first.step, **thresholds_json(of_classes)}
    write_whole(path.parent / "thresholds.json", json.dumps(best, indent=2))
    write_whole(path, text)
    if not first.results:
        print(nothing_found(first.score_threshold))
    print(f"wrote {path}")


def run() -> None:
    """Parses the flags and writes the report."""
    program.run(main, __name__, parse_with_trained_config)


if __name__ == "__main__":
    run()
