"""Small image files and data sets, made by the tests themselves."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(
    pixels: np.ndarray, image_format: str = "PNG", orientation: int = 1, mode: str | None = None
) -> bytes:
    image = Image.fromarray(pixels)
    if mode is not None:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    image.save(buffer, image_format, **({"exif": exif} if orientation != 1 else {}))
    return buffer.getvalue()


class CocoFolder:
    """A COCO data set under construction: images of 40 x 60 pixels by default."""

    def __init__(self, root: Path):
        self.images = root / "images"
        self.images.mkdir()
        self.json = root / "instances.json"
        self.content: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        }

    def add_image(self, image_id: int, size: tuple[int, int] = (40, 60), **record: Any) -> None:
        name = f"{image_id}.png"
        (self.images / name).write_bytes(encode(random_image(*size, seed=image_id)))
        self.content["images"].append(
            {"id": image_id, "file_name": name, "height": size[0], "width": size[1], **record}
        )

    def add_box(self, image_id: int, *bbox: float, category_id: int = 3, **fields: Any) -> None:
        annotation_id = len(self.content["annotations"]) + 1
        self.content["annotations"].append(
            {
                "id": annotation_id,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": list(bbox),
                "iscrowd": 0,
                **fields,
            }
        )

    def write(self) -> tuple[Path, Path]:
        self.json.write_text(json.dumps(self.content))
        return self.images, self.json


class VocFolder:
    """A VOC data set under construction."""

    def __init__(self, root: Path):
        self.root = root / "VOC"
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (self.root / folder).mkdir(parents=True)

    def add(
        self,
        image_id: str,
        *objects: tuple[str, tuple[Any, ...], int],
        size: tuple[int, int] = (40, 60),
        suffix: str = "jpg",
    ) -> None:
        """Each object is a name, VOC's (xmin, ymin, xmax, ymax) and the difficult flag."""
        image_format = {"jpg": "JPEG", "png": "PNG"}[suffix]
        file_name = f"{image_id}.{suffix}"
        data = encode(random_image(*size), image_format)
        (self.root / "JPEGImages" / file_name).write_bytes(data)
        body = "".join(
            f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
            + "".join(
                f"<{side}>{value}</{side}>"
                for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            )
            + "</bndbox></object>"
            for name, box, difficult in objects
        )
        (self.root / "Annotations" / f"{image_id}.xml").write_text(
            f"<annotation><filename>{file_name}</filename><size><width>{size[1]}</width>"
            f"<height>{size[0]}</height><depth>3</depth></size>{body}</annotation>"
        )

    def edit(self, image_id: str, *replacements: tuple[str, str]) -> None:
        """Replaces texts that are in an XML file by others."""
        path = self.root / "Annotations" / f"{image_id}.xml"
        text = path.read_text()
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)

    def split(self, name: str, *lines: str) -> None:
        (self.root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(lines) + "\n")


class YoloFolder:
    """A YOLO data set under construction: images of 40 x 80 pixels."""

    def __init__(self, root: Path):
        self.root = root / "animals"
        self.yaml("train: images/train", "val: images/val", "names: [cat, dog]")

    def yaml(self, *lines: str) -> None:
        self.root.mkdir(exist_ok=True)
        (self.root / "data.yaml").write_text("\n".join(lines) + "\n")

    def add(self, image: str, *lines: str, labels: str | None = None) -> None:
        path = self.root / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(random_image(40, 80)))
        if lines:
            label = self.root / (labels or image.replace("images", "labels"))
            label = label.with_suffix(".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("\n".join(lines) + "\n")


class HuggingFaceFolder:
    """A data set of `datasets` under construction: images of 40 x 60 pixels by default."""

    def __init__(self, root: Path):
        self.root = root / "hub"
        self.rows: list[dict[str, Any]] = []
        self.class_names = ["cat", "dog"]

    def add(
        self, image_id: int, *objects: dict[str, Any], size: tuple[int, int] = (40, 60), **row: Any
    ) -> None:
        """Each object has `bbox`, `category` and what else `features` lists."""
        image = {"path": f"{image_id}.png", "bytes": encode(random_image(*size, seed=image_id))}
        row = {"image_id": image_id, "image": image, "height": size[0], "width": size[1]} | row
        self.rows.append({"objects": list(objects), **row})

    def features(self, *, by_field: bool = False) -> Any:
        """The types of the columns; objects as a list, or as a list for each of their fields."""
        from datasets import ClassLabel, Features, Image, List, Value

        fields = {
            "bbox": List(Value("float32")),
            "category": ClassLabel(names=self.class_names),
            "area": Value("float32"),
            "iscrowd": Value("bool"),
        }
        objects = {k: List(v) for k, v in fields.items()} if by_field else List(fields)
        sizes = {"height": Value("int32"), "width": Value("int32")}
        return Features({"image_id": Value("int64"), "image": Image(), "objects": objects, **sizes})

    def dataset(self, *, by_field: bool = False) -> Any:
        from datasets import Dataset

        features = self.features(by_field=by_field)
        rows = self.rows
        if by_field:
            names = features["objects"]
            rows = [
                row | {"objects": {k: [o.get(k) for o in row["objects"]] for k in names}}
                for row in rows
            ]
        return Dataset.from_list(rows, features=features)

    def write(self, split: str = "train") -> Path:
        """Writes the rows as a split of it."""
        from datasets import disable_progress_bars

        disable_progress_bars()
        self.dataset().save_to_disk(self.root / split)
        return self.root
