"""Names that come from files, made fit for a terminal, a log and a one-line message."""

from __future__ import annotations


def shown(name: object, limit: int = 300) -> str:
    r"""Returns `name` as text of one line without control characters.

    Line breaks, escape codes of terminals, characters that turn the direction of writing and all
    others that `str.isprintable` denies are written as escapes (`\n`, `\x1b`, `\u202e`); a name of
    more than `limit` characters is cut in the middle.
    """
    text = str(name)
    if len(text) > limit:
        text = f"{text[: limit // 2]}...{text[-(limit // 2) :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
