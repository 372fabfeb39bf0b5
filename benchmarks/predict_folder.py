"""Images per second of `ipg-jax predict` on a folder, beside a loop of one image after the other.

    python benchmarks/predict_folder.py --images=DIR [--workdir=hit_uav_small] [--count=200]

Both use the same compiled program. The loop reads an image, detects, draws what it found, writes
the PNG and goes on to the next; `predict` reads, draws and compresses in threads while the devices
work, and writes `detections.json` too. They take turns, so that whatever else the machine does
slows both alike. Prints a Markdown row of the medians and of the ratio.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import tempfile
import time

from PIL import Image

from ipg_jax.inference.detector import Detector
from ipg_jax.inference.inputs import find_inputs
from ipg_jax.inference.predict import predict
from ipg_jax.visualize import draw_boxes


def one_by_one(detector: Detector, files: list[str], out: pathlib.Path) -> None:
    """Reads, detects, draws and writes, one image after the other."""
    for path in files:
        (seen,) = detector.stream([path])
        assert seen.pixels is not None
        assert seen.found is not None
        found = seen.found
        drawn = draw_boxes(seen.pixels, found.boxes, found.labels, found.class_names, found.scores)
        Image.fromarray(drawn).save(out / f"{pathlib.Path(path).stem}.png")


def main() -> None:
    """Prints the row."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", required=True, help="folder of the images")
    parser.add_argument(
        "--workdir", default="hit_uav_small", help="run, file or name of a detector"
    )
    parser.add_argument("--count", type=int, default=200, help="how many images")
    parser.add_argument("--batch-size", type=int, default=1, help="of predict; the loop has 1")
    parser.add_argument("--rounds", type=int, default=3, help="how often both take turns")
    arguments = parser.parse_args()
    files = find_inputs([arguments.images]).files[: arguments.count]
    single = Detector.load(arguments.workdir)
    batched = Detector.load(arguments.workdir, batch_size=arguments.batch_size)
    rates: dict[str, list[float]] = {"loop": [], "predict": []}
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        for detector in (single, batched):
            detector.predict(files[0])  # compiles
        for _ in range(arguments.rounds):
            begin = time.perf_counter()
            one_by_one(single, files, out)
            middle = time.perf_counter()
            predict(batched, files, out / "predict")
            end = time.perf_counter()
            rates["loop"].append(len(files) / (middle - begin))
            rates["predict"].append(len(files) / (end - middle))
    loop, ours = (statistics.median(values) for values in rates.values())
    print("| images | CPUs | batch | loop, images/s | predict, images/s | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(
        f"| {len(files)} | {os.cpu_count()} | {arguments.batch_size} "
        f"| {loop:.2f} | {ours:.2f} | {ours / loop:.2f} |"
    )


if __name__ == "__main__":
    main()
