import numpy as np
import pytest
import tensorflow_datasets as tfds
from made_files import random_image

from ipg_jax.data import Rule, TfdsSource

SIZES = [(20 + 2 * i, 30) for i in range(7)]


def examples(split):
    """Image `i` has `i % 3` objects; the second object of image 5 is a crowd."""
    for i, (height, width) in enumerate(SIZES[: 7 if split == "train" else 2]):
        boxes = [(0.1, 0.2, 0.5, 0.6), (0.5, 0.5, 1.0, 1.0)][: i % 3]
        yield (
            i,
            {
                "image": random_image(height, width, seed=i),
                "image/id": 100 + i,
                "image/filename": f"{i}.png",
                "objects": [
                    {
                        "bbox": tfds.features.BBox(*box),
                        "label": j,
                        "is_crowd": i == 5 and j == 1,
                        "area": 17,
                    }
                    for j, box in enumerate(boxes)
                ],
            },
        )


def features(with_names=True):
    label = tfds.features.ClassLabel(names=["cat", "dog"]) if with_names else np.int64
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "image/id": np.int64,
            "image/filename": tfds.features.Text(),
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": label,
                    "is_crowd": np.bool_,
                    "area": np.int64,
                }
            ),
        }
    )


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
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        "damaged",
        "1.0.0",
        features(),
        {"train": examples("train")},
        data_dir=data_dir,
        file_format="tfrecord",
        disable_shuffling=True,
    )
    (path,) = builder.info.splits["train"].filepaths
    path.write_bytes(edit(path.read_bytes()))
    return path


def test_damaged_images_are_dropped(tmp_path):
    signature = b"\x89PNG"

    def edit(data):
        """Breaks the signature of the third image and the pixels of the fifth."""
        starts = [i for i in range(len(data)) if data.startswith(signature, i)]
        data = data[: starts[2]] + b"____" + data[starts[2] + 4 :]
        return data[: starts[4] + 200] + bytes(400) + data[starts[4] + 600 :]

    damaged(tmp_path, edit)
    headers = TfdsSource("damaged", "train", data_dir=tmp_path)
    assert headers.report.examples[Rule.UNREADABLE_IMAGE] == ["2.png"]
    assert headers.records.image_ids == [100, 101, 103, 104, 105, 106]
    np.testing.assert_array_equal(headers.load_image(2), random_image(*SIZES[3], seed=3))
    assert headers.try_load_image(3) is None
    assert headers.unreadable == 1
    decoded = TfdsSource("damaged", "train", data_dir=tmp_path, verify="decode")
    assert decoded.records.image_ids == [100, 101, 103, 105, 106]


def test_cut_off_file_is_named(tmp_path):
    path = damaged(tmp_path, lambda data: data[:-100])
    with pytest.raises(ValueError, match=f"{path.name} is damaged"):
        TfdsSource("damaged", "train", data_dir=tmp_path)
    # A slice that ends before the damage is unharmed.
    assert len(TfdsSource("damaged", "train[:6]", data_dir=tmp_path)) == 6
