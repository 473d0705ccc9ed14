"""Lay out the book's pages and have Sphinx set them: `make book`, into results/book/html.

The pages are notebooks/ with its README as root, the texts of figures/, and one page for each room
of d2ue, made from its docstrings. Nothing is executed. A link that leads nowhere is an error.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from os.path import relpath
from pathlib import Path
from urllib.parse import unquote, urlsplit

import griffe
from sphinx.cmd.build import main as sphinx_build

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
#: The method's files and the rooms, in the order in which a newcomer reads them.
METHOD = [
    *("plain", "config", "similarity", "backbones", "losses"),
    *("training", "ensemble", "uncertainty", "evaluation"),
]
ROOMS = [
    *("fast", "baselines", "datasets", "store", "statistics", "experiments"),
    *("lessons", "detector", "audit", "plotting", "cli"),
]
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:)([^)#\s]*)(#[^)\s]*)?\)")
SOURCE = re.compile(r'(?<= src=")(?![a-z]+:)([^"]+)(?=")')


def build(target: Path) -> int:
    """Build the book below a folder, anew.

    Returns:
        0, or what Sphinx returned, or the number of links that lead nowhere.
    """
    pages, html = target / "pages", target / "html"
    shutil.rmtree(target, ignore_errors=True)
    lay_out(pages)
    extra = f"html_extra_path={pages / 'extra'}"
    failed = sphinx_build(
        ["-q", "-W", "--keep-going", "-c", str(HERE), "-D", extra, str(pages), str(html)]
    )
    if failed:
        return failed
    nowhere = list(broken_links(html))
    for line in nowhere:
        print(line, file=sys.stderr)
    return len(nowhere)


def lay_out(pages: Path) -> None:
    """Write every page, with links as the book has them."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text())
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = relinked("".join(cell["source"]), path, Path(path.name))
        write(pages / path.name, json.dumps(notebook))
    for path in sorted((ROOT / "figures").rglob("*.md")):
        place = path.relative_to(ROOT)
        text = relinked(path.read_text(), path, place)
        if path.name != "README.md":  # a table: reached from the pages, not from the navigation
            text = (
                f"---\norphan: true\n---\n# {' / '.join(place.with_suffix('').parts[1:])}\n\n{text}"
            )
        write(pages / place, text)
    figures = [p for p in (ROOT / "figures").rglob("*") if p.is_file() and p.suffix != ".md"]
    for path in figures:
        (pages / "extra" / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, pages / "extra" / path.relative_to(ROOT))
    package = griffe.load("d2ue", search_paths=[ROOT], docstring_parser="google")
    rooms = {"method": [name for name in METHOD if name in package.modules]}
    for room in (room for room in ROOMS if room in package.modules):
        rooms[room] = [room, *(f"{room}.{name}" for name in sorted(package[room].modules))]
    for room, modules in rooms.items():
        text = "".join(module_text(package[name]) for name in modules)
        write(pages / "api" / f"{room}.md", f"# {room}\n\n{text}")
    readme = ROOT / "notebooks" / "README.md"
    root = relinked(readme.read_text(), readme, Path("index.md"))
    write(pages / "index.md", root + contents(readme.read_text(), list(rooms)))


def write(path: Path, text: str) -> None:
    """Write a page and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def contents(readme: str, rooms: list[str]) -> str:
    """The navigation: the order of notebooks/README.md, then the rooms, then the figures."""
    parts = [(part.partition("\n")[0], part) for part in readme.split("\n## ")[1:]]
    trees = [
        (title, list(dict.fromkeys(re.findall(r"\]\((\w+\.ipynb)\)", part))))
        for title, part in parts
    ]
    trees += [("d2ue, room by room", [f"api/{room}.md" for room in rooms])]
    trees += [("Tables and figures", ["figures/README.md"])]
    return "".join(
        f"\n\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(entries) + "\n```\n"
        for title, entries in trees
        if entries
    )


def relinked(text: str, path: Path, page: Path) -> str:
    """The text of a file of the repository with links as its page in the book has them.

    What the book does not hold (tests, folders) keeps its words and loses its link.
    """

    def to_page(target: str) -> str | None:
        file = (path.parent / target).resolve()
        place = file.relative_to(ROOT) if file.is_relative_to(ROOT) else Path("..")
        first, *rest = place.parts or ("",)
        if place == Path("notebooks/README.md"):
            place = Path("index.md")
        elif first == "notebooks" and file.suffix == ".ipynb":
            place = Path(*rest)
        elif first == "d2ue" and file.exists():
            room = rest[0] if rest and (len(rest) > 1 or file.is_dir()) else "method"
            place = Path("api", f"{room}.md")
        elif not (first == "figures" and file.is_file()):
            return None
        return relpath(place, page.parent)

    def link(match: re.Match[str]) -> str:
        picture, label, target, anchor = match.groups()
        turned = to_page(target) if target else ""
        if turned is None:
            return label
        if turned and not turned.endswith((".md", ".ipynb")):
            if picture:
                return f'<img src="{turned}" alt="{label}">'
            return f'<a href="{turned}">{label.replace("`", "")}</a>'
        return f"{picture}[{label}]({turned}{anchor or ''})"

    def source(match: re.Match[str]) -> str:
        return to_page(match.group(1)) or match.group(1)

    return SOURCE.sub(source, LINK.sub(link, text))


def module_text(module: griffe.Module) -> str:
    """A module's public functions and classes with their docstrings, as Markdown."""
    text = f"## {module.path}\n\n{docstring(module)}"
    for name, member in module.members.items():
        if name.startswith("_") or member.is_alias or not (member.is_function or member.is_class):
            continue
        text += f"### {name}\n\n{signature(member)}{docstring(member)}"
        if member.is_class:
            for inner in member.functions.values():
                if not inner.name.startswith("_"):
                    text += f"#### {name}.{inner.name}\n\n{signature(inner)}{docstring(inner)}"
    return text


def signature(member: griffe.Function | griffe.Class) -> str:
    """A function's parameters and what it gives back, one a line where there are many."""
    if member.is_class:
        bases = ", ".join(str(base) for base in member.bases)
        return f"```python\nclass {member.name}({bases})\n```\n\n" if bases else ""
    line = member.signature()
    if len(line) > 88:
        line = re.sub(r"(?<=[(,]) ?(?=\**\w+[:,=)]|/|\*,)", "\n    ", line)
    return f"```python\n{line}\n```\n\n"


def docstring(member: griffe.Object) -> str:
    """The docstring's text and its sections as lists."""
    text = ""
    for section in member.docstring.parsed if member.docstring else []:
        if section.kind.value == "text":
            text += section.value + "\n\n"
        elif isinstance(section.value, list):
            text += f"**{(section.title or section.kind.value).capitalize()}**\n\n"
            for item in section.value:
                name = getattr(item, "name", "") or str(getattr(item, "annotation", "") or "")
                words = " ".join(item.description.split())
                text += f"- `{name}`: {words}\n" if name else f"- {words}\n"
            text += "\n"
        else:
            text += f"{section.value}\n\n"
    return text


class Links(HTMLParser):
    """The links of a page and the places in it that a link can lead to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.places: set[str] = {""}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag points at and what it is called."""
        for key, value in attrs:
            if key == "id" and value:
                self.places.add(value)
            elif value and key in {"href", "src"}:
                self.targets.append(value)


def broken_links(html: Path) -> Iterator[str]:
    """A line for each link inside the book that leads to no file or no place in it."""
    pages = {path: Links(path.read_text()) for path in sorted(html.rglob("*.html"))}
    for path, page in pages.items():
        for target in dict.fromkeys(page.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not file.is_file():
                yield f"{path.relative_to(html)}: {target} is not in the book."
            elif file in pages and unquote(parts.fragment) not in pages[file].places:
                yield f"{path.relative_to(html)}: {target} names no place on that page."


if __name__ == "__main__":
    sys.exit(build(ROOT / "results" / "book"))
