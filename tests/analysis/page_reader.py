"""Reads a page of the analysis: its texts and pictures."""

import html.parser


class Reader(html.parser.HTMLParser):
    """Collects texts and images, and checks that every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

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
