"""What prediction writes, and what it leaves alone."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ipg_jax.inference.outputs import MADE_BY, OutputFolder
from ipg_jax.inference.prediction import Prediction
from ipg_jax.visualize import encode_png

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
PICTURE = np.zeros((4, 6, 3), np.uint8)


def add(folder: OutputFolder, path: str, objects: int = 1, **labels: str) -> str:
    return folder.add(
        path,
        Prediction(
            boxes=np.tile(np.float32([1, 2, 4, 3]), (objects, 1)),
            scores=np.full(objects, 0.5, np.float32),
            labels=np.ones(objects, np.int32),
            class_names=("cat", "dog"),
            category_ids=(7, 3),
            size=PICTURE.shape[:2],
        ),
        encode_png(PICTURE),
        {f".{suffix}": text for suffix, text in labels.items()},
    )


def predict(out: Path, *paths: str) -> list[str]:
    """Writes something for each path; returns the names of the pictures."""
    folder = OutputFolder(out, CATEGORIES)
    folder.protect(paths)
    with folder:
        return [add(folder, path) for path in paths]


def document(out: Path) -> dict:
    return json.loads((out / "detections.json").read_text())


def test_detections_are_in_the_form_of_coco(tmp_path):
    with OutputFolder(tmp_path / "new", CATEGORIES) as folder:
        add(folder, "x/a.jpg", objects=2)
        add(folder, "b.jpg")
    found = document(tmp_path / "new")
    assert found["categories"] == CATEGORIES
    assert [(i["id"], i["file_name"], i["height"], i["width"]) for i in found["images"]] == [
        (1, "x/a.jpg", 4, 6),
        (2, "b.jpg", 4, 6),
    ]
    assert [(a["id"], a["image_id"]) for a in found["annotations"]] == [(1, 1), (2, 1), (3, 2)]
    assert found["annotations"][0] == {
        "id": 1,
        "image_id": 1,
        "category_id": 3,
        "bbox": [1, 2, 3, 1],
        "area": 3,
        "iscrowd": 0,
        "score": 0.5,
    }
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "detections.json",
        "a_detections.png",
        "b_detections.png",
    }
    with Image.open(tmp_path / "new" / "a_detections.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), PICTURE)


def test_label_files_have_the_names_of_the_images_and_replace_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    for text in ("first", "second"):
        with OutputFolder(tmp_path, CATEGORIES) as folder:
            add(folder, "a.jpg", txt=text, xml="<a/>")
            add(folder, "x/a.jpg", txt=text)
        assert (tmp_path / "a.txt").read_text() == "mine"
        assert (tmp_path / "a.xml").read_text() == "<a/>"
        assert [(tmp_path / f"a_{n}.txt").read_text() for n in (2, 3)] == [text, text]
    assert not (tmp_path / "a_4.txt").exists()


def test_a_label_file_does_not_take_the_place_of_the_detections(tmp_path, caplog):
    for _ in range(2):
        with OutputFolder(tmp_path, CATEGORIES) as folder:
            add(folder, "detections.jpg", json="labels")
        assert (tmp_path / "detections_2.json").read_text() == "labels"
        assert document(tmp_path)["images"][0]["file_name"] == "detections.jpg"
    assert "detections.jpg: its labels are in detections_2.json" in caplog.text


def test_images_are_named_from_the_folder(tmp_path, monkeypatch):
    """As labelme wants it, which looks for them from the folder of its label file."""
    (tmp_path / "deep" / "out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "out")
    monkeypatch.chdir(tmp_path)
    for name in ("deep/out", "link"):
        folder = OutputFolder(name, CATEGORIES)
        assert folder.path_from("x/a.jpg") == "../../x/a.jpg"
        assert folder.path_from(str(tmp_path / "deep" / "out" / "b.jpg")) == "b.jpg"
        assert folder.path_from("gs://bucket/a.jpg") == "gs://bucket/a.jpg"


def test_no_two_images_share_a_picture(tmp_path):
    names = predict(tmp_path, "a_3.png", "a.png", "b/a.png", "a.jpg", "a_detections_2.png")
    assert names == [
        "a_3_detections.png",
        "a_detections.png",
        "a_detections_2.png",
        "a_detections_3.png",
        "a_detections_2_detections.png",
    ]
    assert [image["picture"] for image in document(tmp_path)["images"]] == names


def test_files_of_others_stay_and_pictures_of_before_are_replaced(tmp_path):
    photo = tmp_path / "a.png"
    others = tmp_path / "a_detections.png"
    for path in (photo, others):
        path.write_bytes(path.name.encode())
    for _ in range(2):  # the second run takes the places of the first
        assert predict(tmp_path, str(photo), str(others)) == [
            "a_detections_2.png",
            "a_detections_detections.png",
        ]
    for path in (photo, others):
        assert path.read_bytes() == path.name.encode()
    predict(tmp_path, "z.png")
    assert document(tmp_path)["info"]["pictures"] == [
        "a_detections_2.png",
        "a_detections_detections.png",
        "z_detections.png",
    ]


def test_a_picture_of_before_that_is_now_looked_at_stays(tmp_path):
    predict(tmp_path, "a.png")
    ours = tmp_path / "a_detections.png"
    before = ours.read_bytes()
    assert predict(tmp_path, "a.png", str(ours))[0] == "a_detections_2.png"
    assert ours.read_bytes() == before


def test_links_are_not_followed(tmp_path):
    out, photo = tmp_path / "out", tmp_path / "photo.png"
    photo.write_bytes(b"photo")
    out.mkdir()
    (out / "a_detections.png").symlink_to(photo)
    (out / "b_detections.png").symlink_to(tmp_path / "nowhere.png")
    assert predict(out, "a.png", "b.png") == ["a_detections_2.png", "b_detections_2.png"]
    (out / "a_detections_2.png").unlink()
    (out / "a_detections_2.png").symlink_to(photo)  # in the place of one of ours
    predict(out, "a.png")
    assert not (out / "a_detections_2.png").is_symlink()
    assert photo.read_bytes() == b"photo"
    assert not (tmp_path / "nowhere.png").exists()


@pytest.mark.parametrize("name", ["detections.json", "detections.jsonl"])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("[]"),
        lambda path: path.write_text('{"images": []}\n'),
        lambda path: path.write_text('{"info": {"made_by": "me", "pictures": []}}\n'),
        lambda path: path.write_text("not JSON\n"),
        lambda path: path.write_bytes(b"\xff\xfe\n"),
        os.mkfifo,
        os.mkdir,
        lambda path: path.symlink_to("nowhere"),
    ],
)
def test_detections_of_others_are_refused(tmp_path, name, make):
    make(tmp_path / name)
    for _ in range(2):  # nor is the folder left locked
        with pytest.raises(FileExistsError, match=rf"{name} is there, and not from pred.*--out"):
            predict(tmp_path, "a.png")
    assert os.listdir(tmp_path) == [name]


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(NotADirectoryError, match="out is not a folder: move it away"):
        predict(tmp_path / "out", "a.png")
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_a_second_process_is_refused_until_the_first_is_done(tmp_path):
    with OutputFolder(tmp_path, CATEGORIES) as folder:
        add(folder, "a.png")
        with pytest.raises(ValueError, match=r"another process is at work in .*process \d+ on"):
            predict(tmp_path, "b.png")
        add(folder, "b.png")
    assert [image["file_name"] for image in document(tmp_path)["images"]] == ["a.png", "b.png"]
    assert sorted(os.listdir(tmp_path)) == [
        "a_detections.png",
        "b_detections.png",
        "detections.json",
    ]
    predict(tmp_path, "c.png")


def test_an_exception_loses_nothing_of_the_images_before(tmp_path):
    def run():
        with OutputFolder(tmp_path, CATEGORIES) as folder:
            add(folder, "a.png")
            add(folder, "b.png")
            raise KeyError("third")

    with pytest.raises(KeyError, match="third"):
        run()
    assert [image["file_name"] for image in document(tmp_path)["images"]] == ["a.png", "b.png"]


def test_a_run_without_an_image_changes_nothing(tmp_path):
    predict(tmp_path / "new")
    assert not os.listdir(tmp_path / "new")
    predict(tmp_path / "run", "a.png")
    with OutputFolder(tmp_path / "run", CATEGORIES) as folder:
        add(folder, "b.png")
        left = shutil.copytree(tmp_path / "run", tmp_path / "left")  # as if it was killed now
    (left / ".detections.lock").unlink()
    before = {path.name: path.read_bytes() for path in left.iterdir()}
    predict(left)
    assert {path.name: path.read_bytes() for path in left.iterdir()} == before
    # What the journal alone lists is still known as ours.
    assert predict(left, "b.png") == ["b_detections.png"]
    assert document(left)["info"]["pictures"] == ["a_detections.png", "b_detections.png"]


def test_a_killed_process_leaves_a_line_for_each_image(tmp_path):
    with OutputFolder(tmp_path / "out", CATEGORIES) as folder:
        add(folder, "a.png")
        add(folder, "b.png")
        left = shutil.copytree(tmp_path / "out", tmp_path / "left")  # what is there at this moment
    lines = (left / "detections.jsonl").read_text().splitlines()
    done = [entry["image"] for entry in map(json.loads, lines) if "image" in entry]
    assert [image["file_name"] for image in done] == ["a.png", "b.png"]
    # The next run knows the pictures as ours, even behind half a line.
    with (left / "detections.jsonl").open("a") as file:
        file.write('{"picture": "c_dete')
    assert predict(left, "b.png", "a.png") == ["b_detections.png", "a_detections.png"]
    assert not (left / "detections.jsonl").exists()


def test_long_names_are_shortened(tmp_path):
    longest = f"{'x' * 251}.png"
    letters = f"{'ä' * 125}.png"  # of two bytes each
    names = predict(tmp_path, longest, letters, f"{'x' * 250}y.png")
    assert all(len(os.fsencode(name)) <= 255 for name in names)
    assert len(set(names)) == 3
    assert all((tmp_path / name).exists() for name in names)
    assert names[1].startswith("ää")


def test_names_that_are_no_text_are_written_all_the_same(tmp_path):
    name = os.fsdecode(b"\xff\n.png")
    assert predict(tmp_path, name) == [os.fsdecode(b"\xff\n_detections.png")]
    assert document(tmp_path)["images"][0]["file_name"] == name


@pytest.mark.parametrize("name", [1, None, ["a.png"], "../a.png", "a\0.png", "\ud800.png"])
def test_lists_of_what_are_no_pictures_are_not_from_prediction(tmp_path, name):
    info = {"made_by": MADE_BY, "pictures": [name]}
    (tmp_path / "detections.json").write_text(json.dumps({"info": info}))
    with pytest.raises(FileExistsError, match="not from prediction"):
        predict(tmp_path, "a.png")


def test_a_killed_run_leaves_the_names_of_its_pictures_alone(tmp_path):
    with OutputFolder(tmp_path / "run", CATEGORIES) as folder:
        name = add(folder, "a.jpg")
        left = tmp_path / "left"  # what is there while it runs
        shutil.copytree(tmp_path / "run", left)
    with OutputFolder(left, CATEGORIES) as folder:
        assert folder.pictures == {str(left / name)}
