"""What every report page must be: one file that opens without a network, with ids that do not collide."""

from __future__ import annotations

import html.parser
import re


class Links(html.parser.HTMLParser):
    """Collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.fetched.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def assert_needs_no_network(page: str) -> None:
    links = Links()
    links.feed(page)
    assert links.fetched == []
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def assert_ids_do_not_collide(page: str) -> None:
    links = Links()
    links.feed(page)
    assert len(links.ids) == len(set(links.ids))
    for reference in set(re.findall(r'(?:href="|url\()#([^")]+)', page)):
        assert reference in links.ids
