"""Reading of HTML pages that the laboratory writes."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """What a page shows: its text, the sources of its pictures, and whatever it would fetch."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.text, self.pictures, self.fetched, self.open = "", [], [], []
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.pictures += [value for name, value in attributes if (tag, name) == ("img", "src")]
        self.fetched += [value for name, value in attributes if name in ("src", "href") and value[:5] != "data:"]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
