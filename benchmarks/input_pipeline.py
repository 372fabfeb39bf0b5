"""Images per second of the input pipeline, beside torch's on the same files.

    python benchmarks/input_pipeline.py --images=DIR --annotations=JSON [--torch-python=PATH]
        [--augment]

Both sides decode COCO images, resize them to (800, 1333) and pad them into batches of one shape.
This package's makes a uint8 pyramid of four levels, which the device normalises. Torch's is its
`DataLoader` with torchvision's v2 transforms: decode, resize, flip, float32, normalise, and a
collate function that pads; it makes no pyramid. They take turns, so that whatever else the machine
does slows both alike. Torch runs in this interpreter if it is installed, otherwise in the one that
is named.

With `--augment` both also change brightness, contrast, saturation and hue, and in the place of the
resizing scale by 0.1 to 2 and cut a window of 1024 x 1024: torchvision's `ColorJitter`,
`ScaleJitter`, `RandomCrop` and `SanitizeBoundingBoxes`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

from torch_process import run_only_torch

SHORT, LONG = 800, 1333
CANVAS = (1344, 1344)
"""Torch's batches mix landscape and portrait, so they are padded to a square."""

CROP = 1024
"""Side of the windows with `--augment`, and of the square that images are scaled to before."""

FACTORS = (0.1, 2.0)
COLORS = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02}

LEVELS = 4


def ipg_batches(arguments: argparse.Namespace) -> Iterator[Any]:
    """Batches of `ipg_jax.data`."""
    from ipg_jax import data

    source = data.CocoSource(arguments.images, arguments.annotations)
    augmentations = (
        data.ColorJitter(**COLORS),
        data.ScaleJitter(factors=FACTORS),
        data.RandomCrop(size=(CROP, CROP)),
    )
    return data.train_batches(
        source,
        batch_size=arguments.batch_size,
        seed=0,
        image_size=(CROP, CROP) if arguments.augment else (SHORT, LONG),
        levels=LEVELS,
        augmentations=augmentations if arguments.augment else (),
    )


def torch_batches(arguments: argparse.Namespace) -> Iterator[Any]:
    """Batches of torch's `DataLoader` with torchvision's transforms."""
    import torch
    import torchvision
    from torch.utils.data import DataLoader, Dataset
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    with open(arguments.annotations) as file:
        content = json.load(file)
    boxes: dict[int, list[list[float]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        boxes[annotation["image_id"]].append(annotation["bbox"])
    canvas = (CROP, CROP) if arguments.augment else CANVAS
    augmentations = [
        v2.ColorJitter(**COLORS),
        v2.ScaleJitter(canvas, FACTORS),
        v2.RandomCrop(canvas, pad_if_needed=True),
        v2.SanitizeBoundingBoxes(labels_getter=None),
    ]
    transform = v2.Compose(
        [
            *(augmentations if arguments.augment else [v2.Resize(SHORT, max_size=LONG)]),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )

    class Images(Dataset):
        # One endless epoch: between epochs a `DataLoader` would wait for its workers.
        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            record = content["images"][index % len(content["images"])]
            path = os.path.join(arguments.images, record["file_name"])
            image = torchvision.io.decode_image(path, torchvision.io.ImageReadMode.RGB)
            target = tv_tensors.BoundingBoxes(
                torch.tensor(boxes[record["id"]]).reshape(-1, 4),
                format="XYWH",
                canvas_size=image.shape[-2:],
            )
            return transform(tv_tensors.Image(image), target)

    def collate(examples: list[tuple[Any, Any]]) -> tuple[Any, list[Any]]:
        batch = torch.zeros(len(examples), 3, *canvas)
        for row, (image, _) in zip(batch, examples, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = image
        return batch, [target for _, target in examples]

    loader = DataLoader(
        Images(),
        batch_size=arguments.batch_size,
        shuffle=True,
        num_workers=arguments.workers,
        collate_fn=collate,
    )
    return iter(loader)


def measure(batches: Iterator[Any], arguments: argparse.Namespace) -> float:
    """Images per second over `arguments.seconds`, after some batches to warm up."""
    for _ in range(8):
        next(batches)
    count, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < arguments.seconds:
        next(batches)
        count += arguments.batch_size
    return count / elapsed


def main() -> None:
    """Prints a table for people and one JSON line for programs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", required=True, help="folder of the images")
    parser.add_argument("--annotations", required=True, help="COCO JSON file")
    parser.add_argument("--torch-python", default="", help="an interpreter that has torch")
    parser.add_argument("--augment", action="store_true", help="with augmentations on both sides")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="torch's processes")
    parser.add_argument("--rounds", type=int, default=3, help="how often the sides take turns")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--only-torch", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_torch:
        print(json.dumps(measure(torch_batches(arguments), arguments)))
        return

    rates: dict[str, list[float]] = {"ipg_jax": [], "torch": []}
    for _ in range(arguments.rounds):
        # A pipeline of its own for each turn: nothing is prefetched while torch is measured.
        rates["ipg_jax"].append(measure(ipg_batches(arguments), arguments))
        rates["torch"].append(run_only_torch(__file__, arguments.torch_python))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratio = medians["ipg_jax"] / medians["torch"]
    print(f"{'images/s':10}{'median':>8}   rounds")
    for name, values in rates.items():
        print(f"{name:10}{medians[name]:8.1f}   {' '.join(f'{value:.1f}' for value in values)}")
    print(f"{'ratio':10}{ratio:8.2f}")
    print(json.dumps({"images_per_second": medians, "ratio": ratio, "cpus": os.cpu_count()}))


if __name__ == "__main__":
    main()
