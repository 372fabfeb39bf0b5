"""What a source reports of its images, and that it reads them as prediction does."""

import dataclasses
import io

import numpy as np
import pytest
from made_files import encode, random_image
from PIL import Image

from ipg_jax.data import CocoSource, ImageRules, Rule, decode_image
from ipg_jax.files import read_regular


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
        source = CocoSource(*coco.write(), image_rules=ImageRules(exif=exif))
        assert source.report.examples[rule] == ["1.png", "2.png"]
        for index, image in enumerate(images):
            np.testing.assert_array_equal(source.load_image(index), image)
            # What prediction sees of the file is what training saw.
            np.testing.assert_array_equal(
                decode_image(read_regular(source.paths[index]), rules=source.image_rules),
                image,
            )


def test_depths_and_sizes_of_images_are_in_the_report(coco):
    for image_id in range(1, 6):
        coco.add_image(image_id, size=(2, 3))
    floats, deep = io.BytesIO(), np.full((2, 3), 1600, np.uint16)
    Image.fromarray(np.full((2, 3), 0.5, np.float32)).save(floats, "TIFF")
    (coco.images / "1.png").write_bytes(floats.getvalue())  # the contents decide the format
    (coco.images / "2.png").write_bytes(encode(deep))
    (coco.images / "3.png").write_bytes(encode(random_image(20, 30)))
    limits = ImageRules(max_pixels=500)
    refused = CocoSource(*coco.write(), image_rules=limits)
    assert refused.records.image_ids == [1, 4, 5]
    assert refused.report.lost == 2
    assert refused.report.examples[Rule.FLOATS] == ["1.png"]
    (unknown,) = refused.report.examples[Rule.UNKNOWN_RANGE]
    (large,) = refused.report.examples[Rule.TOO_LARGE]
    assert "config.data.sample_bits" in unknown
    assert "600 pixels, more than config.data.max_image_pixels=500" in large
    rules = dataclasses.replace(limits, max_pixels=600, sample_bits=12)
    taken = CocoSource(*coco.write(), image_rules=rules)
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
