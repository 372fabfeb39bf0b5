"""What a source reports of its images, and that it reads them as prediction does."""

import dataclasses
import io

import numpy as np
import pytest
from made_files import encode, random_image
from PIL import Image

from ipg_jax.data import CocoSource, Rule
from ipg_jax.files import read_regular
from ipg_jax.images import ImageOptions, decode_image


def test_orientations_that_no_size_decides_are_applied_and_reported(coco):
    square, turned = random_image(40, 40), random_image(40, 60)
    coco.add_image(1, size=(40, 40))
    coco.add_image(2)
    (coco.images / "1.png").write_bytes(encode(square, orientation=6))
    (coco.images / "2.png").write_bytes(encode(turned, orientation=3))
    for exif, rule, images in (
        ("auto", Rule.EXIF_UNDECIDED, (np.rot90(square, -1), np.rot90(turned, 2))),
        ("apply", Rule.EXIF_APPLIED, (np.rot90(square, -1), np.rot90(turned, 2))),
        ("ignore", Rule.EXIF_IGNORED, (square, turned)),
    ):
        source = CocoSource(*coco.write(), image_options=ImageOptions(exif=exif))
        assert source.report.examples[rule] == ["1.png", "2.png"]
        for index, image in enumerate(images):
            np.testing.assert_array_equal(source.load_image(index), image)
            # What prediction sees of the file is what training saw.
            np.testing.assert_array_equal(
                decode_image(read_regular(source.paths[index]), options=source.image_options),
                image,
            )


def test_files_that_are_not_opened_at_start_up_are_reported_when_they_are_loaded(coco, caplog):
    floats, deep = io.BytesIO(), np.full((2, 3), 1600, np.uint16)
    Image.fromarray(np.full((2, 3), 0.5, np.float32)).save(floats, "TIFF")
    files = {
        1: encode(random_image(4, 4), orientation=6),
        2: encode(random_image(4, 4), orientation=3),
        3: floats.getvalue(),
        4: encode(deep),
        5: encode(random_image(4, 6), orientation=6),
        6: encode(random_image(4, 4), orientation=2),
    }
    for image_id, size in enumerate([(4, 4), (4, 4), (2, 3), (2, 3), (4, 6), (4, 4)], start=1):
        coco.add_image(image_id, size=size)
        (coco.images / f"{image_id}.png").write_bytes(files[image_id])
    del coco.content["images"][5]["height"]
    options = ImageOptions(sample_bits=12)
    expected = CocoSource(*coco.write(), image_options=options).report.counts
    source = CocoSource(*coco.write(), image_options=options, verify="none")
    # The last one had to be opened at once, for want of an annotated size.
    empty = {Rule.EMPTY_IMAGE: 6}
    assert source.report.counts == {Rule.EXIF_UNDECIDED: 1, Rule.SIZE_MISSING: 1, **empty}
    for index in (0, 1, 0, 2, 3, 4, 5, 0):
        source.load_image(index)
    assert source.report.counts == expected
    assert source.report.examples[Rule.EXIF_UNDECIDED] == ["6.png", "1.png", "2.png"]
    logged = [record.getMessage() for record in caplog.records]
    assert [line.rpartition("(")[2] for line in logged] == [
        "3.png, ...)",
        "4.png, ...)",
        "5.png, ...)",
    ]


def test_depths_and_sizes_of_images_are_in_the_report(coco):
    for image_id in range(1, 6):
        coco.add_image(image_id, size=(2, 3))
    floats, deep = io.BytesIO(), np.full((2, 3), 1600, np.uint16)
    Image.fromarray(np.full((2, 3), 0.5, np.float32)).save(floats, "TIFF")
    (coco.images / "1.png").write_bytes(floats.getvalue())  # the contents decide the format
    (coco.images / "2.png").write_bytes(encode(deep))
    (coco.images / "3.png").write_bytes(encode(random_image(20, 30)))
    limits = ImageOptions(max_pixels=500)
    refused = CocoSource(*coco.write(), image_options=limits)
    assert refused.records.image_ids == [1, 4, 5]
    assert refused.report.lost == 2
    assert refused.report.examples[Rule.FLOATS] == ["1.png"]
    (unknown,) = refused.report.examples[Rule.UNKNOWN_RANGE]
    (large,) = refused.report.examples[Rule.TOO_LARGE]
    assert "config.data.sample_bits" in unknown
    assert "600 pixels, more than config.data.max_image_pixels=500" in large
    options = dataclasses.replace(limits, max_pixels=600, sample_bits=12)
    taken = CocoSource(*coco.write(), image_options=options)
    assert taken.report.examples[Rule.DEEP] == ["2.png"]
    assert (taken.load_image(0) == 128).all()
    assert (taken.load_image(1) == 100).all()


@pytest.mark.parametrize("verify", ["headers", "decode"])
def test_files_of_one_name_in_two_folders_are_told_apart(coco, verify):
    for image_id, folder in enumerate(("day", "night", "dusk"), start=1):
        coco.add_image(image_id, file_name=f"{folder}/1.png")
        (coco.images / folder).mkdir()
    (coco.images / "dusk" / "1.png").write_bytes(encode(random_image(40, 60)))
    (coco.images / "day" / "1.png").write_bytes(b"no image")
    report = CocoSource(*coco.write(), verify=verify).report
    unreadable = report.examples[Rule.UNREADABLE_IMAGE]
    assert [text.partition(": ")[0] for text in unreadable] == ["day/1.png", "night/1.png"]
