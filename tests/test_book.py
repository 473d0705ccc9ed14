"""The book: every page is in it, formulas are set, links lead somewhere, a search finds CKA."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("build_book", ROOT / ".book" / "build.py")
book = importlib.util.module_from_spec(spec)
spec.loader.exec_module(book)


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("book")
    assert book.build(target) == 0
    return target / "html"


def test_every_page_and_room_is_in_the_navigation(html):
    page = (html / "index.html").read_text()
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    rooms = {path.parent.name for path in (ROOT / "d2ue").glob("*/__init__.py")} | {"method"}
    entries = set(re.findall(r'class="reference internal" href="([^"#]+)\.html"', page))
    assert {*notebooks, *(f"api/{room}" for room in rooms)} <= entries


def test_formulas_are_set_without_a_script(html):
    page = (html / "00_quickstart.html").read_text()
    assert page.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') >= 2
    assert not re.search(r"<script[^>]*mathjax", page, re.I)
    assert "\\mathcal" not in re.sub(r"<pre.*?</pre>", "", page, flags=re.S)


def test_tables_among_the_outputs_are_tables(html):
    page = (html / "12_table2.html").read_text()
    assert re.search(r"<table.*?MemAE.*?</table>", page, re.S) and "|---|" not in page


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#here">x</a><a href="c.html">y</a>')
    (tmp_path / "b.html").write_text('<p id="there"></p><a href="a.html">z</a>')
    assert list(book.broken_links(tmp_path)) == [
        "a.html: b.html#here names no place on that page.",
        "a.html: c.html is not in the book.",
    ]


@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium to open the book with")
def test_a_browser_finds_cka(html, tmp_path):
    """The search runs in the browser, from the files alone; its first hits open."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=10000", "--dump-dom"]

    def opened(address: str) -> str:
        done = subprocess.run(
            ["chromium", *options, address], capture_output=True, text=True, timeout=120
        )
        return done.stdout

    hits = re.findall(
        r'<li class="kind-\w+"><a href="([^"?#]+)', opened(f"file://{html}/search.html?q=CKA")
    )
    assert "api/method.html" in hits and "02_redundancy.html" in hits
    assert "linear_cka" in opened(f"file://{html}/api/method.html")
