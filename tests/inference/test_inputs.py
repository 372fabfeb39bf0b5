import os

import pytest

from ipg_jax.inference.inputs import find_inputs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with images, one of them `[1].png`, a text, and a sub-folder with a video, too."""
    for name in ("b.png", "a.JPG", "[1].png", "notes.txt", "deeper/c.tif", "deeper/d.MP4"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_and_patterns_stand_for_their_files_in_order(folder):
    assert find_inputs(["."]).files == ["./[1].png", "./a.JPG", "./b.png"]
    assert find_inputs(["*.png"]).files == ["[1].png", "b.png"]
    assert find_inputs(["**/*.tif"]).files == ["deeper/c.tif"]
    deeper = [f"{folder}/deeper/c.tif", f"{folder}/deeper/d.MP4"]
    assert find_inputs([folder / "deeper", "b.png"]).files == [*deeper, "b.png"]


def test_a_name_that_exists_is_no_pattern(folder):
    assert find_inputs(["[1].png"]).files == ["[1].png"]


def test_each_file_comes_once_and_missing_ones_are_left_to_the_reader(folder):
    assert find_inputs(["b.png", "gone.png", "*.png", "b.png"]).files == [
        "b.png",
        "gone.png",
        "[1].png",
    ]


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("http://host/c.jpg", "http addresses are not read: download"),
        ("HTTPS://host/c.jpg", "HTTPS addresses are not read"),
        ("s3://bucket/c.jpg", "s3 addresses are not read"),
        ("*.webp", "no file matches"),
        ("empty", "no image file"),
    ],
)
def test_what_stands_for_no_file_is_refused_alone(folder, argument, reason):
    (folder / "empty").mkdir()
    found = find_inputs([argument, "b.png"])
    assert found.files == ["b.png"]
    assert list(found.refused) == [argument]
    assert reason in found.refused[argument]


def test_pictures_of_earlier_predictions_are_no_images_of_a_folder(folder):
    ours = {os.path.realpath("b.png")}
    assert find_inputs([".", "*.png"], ours=ours).files == ["./[1].png", "./a.JPG", "[1].png"]
    assert find_inputs(["b.png"], ours=ours).files == ["b.png"]  # unless it is asked for
    assert "pictures that prediction wrote" in find_inputs(["b*"], ours=ours).refused["b*"]


def test_patterns_follow_no_links_in_circles(folder):
    (folder / "deeper" / "one").symlink_to(folder)
    (folder / "deeper" / "two").symlink_to(".")
    assert find_inputs(["**/*.tif"]).files == ["deeper/c.tif"]
    assert find_inputs([f"{folder}/**/*.tif"]).files == [f"{folder}/deeper/c.tif"]
