"""Looks at a data set before anything is trained on it: sizes, classes, anchors, limits, pictures.

    ipg-jax inspect --config=hit_uav_ipg --config.data.root=hit_uav --html=page.html
    ipg-jax inspect --config=hit_uav_ipg --config.data.root=hit_uav --augmented --html=a.html

The numbers are those of the annotations and of the config's detector; no image is opened for them,
unless its size is not annotated. The page has pictures. With --augmented it is of what the config's
augmentations make of training images, and there are no numbers. In a clone the program is also
`python -m ipg_jax.analysis.dataset`.
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

AUGMENTED = flags.DEFINE_bool(
    "augmented", False, "Show what the config's augmentations make of its images; needs --html."
)
IMAGES = flags.DEFINE_integer("images", 3, "With --augmented: how many images.", 1, 100)
EPOCHS = flags.DEFINE_integer(
    "epochs", 3, "With --augmented: how often each, with all augmentations.", 1, 100
)


def main(_: list[str]) -> None:
    """Runs the command line."""
    from ipg_jax.training import command_line

    command_line.start()
    if AUGMENTED.value:
        write_augmented()
    else:
        look()


def write_augmented() -> None:
    """Writes the page of augmentations."""
    if HTML.value is None:
        raise flags.Error("--augmented needs --html, the page to write")
    if JSON.value is not None or DATA.value == "eval":
        raise flags.Error(
            "--augmented shows training data and gives no numbers: leave out --json and --data=eval"
        )
    from ipg_jax.analysis.augmented import augmented_page
    from ipg_jax.files import make_folder, write_whole
    from ipg_jax.training import command_line
    from ipg_jax.training.build_data import build_augmented

    source, settings = build_augmented(CONFIG.value)
    page = augmented_page(source, **settings, num_images=IMAGES.value, epochs=EPOCHS.value)
    path = epath.Path(command_line.home(HTML.value))
    make_folder(path.parent)
    write_whole(path, page.encode())
    print(f"wrote {path}")


def look() -> None:
    """Prints the numbers, and writes them and the page of the data set if these are asked for."""
    from ipg_jax.analysis.page import write_page
    from ipg_jax.analysis.report import analyse
    from ipg_jax.analysis.text import format_report
    from ipg_jax.files import make_folder, write_whole
    from ipg_jax.training import command_line
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


def run() -> None:
    """Parses the flags and looks at the data."""
    flags.mark_flag_as_required("config")
    program.run(main, __name__)


if __name__ == "__main__":
    run()
