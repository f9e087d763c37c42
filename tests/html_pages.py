"""Pages of HTML: their tags and texts, and a browser that shows them."""

import shutil
from html.parser import HTMLParser


class Parsed(HTMLParser):
    """Tags, texts by tag, and unclosed tags."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self, content):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(data)


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--window-size=1280,900",
    "--enable-logging=stderr",
    "--v=0",
    "--virtual-time-budget=10000",
    "--dump-dom",
]
