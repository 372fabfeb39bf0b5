"""Detects objects in images and videos: `python predict.py --workdir=DIR --out=DIR FILE...`.

FILE is an image, a video (with `pip install "ipg-jax[video]"`), a folder of these, or a pattern
such as "shots/*.jpg". Writes a picture with boxes for each image, `<name>_detections.png`, and one
`detections.json` in COCO's format; for a video `<name>_detections.mp4` and a line of JSON for each
frame, `<name>_detections.jsonl`. Replaces nothing but what it wrote before. The config is that of
the run; `--config.a.b=value` changes fields that do not make the model. With --tiles, large images
are cut into tiles, as `--config.eval.tile="(512, 512)"` and the fields around it say
(docs/large_images.md). The exit code is 1 if anything could not be read.

    ipg-jax predict --workdir=runs/hit_uav --out=found photos/
    ipg-jax predict --workdir=runs/hit_uav --out=found --tiles large.tif
    ipg-jax predict --workdir=runs/hit_uav --out=found --save_crops flight.mp4
    ipg-jax predict --workdir=runs/hit_uav --out=labels --format=yolo --threshold=0.5 "new/*.jpg"
"""

import sys
from typing import cast

from absl import app, flags

from ipg_jax.cli import program
from ipg_jax.cli.flags import parse_with_trained_config
from ipg_jax.visualize import Captions

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, local or gs://.", required=True)
OUT = flags.DEFINE_string(
    "out", None, "Folder for the pictures and detections.json.", required=True
)
THRESHOLD = flags.DEFINE_float(
    "threshold",
    None,
    "Least score of a drawn box; detections.json has all of them. By default, for each class that "
    "of its best F1 by the run's report (ipg-jax report), and 0.3 without one of this checkpoint.",
)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "Which one: a step, best or latest.")
LABELS = flags.DEFINE_enum(
    "labels",
    "auto",
    ["auto", "none", "scores", "all"],
    "What is written at a box: name and score where that covers no object (auto), nothing, the "
    "score alone, or both wherever there is room between others.",
)
LINE_WIDTH = flags.DEFINE_integer(
    "line_width", None, "Of the boxes in pixels, instead of one that fits the picture.", 1
)
FORMAT = flags.DEFINE_multi_enum(
    "format",
    ["coco"],
    ["coco", "yolo", "voc", "labelme"],
    "A label file of this kind for each image, of what is drawn; may be repeated. detections.json, "
    "in COCO's format, is always written.",
)
SAVE_CROPS = flags.DEFINE_bool(
    "save_crops",
    False,
    "Write what is in each drawn box as well, crops/<class>/<name>_<number>.png.",
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    None,
    "Images, frames, or tiles of one, that the devices look at together; by default 1, and with "
    "--tiles 4 a device.",
    1,
)
TILES = flags.DEFINE_bool(
    "tiles",
    False,
    "Cut images into tiles: config.eval.tile, .tile_overlap, .merge, .merge_metric and "
    ".merge_threshold say how, config.eval.batch_size how many are looked at together.",
)
WHOLE = flags.DEFINE_bool("whole", True, "With --tiles, look at the whole image as well.")


def main(arguments: list[str]) -> None:
    """Runs the command line."""
    from ipg_jax.training import command_line

    files = arguments[1:]
    if not files:
        raise app.UsageError("name at least one image or video file, folder or pattern")
    command_line.start()
    from ipg_jax.inference.detector import Detector
    from ipg_jax.inference.predict import predict
    from ipg_jax.text import shown
    from ipg_jax.training.build_predict import load_trained
    from ipg_jax.training.build_trained import for_trained

    workdir = command_line.home(WORKDIR.value)
    trained = load_trained(
        workdir,
        checkpoint=CHECKPOINT.value,
        config=for_trained(flags.FLAGS.config, workdir),
        tiles=TILES.value,
        whole=WHOLE.value,
    )
    failed = predict(
        Detector.of(trained, **({"batch_size": BATCH_SIZE.value} if BATCH_SIZE.value else {})),
        files,
        command_line.home(OUT.value),
        threshold=THRESHOLD.value,
        captions=cast(Captions, LABELS.value),
        line_width=LINE_WIDTH.value,
        formats=[name for name in FORMAT.value if name != "coco"],
        save_crops=SAVE_CROPS.value,
    )
    if failed:
        sys.exit(f"could not be read, {len(failed)} in all: {', '.join(map(shown, failed))}")


def run() -> None:
    """Parses the flags and predicts."""
    program.run(main, __name__, parse_with_trained_config, positional=True)
