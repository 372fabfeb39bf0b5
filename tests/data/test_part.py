"""Data without a split of their own, divided by a hash of each image's id."""

import numpy as np
import pytest

from ipg_jax.data import CocoSource, HuggingFaceSource, Part, Rule, VocSource, YoloSource

NAMES = [f"{number:02}" for number in range(40)]


def test_every_image_is_in_one_part_and_stays_there():
    ids = [str(number) for number in range(1000)]
    train, to_evaluate = Part(0.2), Part(0.2, train=False)
    chosen = {i for i in ids if to_evaluate.has(i)}
    assert {i for i in ids if train.has(i)} == set(ids) - chosen
    assert 150 < len(chosen) < 250
    # A larger share takes in others, and another seed divides anew.
    assert chosen < {i for i in ids if Part(0.3, train=False).has(i)}
    other = {i for i in ids if Part(0.2, train=False, seed=1).has(i)}
    assert 10 < len(other & chosen) < 100
    assert all(map(Part().has, ids))
    # Whoever changes the hash moves images from training to evaluation.
    assert [i for i in ids[:20] if to_evaluate.has(i)] == ["0", "14", "15", "17"]
    assert Part(0.5).has("\ud800") != Part(0.5, train=False).has("\ud800")


@pytest.fixture(params=["coco", "voc", "yolo", "huggingface"])
def read(request, coco, voc, yolo, hub):
    """From a part to the source of it, of 40 images with an object each."""
    for number, name in enumerate(NAMES):
        coco.add_image(number)
        coco.add_box(number, number, 1, 5, 5)
        voc.add(name, ("dog", (number + 1, 2, number + 5, 6), 0))
        yolo.add(f"images/train/{name}.png", f"1 {(number + 2.5) / 80} 0.5 {5 / 80} 0.5")
        hub.add(number, {"bbox": [number, 1, 5, 5], "category": 1})
    voc.split("train", *NAMES)
    sources = {
        "coco": lambda part: CocoSource(*coco.write(), part=part),
        "voc": lambda part: VocSource(voc.root, "train", part=part),
        "yolo": lambda part: YoloSource(yolo.root, "train", part=part),
        "huggingface": lambda part: HuggingFaceSource(hub.write(), "train", part=part),
    }
    return sources[request.param]


def test_parts_have_their_images_and_objects(read):
    whole = read(Part())
    parts = [read(Part(0.25, train=train, seed=3)) for train in (True, False)]
    found = [set(part.records.image_ids) for part in parts]
    assert found[0] | found[1] == set(whole.records.image_ids)
    assert len(found[0]) + len(found[1]) == len(whole) == 40
    assert 3 < len(found[1]) < 20
    for part in parts:
        assert part.class_names == whole.class_names
        assert part.report.counts == {}
        for index, image_id in enumerate(part.records.image_ids):
            expected = whole.records.objects(whole.records.image_ids.index(image_id))
            np.testing.assert_array_equal(part.records.objects(index).boxes, expected.boxes)


def test_unusable_images_count_in_their_part_alone(voc):
    for name in NAMES:
        voc.add(name, ("dog", (1, 1, 5, 5), 0))
        (voc.root / "JPEGImages" / f"{name}.jpg").write_bytes(b"no image")
    voc.add("a", ("dog", (1, 1, 5, 5), 0))
    voc.add("b", ("cat", (1, 1, 5, 5), 0))
    voc.split("train", *NAMES, "a", "b")
    seed = next(s for s in range(99) if Part(0.5, seed=s).has("a") > Part(0.5, seed=s).has("b"))
    train, to_evaluate = (
        VocSource(voc.root, "train", part=Part(0.5, train=train, seed=seed))
        for train in (True, False)
    )
    assert (train.records.image_ids, to_evaluate.records.image_ids) == (["a"], ["b"])
    assert train.report.lost + to_evaluate.report.lost == len(NAMES)
    # The classes are those of all files, or labels would depend on the part.
    assert train.class_names == to_evaluate.class_names == ("cat", "dog")


@pytest.mark.parametrize("folders", [("JPEGImages", "Annotations"), ("images", "annotations")])
def test_two_folders_of_voc_without_lists(voc, folders):
    for name in ("a", "b"):
        voc.add(name, ("dog", (2, 3, 20, 30), 0))
    (voc.root / "ImageSets" / "Main").rmdir()
    (voc.root / "ImageSets").rmdir()
    for old, new in zip(("JPEGImages", "Annotations"), folders, strict=True):
        (voc.root / old).rename(voc.root / new)
    (voc.root / folders[1] / "b.xml").unlink()
    source = VocSource(voc.root, ".")
    assert source.records.image_ids == ["a"]
    np.testing.assert_array_equal(source.records.boxes, [[1, 2, 20, 30]])
    assert source.load_image(0).shape == (40, 60, 3)
    (reason,) = source.report.examples[Rule.UNREADABLE_ANNOTATION]
    assert "b.xml: No such file" in reason
    with pytest.raises(OSError, match=r"ImageSets/Main/train\.txt, .* the split \. is all images"):
        VocSource(voc.root, "train")
