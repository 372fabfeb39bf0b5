"""The folder that prediction writes into, where nothing is replaced that it did not write.

It gets `detections.json`, in COCO's format, and pictures `<name>_detections.png`; for videos
`<name>_detections.mp4` and `.jsonl`, with a line for each frame; and where these are asked for,
label files `<name>.txt`, ... and crops `crops/<class>/<name>_<number>.png`. The JSON lists all
files that were ever written to the folder, which the next run may replace. From a run's first image
to its end, `detections.jsonl` has a line for each image that is done: what a killed process leaves.
A run that reads no image changes nothing.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TextIO

from etils import epath

from ipg_jax.files import is_remote, read_regular, write_whole
from ipg_jax.inference.prediction import Prediction
from ipg_jax.inference.videos import Frame, Video, VideoWriter
from ipg_jax.lock import FolderLock
from ipg_jax.text import shown
from ipg_jax.types import Size

logger = logging.getLogger(__name__)

MADE_BY = "ipg_jax predict"

_LONGEST = 255
"""Bytes of the longest file name, on the file systems in use."""


class OutputFolder:
    """Writes pictures and detections.

    Its context holds the folder's lock, and completes `detections.json` at the end, also if an
    exception ends it: what was added until then is not lost.
    """

    def __init__(self, folder: epath.PathLike, categories: Sequence[Mapping[str, Any]]):
        """Does nothing yet.

        Args:
          folder: local or `gs://`.
          categories: the classes in COCO's form, by label.
        """
        self._folder = epath.Path(folder)
        self._lock = FolderLock(self._folder, ".detections.lock")
        self._path = self._folder / "detections.json"
        self._journal_path = self._folder / "detections.jsonl"
        self._journal: TextIO | None = None
        self._owned: set[str] = set()
        self._inputs: frozenset[str] = frozenset()
        self._written: set[str] = set()
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._videos: list[dict[str, Any]] = []
        self._categories = list(categories)

    @property
    def pictures(self) -> frozenset[str]:
        """Real paths of the files of earlier runs."""
        return frozenset(os.path.realpath(self._folder / name) for name in self._owned)

    def path_from(self, path: str) -> str:
        """Returns the path of an image from this folder; as it is where either is in a store."""
        if is_remote(path) or is_remote(self._folder):
            return path
        place, name = os.path.split(path)
        return os.path.relpath(
            os.path.join(os.path.realpath(place), name), os.path.realpath(self._folder)
        )

    def protect(self, inputs: Sequence[str]) -> None:
        """Lets no file take the place of these files, whoever wrote them."""
        self._inputs = frozenset(os.path.realpath(path) for path in inputs)

    def __len__(self) -> int:
        """How many images and videos were added."""
        return len(self._images) + len(self._videos)

    def __enter__(self) -> OutputFolder:
        """Makes the folder if need be, locks it and looks at what is in it.

        Raises:
          ValueError: another process is writing predictions to the folder.
          FileExistsError: there is a `detections.json` or `detections.jsonl` that is not
            prediction's.
          OSError: the folder cannot be made.
        """
        self._lock.acquire()
        try:
            self._owned = _pictures_of(self._path) | _pictures_of(self._journal_path)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            if self._journal is not None:
                self._journal.close()
            if len(self):
                document = {
                    "info": _info(self._owned | self._written),
                    "images": self._images,
                    "annotations": self._annotations,
                    "categories": self._categories,
                    **({"videos": self._videos} if self._videos else {}),
                }
                write_whole(self._path, json.dumps(document))
                self._journal_path.unlink()

    def add(
        self,
        path: str,
        found: Prediction,
        picture: bytes,
        labels: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Writes what was found in an image; returns the name of its picture.

        Args:
          path: the image.
          found: what is in it.
          picture: a PNG of the image with what is to be shown of that.
          labels: contents of label files by their suffix, such as `.txt`.

        Raises:
          OSError: it cannot be written, as on a full disk.
        """
        stem = os.path.splitext(os.path.basename(path))[0]
        name = self._free_name(f"{stem}_detections", ".png")
        number = len(self._images) + 1
        height, width = found.size
        image = {
            "id": number,
            "file_name": path,
            "height": height,
            "width": width,
            "picture": name,
        }
        annotations = [
            {
                "id": len(self._annotations) + i,
                "image_id": number,
                "category_id": self._categories[label]["id"],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "score": score,
            }
            for i, ((x1, y1, x2, y2), score, label) in enumerate(
                zip(
                    found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
                ),
                start=1,
            )
        ]
        self._write(name, picture)
        for suffix, text in labels.items():
            label_name = self._free_name(stem, suffix)
            if label_name != stem + suffix:
                logger.warning(
                    "%s: its labels are in %s, for %s is another file's name, or too long",
                    *map(shown, (path, label_name, stem + suffix)),
                )
            self._write(label_name, text.encode())
        self._log(image=image, annotations=annotations)
        self._images.append(image)
        self._annotations += annotations
        return name

    def add_crops(self, path: str, crops: Sequence[tuple[str, bytes]], suffix: str = "") -> None:
        """Writes the parts of an image, in a folder for each class.

        Args:
          path: the image or video.
          crops: for each the name of its class, and a PNG.
          suffix: of the names, such as the number of a frame.

        Raises:
          OSError: one cannot be written.
        """
        stem = os.path.splitext(os.path.basename(path))[0] + suffix
        for number, (class_name, png) in enumerate(crops, start=1):
            self._write(self._free_name(f"{stem}_{number}", ".png", _crop_folder(class_name)), png)

    def add_text(self, stem: str, suffix: str, text: str) -> None:
        """Writes a text file that is of no image.

        Raises:
          OSError: it cannot be written.
        """
        self._write(self._free_name(stem, suffix), text.encode())

    def new_file(self, path: str, suffix: str) -> epath.Path:
        """Returns the path of a file `<name>_detections<suffix>` for a video, which is to be made.

        Args:
          path: the video.
          suffix: of the new file's name.
        """
        stem = os.path.splitext(os.path.basename(path))[0]
        return self._claim(self._free_name(f"{stem}_detections", suffix))

    def add_video(self, path: str, **fields: Any) -> None:
        """Lists a video of which files were written (`new_file`).

        Args:
          path: the video.
          **fields: what is to be said of it.
        """
        video = {"id": len(self._videos) + 1, "file_name": path, **fields}
        self._log(video=video)
        self._videos.append(video)

    def _write(self, name: str, data: bytes) -> None:
        """Writes a file of a name that is free."""
        target = self._claim(name)
        if is_remote(target):
            target.write_bytes(data)
        else:
            with open(target, "xb") as file:
                file.write(data)

    def _claim(self, name: str) -> epath.Path:
        """Makes room for a file of a name that is free, and lists it as ours."""
        self._log(picture=name)  # first, so that a file without a line is known as ours
        self._written.add(name)
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # `_free_name` said that it is ours; links are not followed
        return target

    def _free_name(self, stem: str, suffix: str, place: str = "") -> str:
        """A name in the folder or a `place` of it: new, or that of an earlier run's file."""
        for number in itertools.count(1):
            ending = suffix if number == 1 else f"_{number}{suffix}"
            name = place + _shortened(stem, _LONGEST - len(ending)) + ending
            path = self._folder / name
            if name in (self._path.name, self._journal_path.name):
                continue
            if name in self._written or os.path.realpath(path) in self._inputs:
                continue
            if name in self._owned or not _exists(path):
                return name
        raise AssertionError("there is always a free number")

    def _log(self, **entry: Any) -> None:
        if self._journal is None:
            first = {"info": _info(self._owned), "categories": self._categories}
            write_whole(self._journal_path, json.dumps(first) + "\n")  # no moment without the list
            self._journal = self._journal_path.open("a")
        self._journal.write(json.dumps(entry) + "\n")
        self._journal.flush()


class VideoOutput:
    """The files of a video: its frames with boxes, and a line of JSON for each.

    Its context completes the files and lists the video, also if an exception ends it.

    Attributes:
      frames: how many were added.
      name: of the video that is written.
    """

    def __init__(self, folder: OutputFolder, path: str, video: Video, size: Size):
        """Begins the files.

        Args:
          folder: where they are made.
          path: the video that was read.
          video: the same, opened.
          size: height and width of its frames.

        Raises:
          OSError: a file cannot be written.
        """
        self.frames = 0
        self._add_video = functools.partial(folder.add_video, path)
        self._time_base = video.time_base
        self._size = size
        target, lines = (folder.new_file(path, suffix) for suffix in (".mp4", ".jsonl"))
        self.name, self._lines_name = target.name, lines.name
        with contextlib.ExitStack() as stack:
            self._lines = stack.enter_context(lines.open("w"))
            self._writer = stack.enter_context(
                VideoWriter(target, size, rate=video.rate, time_base=video.time_base)
            )
            self._close = stack.pop_all()

    def __enter__(self) -> VideoOutput:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._close:
            height, width = self._size
            self._add_video(
                picture=self.name,
                detections=self._lines_name,
                frames=self.frames,
                height=height,
                width=width,
            )

    def add(self, found: Prediction, frame: Frame) -> None:
        """Writes the next frame.

        Args:
          found: what is in it.
          frame: its pixels with what is to be shown of that, and its time.

        Raises:
          OSError: it cannot be written, as on a full disk.
        """
        entry = {
            "frame": self.frames,
            "seconds": float(frame.time * self._time_base),
            "annotations": found.to_coco(self.frames),
        }
        self._lines.write(json.dumps(entry) + "\n")
        self._writer.write(frame)
        self.frames += 1


def _pictures_of(path: epath.Path) -> set[str]:
    """The pictures that a file of an earlier run lists, none if it is not there."""
    if not _exists(path):
        return set()
    try:
        if os.path.islink(path):
            raise ValueError(f"{path} is a link")
        text = read_regular(path).decode()
        if not text:
            return set()
        lines = [text]
        if path.suffix == ".jsonl":  # of which a killed run may leave half a line, or nothing
            lines = text.split("\n")[:-1] or [text]
        first, *rest = map(json.loads, lines)
        if first["info"]["made_by"] != MADE_BY:
            raise ValueError(f"{path} was not made by prediction")
        later = (entry["picture"] for entry in rest if "picture" in entry)
        pictures = {*first["info"]["pictures"], *later}
        for name in pictures:
            if not isinstance(name, str) or "\0" in name or {"", ".", ".."} & {*name.split("/")}:
                raise ValueError(f"{path} lists {name!r}, which is no file of this folder")
            os.fsencode(name)  # UnicodeEncodeError, a ValueError, of what no file is named
        return pictures
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise FileExistsError(
            f"{shown(path)} is there, and not from prediction ({shown(error)}): choose another "
            "folder for --out, or move it away"
        ) from error


def _info(pictures: set[str]) -> dict[str, Any]:
    return {"made_by": MADE_BY, "pictures": sorted(pictures)}


def _exists(path: epath.Path) -> bool:
    """Whether there is anything by that name, be it a link to nowhere."""
    return path.exists() if is_remote(path) else os.path.lexists(path)


def _shortened(name: str, limit: int) -> str:
    """The beginning of a name that has at most `limit` bytes."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= limit else encoded[:limit].decode(errors="ignore")


def _crop_folder(class_name: str) -> str:
    """Where crops of a class are, whatever its name."""
    name = _shortened(re.sub(r"[/\\]", "_", shown(class_name)), _LONGEST - 1)
    return f"crops/{name if name.strip('.') else '_' + name}/"
