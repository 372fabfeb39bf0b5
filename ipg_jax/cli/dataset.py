"""Looks at a data set before anything is trained on it: sizes, classes, anchors, limits, pictures.

    python -m ipg_jax.analysis.dataset --config=configs/NAME.py [--html=FILE] [--json=FILE]

The numbers are those of the annotations and of the config's detector; no image is opened for them,
unless its size is not annotated. The page has pictures.
"""

import json

from absl import flags
from etils import epath
from ml_collections import config_flags

from ipg_jax.cli import program

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Names the data and the detector.", lock_config=True
)
DATA = flags.DEFINE_enum("data", "train", ["train", "eval"], "Which data of the config.")
JSON = flags.DEFINE_string("json", None, "File for the numbers, local or gs://.")
HTML = flags.DEFINE_string("html", None, "File for a page with charts and pictures, the same.")


def main(_: list[str]) -> None:
    """Runs the command line."""
    from ipg_jax.training import command_line

    command_line.start()
    with command_line.without_start_up_notes():
        from ipg_jax.analysis.page import write_page
        from ipg_jax.analysis.report import analyse
        from ipg_jax.analysis.text import format_report
        from ipg_jax.files import make_folder, write_whole
        from ipg_jax.training.build_analysis import build_detector_settings
        from ipg_jax.training.build_checks import checked
        from ipg_jax.training.build_data import build_training_tiles, log_report, open_source

    config = checked(CONFIG.value)
    source = open_source(config, train=DATA.value == "train", verify="none")
    log_report(source)
    if DATA.value == "train" and config.data.tile is not None:
        source = build_training_tiles(config, source)
    report = analyse(source, build_detector_settings(config, tile=source.tile))
    print(format_report(report))
    classes = len(source.class_names)
    if classes != config.model.num_classes:
        print(f"\nconfig.model.num_classes={config.model.num_classes}: set {classes} to train")
    if JSON.value:
        path = epath.Path(command_line.home(JSON.value))
        make_folder(path.parent)
        write_whole(path, json.dumps(report.to_json(), indent=2))
        print(f"wrote {path}")
    if HTML.value:
        path = epath.Path(command_line.home(HTML.value))
        write_page(path, source, report)
        print(f"wrote {path}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    program.run(main)
