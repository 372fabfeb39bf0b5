"""XML files and lists of VOC's layout as tools and people write them, or made to do harm."""

import os

import numpy as np
import pytest
from made_files import VocFolder

from ipg_jax.data import Rule, VocSource

BOX = ("dog", (2, 3, 20, 30), 0)


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
    voc.edit("a", ("<difficult>0</difficult>", ""))
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
    voc.edit("a", ("<annotation>", '<annotation xmlns="http://example.org/voc">'))
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


def test_data_may_lack_a_class(voc):
    voc.add("a", BOX)
    voc.split("train", "a")
    source = VocSource(voc.root, "train", class_names=("ant", "dog"))
    assert source.report.examples == {Rule.ABSENT_CLASS: ["ant"]}
    with pytest.raises(ValueError, match=r"more than once as a class name .*: dog"):
        VocSource(voc.root, "train", class_names=("dog", "dog"))
