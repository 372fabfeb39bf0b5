"""Folders of VOC's layout as tools and people make them, and files made to do harm."""

import os
import shutil

import numpy as np
import pytest
from made_files import VocFolder, encode, random_image

from ipg_jax.data import Rule, VocSource

BOX = ("dog", (2, 3, 20, 30), 0)


def edit_xml(voc: VocFolder, stem: str, *replacements: tuple[str, str]) -> None:
    path = voc.root / "Annotations" / f"{stem}.xml"
    text = path.read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def write_list(voc: VocFolder, data: bytes) -> None:
    (voc.root / "ImageSets" / "Main" / "train.txt").write_bytes(data)


@pytest.mark.parametrize(
    ("text", "ignored", "reported"),
    [
        *((t, False, False) for t in ("0", "false", "False", " 0\n", "no", "0.0")),
        *((t, True, False) for t in ("1", "true", "TRUE", "yes", "1.0")),
        *((t, False, True) for t in ("Unspecified", "", "2", "-1", "nan")),
    ],
)
def test_difficult_in_any_spelling(voc, text, ignored, reported):
    voc.add("a", ("dog", (2, 3, 20, 30), text))
    voc.split("train", "a")
    source = VocSource(voc.root, "train")
    np.testing.assert_array_equal(source.records.ignore, [ignored])
    examples = source.report.examples.get(Rule.UNREADABLE_FLAG, [])
    assert len(examples) == reported
    assert all(example.startswith("a.xml: difficult=") for example in examples)


def test_difficult_may_be_left_out(voc):
    voc.add("a", BOX)
    voc.split("train", "a")
    edit_xml(voc, "a", ("<difficult>0</difficult>", ""))
    source = VocSource(voc.root, "train")
    np.testing.assert_array_equal(source.records.ignore, [False])
    assert source.report.counts == {}


NAMES = ["IMG (1)", "IMG 1", "cam1/a", "cam1/deep/b", "é"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("\n".join(NAMES).encode(), id="plain"),
        pytest.param("\r\n".join(NAMES).encode("utf-8-sig"), id="windows"),
        pytest.param("\n".join(NAMES).encode("utf-16"), id="utf-16"),
        pytest.param("\n".join(NAMES).encode("utf-16-be"), id="utf-16 without a mark"),
        pytest.param("\n".join(f"{n}.png" for n in NAMES).encode(), id="suffixes"),
        pytest.param("\n".join(f"{n}.xml " for n in NAMES).encode(), id="suffixes of annotations"),
        pytest.param("\n".join(f"{n}   1" for n in NAMES).encode(), id="flags"),
        pytest.param("\n".join(f"./{n}".replace("/", "\\") for n in NAMES).encode(), id="windows"),
        pytest.param("\n".join(f"/x/JPEGImages/{n}.png" for n in NAMES).encode(), id="paths"),
    ],
)
@pytest.mark.parametrize("class_names", [(), ("dog",)])
def test_lists_as_tools_write_them(voc, data, class_names):
    for folder in ("JPEGImages", "Annotations"):
        (voc.root / folder / "cam1" / "deep").mkdir(parents=True)
    for name in NAMES:
        voc.add(name, BOX, suffix="png")
    write_list(voc, data)
    source = VocSource(voc.root, "train", class_names=class_names)
    assert source.records.image_ids == NAMES
    assert source.records.file_names == [f"{name}.png" for name in NAMES]
    assert source.load_image(2).shape == (40, 60, 3)
    assert source.report.counts == {}


def test_a_list_in_no_encoding_is_an_error_with_its_name(voc):
    voc.add("a", BOX)
    write_list(voc, "é\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"train\.txt is not text in the encoding utf-8.*UTF-8"):
        VocSource(voc.root, "train")


def test_a_line_that_can_be_no_name_is_reported(voc):
    voc.add("a", BOX)
    voc.split("train", "a", "x\x00y/b", "z\x00")
    source = VocSource(voc.root, "train")
    assert source.records.image_ids == ["a"]
    first, second = source.report.examples[Rule.UNREADABLE_ANNOTATION]
    assert r"x\x00y/b.xml: " in first
    assert r"z\x00.xml: " in second


def test_other_files_beside_the_images_do_no_harm(voc):
    voc.add("a", BOX)
    voc.split("train", "a")
    folder = voc.root / "JPEGImages"
    for name in ("a.json", "a.txt", "a.xml", "a", "Thumbs.db", ".a.png", "a.png.md5"):
        (folder / name).write_text("{}")
    (folder / "a.d").mkdir()
    source = VocSource(voc.root, "train")
    assert source.records.file_names == ["a.jpg"]
    assert source.report.counts == {}


def test_of_two_images_of_one_name_the_one_that_the_annotation_names_is_read(voc):
    for stem in "abc":
        voc.add(stem, BOX)
        mask = encode(np.zeros((40, 60, 3), np.uint8))
        (voc.root / "JPEGImages" / f"{stem}.png").write_bytes(mask)
    edit_xml(voc, "b", ("b.jpg", "C:\\data\\B.PNG"))
    edit_xml(voc, "c", ("c.jpg", "other.jpg"))
    voc.split("train", "a", "b", "c")
    source = VocSource(voc.root, "train")
    assert source.records.file_names == ["a.jpg", "b.png"]
    assert source.load_image(0).any()
    assert source.report.examples == {
        Rule.NAMED_FILE: ["a.jpg", "b.png"],
        Rule.AMBIGUOUS_FILE: ["c.jpg"],
    }


@pytest.mark.parametrize("is_flat", [False, True])
def test_several_annotations_of_one_name_are_ambiguous(voc, is_flat):
    voc.split("train", "a", "b")
    if is_flat:
        flat(voc)
        folder, stem, other = voc.root / "train", "train/a", "train/b"
    else:
        voc.add("a", BOX)
        voc.add("b", BOX)
        folder, stem, other = voc.root / "Annotations", "a", "b"
    text = (folder / "a.xml").read_text()
    (folder / "a.XML").write_text(text.replace("dog", "log"))
    source = VocSource(voc.root, "train")
    assert source.records.image_ids == [other]
    assert "log" not in source.class_names
    assert source.report.examples == {Rule.AMBIGUOUS_ANNOTATION: [f"{stem}.xml"]}
    assert source.report.lost == 1


@pytest.mark.parametrize(
    ("others", "named", "taken"),
    [
        (("a.JPG",), "a.jpg", "a.jpg"),
        (("a.JPG",), "a.JPG", "a.JPG"),
        (("a.JPG",), "A.jpg", None),
        (("a.jpeg", "a.png"), "a.jpeg", "a.jpeg"),
        (("a.jpeg", "a.png"), "a.PNG", "a.png"),
        (("a.jpeg", "a.png"), "a.tif", None),
    ],
)
def test_of_images_whose_names_differ_in_the_suffix_the_named_one_is_read(
    voc, others, named, taken
):
    for stem in "ab":
        voc.add(stem, BOX)
    edit_xml(voc, "a", ("a.jpg", named))
    for other in others:
        shutil.copy(voc.root / "JPEGImages" / "b.jpg", voc.root / "JPEGImages" / other)
    voc.split("train", "a", "b")
    source = VocSource(voc.root, "train")
    assert source.records.file_names == ([taken] if taken else []) + ["b.jpg"]
    rule = Rule.NAMED_FILE if taken else Rule.AMBIGUOUS_FILE
    (name,) = source.report.examples[rule]
    assert taken in (None, name)


@pytest.mark.parametrize(
    ("encoding", "declaration", "name"),
    [
        ("utf-8", "", "Fußgänger"),
        ("utf-8-sig", "", "Fußgänger"),
        ("utf-8", '\n <?xml version="1.0"?>', "Fußgänger"),
        ("latin-1", '<?xml version="1.0" encoding="ISO-8859-1"?>', "Fußgänger"),
        ("cp1252", "<?xml version='1.0' encoding='windows-1252'?>", "Fußgänger"),
        ("gbk", '<?xml version="1.0" encoding="GB2312"?>', "行人"),
        ("shift_jis", '<?xml version="1.0" encoding="Shift_JIS"?>', "歩行者"),
        ("utf-16", '<?xml version="1.0" encoding="utf-16"?>', "歩行者"),
        ("utf-16-le", '<?xml version="1.0" encoding="utf-16"?>', "歩行者"),
        ("utf-8", '<?xml version="1.0" encoding="utf-16"?>', "歩行者"),  # converted since
    ],
)
def test_annotations_in_any_declared_encoding(voc, encoding, declaration, name):
    voc.add("a", (name, (2, 3, 20, 30), 0))
    voc.split("train", "a")
    path = voc.root / "Annotations" / "a.xml"
    path.write_bytes((declaration + path.read_text()).encode(encoding))
    source = VocSource(voc.root, "train")
    assert source.class_names == (name,)
    assert source.report.counts == {}


def test_undeclared_encodings_are_read_where_only_paths_need_them(voc):
    for stem, name in (("a", "dog"), ("b", "Fußgänger")):
        voc.add(stem, (name, (2, 3, 20, 30), 0))
        path = voc.root / "Annotations" / f"{stem}.xml"
        text = path.read_text().replace("<size>", "<path>D:/Bäume/x.jpg</path><size>")
        path.write_bytes(text.encode("latin-1"))
    voc.split("train", "a", "b")
    source = VocSource(voc.root, "train")
    assert source.records.image_ids == ["a"]
    (reason,) = source.report.examples[Rule.UNREADABLE_ANNOTATION]
    assert "b.xml: the name" in reason


def test_a_default_namespace_is_no_matter(voc):
    voc.add("a", BOX)
    voc.split("train", "a")
    edit_xml(voc, "a", ("<annotation>", '<annotation xmlns="http://example.org/voc">'))
    source = VocSource(voc.root, "train")
    np.testing.assert_array_equal(source.records.boxes, [[1, 2, 20, 30]])
    assert source.report.counts == {}


def test_objects_without_a_name_are_dropped_and_counted(voc):
    voc.add("a", BOX, ("", (2, 3, 20, 30), 0), (" ", (2, 3, 20, 30), 0))
    voc.split("train", "a")
    source = VocSource(voc.root, "train")
    assert source.class_names == ("dog",)
    assert source.report.counts == {Rule.NO_CLASS: 2}


def test_objects_with_several_names_or_boxes_are_counted(voc):
    voc.add("a", BOX, ("cat", (1, 1, 9, 9), 0), BOX)
    voc.split("train", "a")
    other = "<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>12</xmax><ymax>12</ymax></bndbox>"
    path = voc.root / "Annotations" / "a.xml"
    text = path.read_text().replace("<name>cat</name>", "<name>cat</name><name>ant</name>")
    path.write_text(
        text.replace(
            "</bndbox></object><object><name>cat", f"</bndbox>{other}</object><object><name>cat"
        )
    )
    source = VocSource(voc.root, "train")
    assert source.class_names == ("cat", "dog")
    np.testing.assert_array_equal(source.records.boxes[0], [1, 2, 20, 30])
    assert source.report.examples == {Rule.REPEATED_ELEMENT: ["a.xml"]}
    assert source.report.counts == {Rule.REPEATED_ELEMENT: 2}


def flat(voc: VocFolder) -> None:
    """Turns the folder into one of Roboflow's exports: a folder for each split."""
    for split, stems in (("train", ("a", "b")), ("valid", ("c",))):
        folder = voc.root / split
        folder.mkdir()
        for stem in stems:
            voc.add(stem, BOX if stem != "c" else ("ant", (1, 1, 5, 5), 0))
            shutil.move(voc.root / "JPEGImages" / f"{stem}.jpg", folder)
            shutil.move(voc.root / "Annotations" / f"{stem}.xml", folder)
    for folder in ("JPEGImages", "Annotations", "ImageSets"):
        shutil.rmtree(voc.root / folder)
    (voc.root / "README.roboflow.txt").write_text("exported")


def test_flat_folders_without_lists(voc):
    flat(voc)
    (voc.root / "train" / "unlabelled.png").write_bytes(encode(random_image(8, 8)))
    train = VocSource(voc.root, "train")
    assert train.records.image_ids == ["train/a", "train/b"]
    assert train.class_names == ("ant", "dog")  # of all folders: labels do not depend on the split
    assert train.load_image(1).shape == (40, 60, 3)
    (reason,) = train.report.examples[Rule.UNREADABLE_ANNOTATION]
    assert "train/unlabelled.xml: No such file" in reason
    both = VocSource(voc.root, "valid+train")
    assert both.records.image_ids == ["valid/c", "train/a", "train/b"]
    assert VocSource(voc.root / "valid", ".").records.image_ids == ["c"]
    with pytest.raises(OSError, match=r"ImageSets/Main/test\.txt, nor a folder .*test"):
        VocSource(voc.root, "test")


@pytest.mark.parametrize(
    ("links", "split", "ids", "unfollowed"),
    [
        pytest.param({"train/up": ".."}, "train", "ab", ["up"], id="to the parent"),
        pytest.param({"train/x": "."}, "train", "ab", ["x"], id="to itself"),
        pytest.param({"up": "."}, ".", "abc", ["up"], id="to the root"),
        pytest.param({"a": "train", "z": "train"}, ".", "abc", ["a", "z"], id="to a sibling"),
        pytest.param({"all": "train"}, "all", "ab", [], id="a split that is a link"),
        pytest.param({"all": "train"}, "train+all", "ab", [], id="a split beside its link"),
        pytest.param(
            {"train/x": "../valid", "valid/x": "../train"}, "train", "abc", ["x/x"], id="crossed"
        ),
        pytest.param(
            {"train/x": "../../out", "out/up": "."}, "train", "ab", ["x/up"], id="outside"
        ),
        pytest.param(
            {"out/in": "../VOC/train", "train/x": "../../out"},
            "train",
            "ab",
            ["x/in"],
            id="from outside",
        ),
    ],
)
def test_links_between_folders_multiply_no_image(voc, links, split, ids, unfollowed):
    flat(voc)
    (voc.root.parent / "out").mkdir()
    for link, target in links.items():
        (voc.root.parent / link if "out" in link else voc.root / link).symlink_to(target)
    source = VocSource(f"file://{voc.root}", split)  # which TensorFlow reads as well
    folder_of = {"a": "train", "b": "train", "c": "valid"}
    assert sorted(source.records.image_ids) == [f"{folder_of[i]}/{i}" for i in ids]
    links = [os.path.join("" if split == "." else split, link) for link in unfollowed]
    assert source.report.examples.get(Rule.UNFOLLOWED_LINK, []) == links
    repeated = source.report.count(Rule.DUPLICATE_IMAGE)
    assert repeated == (2 if "+" in split else 0)
    assert [source.load_image(i).shape for i in range(len(ids))] == [(40, 60, 3)] * len(ids)


def test_links_to_images_are_reported_as_one_file_of_several_ids(voc):
    flat(voc)
    (voc.root / "train" / "z.jpg").symlink_to("a.jpg")
    (voc.root / "train" / "z.xml").symlink_to("a.xml")
    source = VocSource(voc.root, "train")
    assert source.records.image_ids == ["train/a", "train/b", "train/z"]
    assert source.report.examples == {Rule.SHARED_FILE: ["train/z.jpg"]}


def test_lists_may_name_images_by_links(voc):
    (voc.root / "JPEGImages" / "day").mkdir()
    (voc.root / "Annotations" / "day").mkdir()
    voc.add("day/a", BOX, suffix="png")
    for folder in ("JPEGImages", "Annotations"):
        (voc.root / folder / "night").symlink_to("day")
        (voc.root / folder / "up").symlink_to("..")
    voc.split("train", "night/a", "day/a")
    source = VocSource(voc.root, "train")
    assert source.records.file_names == ["day/a.png"]
    assert source.report.examples == {Rule.DUPLICATE_IMAGE: ["day/a"]}

    (voc.root / "Annotations" / "night").unlink()
    shutil.copytree(voc.root / "Annotations" / "day", voc.root / "Annotations" / "night")
    source = VocSource(voc.root, "train")  # an annotation of its own for each id
    assert source.records.image_ids == ["night/a", "day/a"]
    assert source.report.examples == {Rule.SHARED_FILE: ["day/a.png"]}


def test_lists_and_flat_folders_are_not_joined(voc):
    voc.add("a", BOX)
    voc.split("train", "a")
    (voc.root / "valid").mkdir()
    with pytest.raises(ValueError, match=r"valid of the splits are folders"):
        VocSource(voc.root, "train+valid")


def document(entities: list[str]) -> str:
    """A document with these entities that uses the last."""
    declared = "".join(f'<!ENTITY e{i} "{value}">' for i, value in enumerate(entities))
    return f"<!DOCTYPE annotation [{declared}]><annotation>&e{len(entities) - 1};</annotation>"


HARMFUL = {
    "chain": (document(["x", *(f"&e{i};" for i in range(50_000))]), "document type"),
    "laughs": (document(["ha", *(10 * f"&e{i};" for i in range(30))]), "document type"),
    "external": ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "document type"),
    "deep": ("<annotation>" + "<a>" * 200_000, "not sound XML"),
    "deep and sound": (f"<annotation>{'<a>' * 9999}{'</a>' * 9999}</annotation>", "nests elements"),
    "html": ("<html><body>not found</body></html>", "outermost element is <html>"),
    "empty": ("", "not sound XML"),
    "unknown encoding": ('<?xml version="1.0" encoding="martian"?><annotation/>', "martian"),
    "slow encoding": ('<?xml version="1.0" encoding="punycode"?><annotation/>', "punycode"),
    "escape codes": ("<annotation><\x1b[2J\n></annotation>", "not sound XML"),
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_files_that_are_no_annotations_are_dropped_by_name(voc, kind):
    text, message = HARMFUL[kind]
    voc.add("a", BOX)
    voc.add("b", BOX)
    voc.split("train", "a", "b")
    (voc.root / "Annotations" / "b.xml").write_text(text)
    source = VocSource(voc.root, "train")
    assert source.records.image_ids == ["a"]
    (reason,) = source.report.examples[Rule.UNREADABLE_ANNOTATION]
    assert "b.xml" in reason
    assert message in reason
    assert all(line.isprintable() for line in source.report.lines())


def test_pipes_are_not_waited_for(voc):
    for stem in "ab":
        voc.add(stem, BOX)
    voc.split("train", "a", "b")
    path = voc.root / "Annotations" / "b.xml"
    path.unlink()
    os.mkfifo(path)
    (reason,) = VocSource(voc.root, "train").report.examples[Rule.UNREADABLE_ANNOTATION]
    assert "b.xml: it is a named pipe" in reason
    path = voc.root / "ImageSets" / "Main" / "train.txt"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match=r"train\.txt: it is a named pipe"):
        VocSource(voc.root, "train")


def test_a_missing_folder_is_named(voc):
    voc.split("train", "a")
    shutil.rmtree(voc.root / "Annotations")
    with pytest.raises(OSError, match=r"cannot list .*Annotations"):
        VocSource(voc.root, "train")


def test_data_may_lack_a_class(voc):
    voc.add("a", BOX)
    voc.split("train", "a")
    source = VocSource(voc.root, "train", class_names=("ant", "dog"))
    assert source.report.examples == {Rule.ABSENT_CLASS: ["ant"]}
    with pytest.raises(ValueError, match=r"more than once as a class name .*: dog"):
        VocSource(voc.root, "train", class_names=("dog", "dog"))
