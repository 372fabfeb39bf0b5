import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds
from made_files import random_image
from made_tfds import SIZES, examples, features, rewritten, store

from ipg_jax.data import Rule, TfdsSource, VocSource


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def stored(request, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp(request.param)
    tfds.dataset_builders.store_as_tfds_dataset(
        "boxes",
        "1.0.0",
        features(),
        {split: examples(split) for split in ("train", "val")},
        data_dir=data_dir,
        file_format=request.param,
    )
    return data_dir


def test_images_and_boxes(stored):
    source = TfdsSource("boxes", "train", data_dir=stored)
    assert source.class_names == ("cat", "dog")
    assert source.category_ids == (0, 1)
    assert sorted(source.records.image_ids) == list(range(100, 107))
    for index, image_id in enumerate(source.records.image_ids):
        i = image_id - 100
        height, width = SIZES[i]
        assert source.size(index) == (height, width)
        assert source.records.file_names[index] == f"{i}.png"
        np.testing.assert_array_equal(source.load_image(index), random_image(height, width, seed=i))
        objects = source.records.objects(index)
        expected = [
            (0.2 * width, 0.1 * height, 0.6 * width, 0.5 * height),
            (0.5 * width, 0.5 * height, width, height),
        ]
        np.testing.assert_allclose(objects.boxes, np.reshape(expected[: i % 3], (-1, 4)), rtol=1e-6)
        np.testing.assert_array_equal(objects.labels, np.arange(i % 3))
        np.testing.assert_array_equal(objects.ignore, [i == 5 and j == 1 for j in range(i % 3)])
        np.testing.assert_array_equal(objects.area, np.full(i % 3, 17))
    assert source.report.counts == {Rule.EMPTY_IMAGE: 3, Rule.IGNORED: 1}
    assert source.report.examples[Rule.IGNORED] == ["5.png"]


def test_a_class_can_be_a_region_to_ignore(stored):
    whole = TfdsSource("boxes", "train", data_dir=stored)
    source = whole.ignoring(["cat"])
    assert (source.class_names, source.category_ids) == (("dog",), (1,))
    np.testing.assert_array_equal(source.records.labels, 1 - whole.records.labels)
    np.testing.assert_array_equal(
        source.records.ignore, whole.records.ignore | (whole.records.labels == 0)
    )
    np.testing.assert_array_equal(source.load_image(2), whole.load_image(2))


def test_slices_read_only_their_examples(stored):
    whole = TfdsSource("boxes", "train", data_dir=stored).records.image_ids
    for split, expected in (
        ("train[:3]", whole[:3]),
        ("train[3:]", whole[3:]),
        ("train[2:5]", whole[2:5]),
    ):
        source = TfdsSource("boxes", split, data_dir=stored)
        assert source.records.image_ids == expected
        i = expected[-1] - 100
        np.testing.assert_array_equal(source.load_image(-1), random_image(*SIZES[i], seed=i))
    both = TfdsSource("boxes", "train+val", data_dir=stored)
    assert both.report.count(Rule.DUPLICATE_IMAGE) == 2
    assert sorted(both.records.image_ids) == sorted(whole)


def test_empty_images_and_class_order(stored):
    source = TfdsSource(
        "boxes", "train", data_dir=stored, class_names=("dog", "cat"), drop_empty=True
    )
    assert source.category_ids == (1, 0)
    # Objects: image 1 has one, 2 has two, 4 one, 5 two.
    assert sorted(source.records.image_ids) == [101, 102, 104, 105]
    assert source.report.count(Rule.EMPTY_IMAGE_DROPPED) == 3
    np.testing.assert_array_equal(source.records.labels == 1, source.records.boxes[:, 1] < 5)


def test_data_may_lack_a_class(stored):
    source = TfdsSource("boxes", "val", data_dir=stored, class_names=("ant", "cat", "dog"))
    assert source.category_ids == (2, 0, 1)
    assert source.report.examples[Rule.ABSENT_CLASS] == ["ant"]


def test_a_class_without_objects_is_left_out_on_request(tmp_path):
    one = [next((key, e) for key, e in examples("train") if len(e["objects"]) == 1)]
    store("cats", tmp_path, features(), one)
    source = TfdsSource("cats", "train", data_dir=tmp_path, class_names=("cat",))
    assert (source.class_names, source.category_ids) == (("cat",), (0,))
    np.testing.assert_array_equal(source.records.labels, [0])
    assert source.report.examples == {Rule.UNUSED_CLASS: ["dog"]}


def test_errors(stored, tmp_path):
    with pytest.raises(ValueError, match=r"(?s)given \(1\): cat.*in the data \(2\): cat, dog"):
        TfdsSource("boxes", "train", data_dir=stored, class_names=("cat",))
    with pytest.raises(ValueError, match="Unknown split 'test'"):
        TfdsSource("boxes", "test", data_dir=stored)
    for name in ("no_such_data_set", "coco/2017"):
        with pytest.raises(FileNotFoundError, match="download_and_prepare"):
            TfdsSource(name, "train", data_dir=tmp_path)


def test_data_without_names_or_boxes_are_refused(tmp_path):
    for name, found, message in (
        ("unnamed", features(with_names=False), "not a ClassLabel"),
        (
            "imagesonly",
            tfds.features.FeaturesDict({"image": tfds.features.Image()}),
            "no feature 'objects', only image",
        ),
    ):
        keys = set(found)
        tfds.dataset_builders.store_as_tfds_dataset(
            name,
            "1.0.0",
            found,
            {"train": ((i, {k: e[k] for k in keys}) for i, e in examples("val"))},
            data_dir=tmp_path,
            file_format="tfrecord",
        )
        with pytest.raises(ValueError, match=message):
            TfdsSource(name, "train", data_dir=tmp_path)


def damaged(data_dir, edit):
    """A tfrecord data set of seven examples whose training file went through `edit`."""
    builder = store("damaged", data_dir, features(), examples("train"))
    (path,) = builder.info.splits["train"].filepaths
    path.write_bytes(edit(path.read_bytes()))
    return path


def test_damaged_images_are_dropped(tmp_path):
    def edit(position, record):
        """Breaks the signature of the third image and the pixels of the fifth."""
        start = record.index(b"\x89PNG")
        if position == 2:
            return record[:start] + b"____" + record[start + 4 :]
        if position == 4:
            return record[: start + 200] + bytes(400) + record[start + 600 :]
        return record

    damaged(tmp_path, lambda data: rewritten(data, edit))
    headers = TfdsSource("damaged", "train", data_dir=tmp_path)
    (damaged_file,) = headers.report.examples[Rule.UNREADABLE_IMAGE]
    assert damaged_file.startswith("2.png: not a readable image")
    assert headers.records.image_ids == [100, 101, 103, 104, 105, 106]
    np.testing.assert_array_equal(headers.load_image(2), random_image(*SIZES[3], seed=3))
    assert headers.try_load_image(3) is None
    assert headers.unreadable == 1
    decoded = TfdsSource("damaged", "train", data_dir=tmp_path, verify="decode")
    assert decoded.records.image_ids == [100, 101, 103, 105, 106]


def test_damaged_records_are_dropped_and_named(tmp_path):
    def edit(data):
        """Flips a bit of the second record, and the third is no example for all its checksum."""
        data = rewritten(data, lambda i, record: b"no example" if i == 2 else record)
        (first,) = struct.unpack_from("<Q", data)
        (second,) = struct.unpack_from("<Q", data, first + 16)
        at = first + 16 + 12 + second // 2
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    path = damaged(tmp_path, edit)
    source = TfdsSource("damaged", "train", data_dir=tmp_path)
    assert source.records.image_ids == [100, 103, 104, 105, 106]
    np.testing.assert_array_equal(source.load_image(1), random_image(*SIZES[3], seed=3))
    checksum, damage = source.report.examples[Rule.UNREADABLE_ANNOTATION]
    assert "example 1 of damaged train is damaged: the record at byte" in checksum
    assert path.name in checksum
    assert "example 2 of damaged train is damaged" in damage
    # What happens to a file during the run is noticed as well.
    source = TfdsSource("damaged", "train", data_dir=tmp_path)
    path.write_bytes(path.read_bytes()[:-100] + bytes(100))
    with pytest.raises(ValueError, match="example 6 of damaged train is damaged"):
        source.load_image(4)


@pytest.mark.parametrize("key", ["image", "image/id", "image/filename", "objects/label"])
def test_records_without_a_feature_are_dropped_and_named(tmp_path, key):
    name = bytes([len(key)]) + key.encode()  # as protocol buffers hold it

    def edit(position, record):
        """Gives the feature of the second record another name."""
        assert name in record
        return record.replace(name, name[:-1] + b"X") if position == 1 else record

    damaged(tmp_path, lambda data: rewritten(data, edit))
    source = TfdsSource("damaged", "train", data_dir=tmp_path)
    assert source.records.image_ids == [100, 102, 103, 104, 105, 106]
    (reason,) = source.report.examples[Rule.UNREADABLE_ANNOTATION]
    assert "example 1 of damaged train is damaged" in reason


def test_labels_of_no_class_are_dropped_and_counted(tmp_path):
    def with_unknown():
        for i, example in examples("train"):
            for element in example["objects"][:1]:
                element["label"] = -1 if i == 1 else element["label"]
            yield i, example

    store("unknown", tmp_path, features(), with_unknown())
    source = TfdsSource("unknown", "train", data_dir=tmp_path)
    assert source.report.examples[Rule.UNKNOWN_CATEGORY] == ["1.png: label -1"]
    assert source.records.max_objects == 2
    assert len(source.records.boxes) == 5


VOC_BOXES = [
    ("dog", (1, 1, 30, 40), 0),  # the whole image
    ("cat", (7, 12, 19, 40), 1),
    ("dog", (11.5, 3, 29.25, 17), 0),
    ("cat", (9, 5, 9, 20), 0),  # a click without a drag
]


@pytest.mark.parametrize(
    ("name", "one_based"), [("voc:1.0.0", None), ("bccd:1.0.0", None), ("mine", True)]
)
def test_the_boxes_of_an_xml_file_are_the_same_through_tfds(voc, tmp_path, name, one_based):
    voc.add("a", *VOC_BOXES, size=(40, 30), suffix="png")
    voc.split("train", "a")
    expected = VocSource(voc.root, "train")

    height, width = 40, 30
    objects = [
        {
            # As TFDS's builders of VOC's XML files: the numbers of the file by the size.
            "bbox": tfds.features.BBox(
                ymin=box[1] / height, xmin=box[0] / width, ymax=box[3] / height, xmax=box[2] / width
            ),
            "label": label,
            "is_difficult": difficult == 1,
        }
        for label, box, difficult in VOC_BOXES
    ]
    found = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "objects": tfds.features.Sequence(
            {
                "bbox": tfds.features.BBoxFeature(),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                "is_difficult": np.bool_,
            }
        ),
    }
    example = {"image": random_image(height, width), "objects": objects}
    stem = name.partition(":")[0]
    store(stem, tmp_path, tfds.features.FeaturesDict(found), [("a", example)])
    source = TfdsSource(name, "train", data_dir=tmp_path, one_based=one_based)
    np.testing.assert_allclose(source.records.boxes, expected.records.boxes, rtol=0, atol=1e-5)
    for field in ("labels", "ignore"):
        np.testing.assert_array_equal(
            getattr(source.records, field), getattr(expected.records, field)
        )
    assert source.report.counts == expected.report.counts
    assert source.report.count(Rule.NO_EXTENT) == 1

    as_written = TfdsSource(name, "train", data_dir=tmp_path, one_based=False)
    np.testing.assert_allclose(as_written.records.boxes[0], [1, 1, 30, 40], rtol=1e-6)


def test_a_damaged_description_is_named(tmp_path):
    store("described", tmp_path, features(), examples("val"))
    path = tmp_path / "described" / "1.0.0" / "features.json"
    path.write_text("[" + path.read_text())
    with pytest.raises(ValueError, match=r"data set described in .* cannot be opened"):
        TfdsSource("described", "train", data_dir=tmp_path)
    path = tmp_path / "described" / "1.0.0" / "dataset_info.json"
    path.write_bytes(b"\xff\x00")
    with pytest.raises(ValueError, match=r"data set described in .* cannot be opened"):
        TfdsSource("described", "train", data_dir=tmp_path)


def test_cut_off_file_is_named(tmp_path):
    path = damaged(tmp_path, lambda data: data[:-100])
    with pytest.raises(ValueError, match=f"{path.name} is damaged"):
        TfdsSource("damaged", "train", data_dir=tmp_path)
    # A slice that ends before the damage is unharmed.
    assert len(TfdsSource("damaged", "train[:6]", data_dir=tmp_path)) == 6
