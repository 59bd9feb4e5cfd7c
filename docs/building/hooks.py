"""What the site does to its pages beyond Markdown: parts of other files, links out of docs, maths.

The pages are also read where they lie, so they link to files of the repository as these lie. A link
that leaves `docs` goes to the page that shows the file, to the reference for a module of semjax,
and is text where the site has nothing to show.
"""

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml import converter

ROOT = Path(__file__).resolve().parents[2]
# Files outside docs that a page shows as a whole or in part.
SHOWN = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "speed.md",
}
_INCLUDE = re.compile(r"^<!-- include: ([\w./-]+)(?:, ([^>]+?))? -->$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_IMAGE = re.compile(r"(!\[[^\]]*\])\(([^)\s#]+)\)")
_CODE = re.compile(r"^( *)```.*?^\1```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_MATHS = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Puts in what a page includes, and turns links that leave docs to what the site has."""
    source = "docs/" + page.file.src_uri
    text = _INCLUDE.sub(lambda found: _included(found.group(1), found.group(2)), markdown)
    return _outside_code(text, lambda part: _with_links(part, source))


def on_page_content(content: str, **_: Any) -> str:
    """Sets maths as MathML, which browsers draw by themselves."""
    return _MATHS.sub(_mathml, content)


def _included(path: str, section: str | None) -> str:
    """A file of the repository or one section of it, its links as if it lay in docs."""
    text = (ROOT / path).read_text("utf-8")
    if section is None:
        text = re.sub(r"\A# .*\n", "", text)
    else:
        found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
        if not found:
            raise ValueError(f"{path} has no section {section!r}, which a page of docs includes")
        text = found.group(1)

    def moved(found: re.Match[str]) -> str:
        if re.match(r"[a-z]+:", found.group(2)):
            return found.group(0)
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), found.group(2)))
        words = found.group(1) if found.group(1).startswith("!") else f"[{found.group(1)}]"
        anchor = found.group(3) if found.re is _LINK else None
        return f"{words}({posixpath.relpath(target, 'docs')}{anchor or ''})"

    def move(part: str) -> str:
        return _LINK.sub(moved, _IMAGE.sub(moved, part))

    return _outside_code(text, move)


def _outside_code(text: str, change: Any) -> str:
    """Changes what is not code."""
    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [change(text[end : code.start()]), code.group(0)]
        end = code.end()
    return "".join([*parts, change(text[end:])])


def _with_links(text: str, source: str) -> str:
    folder = posixpath.dirname(source)

    def turned(found: re.Match[str]) -> str:
        words, link, anchor = found.group(1), found.group(2), found.group(3) or ""
        target = posixpath.normpath(posixpath.join(folder, link))
        if re.match(r"[a-z]+:", link) or target.startswith("docs/"):
            return found.group(0)
        if target in SHOWN:
            page = posixpath.relpath("docs/" + SHOWN[target], folder)
            return f"[{words}]({page}{anchor})"
        if target.startswith("semjax/") and target.endswith(".py"):
            return f"[{words}][{target.removesuffix('.py').replace('/', '.')}]"
        return words

    return _LINK.sub(turned, text)


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found.group(2) == "[" else "inline"
    formula = html.unescape(found.group(3)).strip()
    return converter.convert(formula, display=display)
