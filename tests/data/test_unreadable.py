"""How many unreadable images end a run, and which they are."""

import pytest
from memory_source import MemorySource

from ipg_jax.data import CocoSource, UnreadableImagesError, UnreadableWindow
from ipg_jax.data.unreadable import WINDOW, check_evaluated, check_listed


class BrokenSource(MemorySource):
    """Of whose images none can be read."""

    def load_image(self, index):
        raise OSError(f"no {index}")


def test_a_run_is_judged_by_its_last_images():
    window = UnreadableWindow(MemorySource(5000), 0.1)
    for step in range(1, 4):
        window.add(step, images=32, unreadable=32)
    with pytest.raises(
        UnreadableImagesError, match=r"step 4: 128 of the last 128 images of memory"
    ):
        window.add(4, images=32, unreadable=32)


def test_what_lies_long_back_counts_no_more():
    window = UnreadableWindow(MemorySource(5000), 0.1)
    for step in range(100):
        # A tenth of each window is unreadable, which is not more than a tenth.
        window.add(step, images=100, unreadable=WINDOW // 10 if step % 10 == 0 else 0)
    with pytest.raises(UnreadableImagesError, match=r"101 of the last 1000 images .*=0\.1 allows"):
        window.add(100, images=100, unreadable=101)


def test_a_small_data_set_is_judged_as_a_whole():
    window = UnreadableWindow(MemorySource(20), 0.1)
    for step in range(50):  # one bad file of twenty, in every epoch
        window.add(step, images=4, unreadable=int(step % 5 == 0))
    with pytest.raises(UnreadableImagesError, match="3 of the last 20 images"):
        window.add(50, images=4, unreadable=3)


def test_every_image_may_be_unreadable_if_the_config_says_so():
    window = UnreadableWindow(MemorySource(8), 1.0)
    for step in range(10):
        window.add(step, images=8, unreadable=8)


def test_the_message_names_files_and_reasons():
    source = BrokenSource(20)
    window = UnreadableWindow(source, 0.1)
    for index in range(7):
        source.try_load_image(index)
    with pytest.raises(UnreadableImagesError) as caught:
        window.add(1, images=8, unreadable=7)
    message = str(caught.value)
    assert "\n  image 6: no 6\n" in message
    assert "and 2 more in this process" in message
    assert "raise config.data.max_unreadable" in message
    with pytest.raises(UnreadableImagesError, match="This process had none of them"):
        UnreadableWindow(MemorySource(20), 0.1).add(1, images=8, unreadable=7)


def test_images_that_are_missing_at_the_start_are_counted_with_the_rest(coco):
    for image_id in range(1, 11):
        coco.add_image(image_id)
    (coco.images / "1.png").unlink()
    source = CocoSource(*coco.write())
    assert (source.expected_images, len(source)) == (10, 9)
    check_listed(source, 0.1)
    check_evaluated(source, 9, 0.1)
    with pytest.raises(UnreadableImagesError, match=r"8 of 10 images .* were evaluated"):
        check_evaluated(source, 8, 0.1)
    (coco.images / "2.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImagesError) as caught:
        check_listed(CocoSource(*coco.write()), 0.1)
    message = str(caught.value)
    assert f"2 of 10 images of {coco.json} cannot be used" in message
    assert "1.png: cannot read" in message
    assert "2.png: not a readable image" in message
    assert "go on with the other 8" in message
