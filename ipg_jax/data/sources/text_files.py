"""Text of unknown encoding: lists of images and XML files, written on any system."""

from __future__ import annotations

import codecs
import re

from ipg_jax.text import shown

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What stands in a lenient decoding where the bytes are no text."""

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, with which it begins
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DECLARATION = re.compile(rb"""\s*<\?xml[^>]{1,100}encoding\s*=\s*["']([\w.-]{1,40})["']""")
_NO_TEXT = ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined")
"""Python's codecs that are no encodings of documents, and slow on long ones."""


def decode_text(data: bytes, path: str, *, lenient: bool = False) -> str:
    """Decodes a text file by its byte order mark, its XML declaration, or else as UTF-8.

    UTF-16 is known without a mark by the null bytes of its first two characters, if one of them is
    ASCII.

    Args:
      data: the contents of the file.
      path: its name, for messages.
      lenient: whether `REPLACEMENT` stands for what is not of the encoding.

    Raises:
      ValueError: the data are not of the encoding, or Python does not know it.
    """
    encoding = _encoding(data)
    try:
        if encoding.replace("-", "_") in _NO_TEXT:
            raise LookupError("it is no encoding of documents")
        return data.decode(encoding, "replace" if lenient else "strict")
    except (LookupError, UnicodeError) as error:
        name = shown(path)
        raise ValueError(
            f"{name} is not text in the encoding {encoding}: {error}; write it as UTF-8"
        ) from error


def _encoding(data: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return encoding
    match [byte > 0 for byte in data[:4]]:
        case [True, False, _, False] | [True, False]:
            return "utf-16-le"
        case [False, True, False, _] | [False, True]:
            return "utf-16-be"
    declared = _DECLARATION.match(data)
    if declared is None:
        return "utf-8"
    name = declared[1].decode()
    try:
        known = codecs.lookup(name).name
    except LookupError:
        return name
    if known.startswith(("utf-16", "utf-32")):
        return "utf-8"  # the declaration was read as ASCII: a program converted the file since
    if known in ("gb2312", "gbk"):
        return "gb18030"  # which holds both; files declared GB2312 mostly are GBK
    return known
