"""Reads a page of the analysis: its texts and pictures."""

import base64
import html.parser
import io

import numpy as np
from PIL import Image


class Reader(html.parser.HTMLParser):
    """Collects texts and images, and checks that every tag is closed and nothing is elsewhere.

    Attributes:
      text: all texts in their order.
      texts: those of each tag, without white space around them.
      images: the attributes of each image.
    """

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict] = []
        self.text: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        assert self.open == []
        assert "http" not in text
        assert "url(" not in text

    def pixels(self) -> list[np.ndarray]:
        """The images, which are JPEGs within the page."""
        pictures = []
        for image in self.images:
            kind, _, code = image["src"].partition(",")
            assert kind == "data:image/jpeg;base64"
            data = base64.b64decode(code, validate=True)
            pictures.append(np.asarray(Image.open(io.BytesIO(data))))
        return pictures

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
        elif tag not in ("meta", "br"):
            self.open.append(tag)
        assert not {"src", "href"} & dict(attributes).keys() or tag == "img"

    def handle_startendtag(self, tag, attributes):
        assert tag in ("rect", "path")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())
