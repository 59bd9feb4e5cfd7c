"""The documentation as a site: it builds without a warning, is whole, and fetches nothing."""

import html.parser
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import semjax

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NEEDED = ("mkdocs", "material", "mkdocstrings", "latex2mathml")

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="the site needs semjax[docs]",
)


class Page(html.parser.HTMLParser):
    """What a page names, links to and fetches."""

    def __init__(self, text: str) -> None:
        """Reads the page."""
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []
        self.tags: set[str] = set()
        self._silent = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.fetched.append(given["href"])
        if "src" in given:
            self.fetched.append(given["src"])
        self._silent += tag in ("script", "style", "pre", "code", "math")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style", "pre", "code", "math")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text.append(data)


def _build(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Builds a site, with warnings as errors."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder), *options],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    done = _build(folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """The pages of the site by path."""
    return {
        str(path.relative_to(site)): Page(path.read_text("utf-8"))
        for path in sorted(site.rglob("*.html"))
        if path.name != "404.html"  # its links are from the root of a server
    }


def test_what_leads_nowhere_does_not_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[a](gone.md) [b](other.md#gone) ![c](gone.png)")
    (tmp_path / "docs" / "other.md").write_text("# Other")
    (tmp_path / "docs" / "loose.md").write_text("# Loose")
    settings = {"INHERIT": str(ROOT / "mkdocs.yml"), "docs_dir": "docs", "hooks": [], "plugins": []}
    settings |= {"nav": ["index.md", "other.md"], "extra_css": [], "theme": {"name": "mkdocs"}}
    (tmp_path / "mkdocs.yml").write_text(json.dumps(settings))  # JSON is YAML
    done = _build(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert done.returncode == 1
    for told in ("'gone.md'", "an anchor '#gone'", "'gone.png'", "loose.md"):
        assert told in done.stderr, done.stderr


def test_every_page_of_docs_is_a_page_of_the_site(pages: dict[str, Page]) -> None:
    written = {str(path.relative_to(DOCS).with_suffix(".html")) for path in DOCS.rglob("*.md")}
    assert written == set(pages)


def test_every_internal_link_and_picture_is_there(site: Path, pages: dict[str, Page]) -> None:
    missing = []
    for name, page in pages.items():
        for link in page.links + page.fetched:
            target, _, anchor = link.partition("#")
            if re.match(r"(https?|mailto|data):", link):
                continue
            path = site / name if not target else (site / name).parent / target
            path = Path(os.path.normpath(urllib.parse.unquote(str(path))))
            path = path / "index.html" if path.is_dir() else path
            relative = str(path.relative_to(site))
            known = pages[relative].ids if relative in pages else {anchor}
            if not path.is_file() or (anchor and urllib.parse.unquote(anchor) not in known):
                missing.append(f"{name}: {link}")
    assert missing == []


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    foreign = [
        f"{name}: {link}"
        for name, page in pages.items()
        for link in page.fetched
        if re.match(r"(https?:)?//", link)
    ]
    for path in site.rglob("*.css"):
        foreign += re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)\"']+", path.read_text())
    assert foreign == []


def test_maths_is_drawn_by_the_browser(pages: dict[str, Page]) -> None:
    assert all("math" in pages[name].tags for name in ("index.html", "idea.html", "options.html"))
    left = [name for name, page in pages.items() if re.search(r"\\[a-z(\[]|\$", _prose(page))]
    assert left == []


def test_no_markdown_is_left_in_the_text(pages: dict[str, Page]) -> None:
    marks = re.compile(
        r"\|\s*:?-{3,}|\]\(|\]\[\w[\w.]*\]|\*\*[a-z]|^#{2,} |<!--|>>> ", re.MULTILINE
    )
    assert {n: marks.findall(_prose(p)) for n, p in pages.items() if marks.search(_prose(p))} == {}


def test_every_public_symbol_is_in_the_reference(pages: dict[str, Page]) -> None:
    found = set().union(*(page.ids for name, page in pages.items() if name.startswith("reference")))
    assert sorted(_public() - found) == []


def _prose(page: Page) -> str:
    return "".join(page.text)


def _public() -> set[str]:
    """Where everything stands that semjax and its packages offer, by its full name."""
    names: set[str] = set()
    for package in (semjax, semjax.corruptions, semjax.policies, semjax.robustness):
        for name in package.__all__:
            value = getattr(package, name)
            if not inspect.ismodule(value):
                if hasattr(value, "__qualname__"):
                    names.add(f"{value.__module__}.{value.__qualname__}")
            elif not hasattr(value, "__path__"):
                names.add(value.__name__)
                names |= _defined_in(value)
    return names


def _defined_in(module: ModuleType) -> set[str]:
    return {
        f"{module.__name__}.{name}"
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
        and (inspect.isclass(value) or inspect.isfunction(inspect.unwrap(value)))
    }


def test_every_option_of_the_loss_is_explained_with_its_default_and_its_evidence() -> None:
    text = (DOCS / "options.md").read_text("utf-8")
    parameters = inspect.signature(semjax.make_sem_loss).parameters
    headings = re.findall(r"^### `(\w+)`$", text, re.MULTILINE)
    assert headings == list(parameters)
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\(#\1\) \|.*\| ([^|]*)\|$", text, re.MULTILINE))
    assert list(rows) == list(parameters)
    for name, parameter in parameters.items():
        section = text.partition(f"### `{name}`\n")[2].partition("\n##")[0]
        if parameter.default is parameter.empty:
            continue
        assert f"<!-- evidence: {name} -->" in section, name
        default = parameter.default
        if name == "policy":
            assert rows[name].strip() == "`semjax.mixup()`"
        else:
            shown = f'"{default}"' if isinstance(default, str) else str(default)
            assert rows[name].strip("` ") == shown
    for key in ("image", "label", "valid", "step", "group", "sample_weight", "views", "mix"):
        assert f"| `{key}` |" in text.partition("## Batch")[2]


def test_the_notebook_is_the_tour_and_has_been_run() -> None:
    notebook = json.loads((DOCS / "tour.ipynb").read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    blocks = re.findall(
        r"^```python\n(.*?)^```\n", (DOCS / "tour.md").read_text("utf-8"), re.M | re.S
    )
    # The blocks themselves are run by readme_test; python docs/notebook.py makes the notebook.
    assert ["".join(cell["source"]) for cell in code] == [block.strip() for block in blocks]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert [bool(cell["outputs"]) for cell in code] == ["\nprint(" in block for block in blocks]
    printed = "".join("".join(output["text"]) for cell in code for output in cell["outputs"])
    plain, sem = map(float, re.findall(r"without sem ([\d.]+), with sem ([\d.]+)", printed)[0])
    assert sem < plain / 2  # the tour says: several times smaller
    assert (DOCS / "tour.ipynb").stat().st_size < 50_000


def test_pictures_are_small() -> None:
    for name in ("path.png", "gap.png"):
        assert (DOCS / "images" / name).stat().st_size < 200_000


def _load(name: str) -> Any:
    """A module of docs/building."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "building" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_that_leave_docs_go_where_the_site_shows_the_file() -> None:
    hooks = _load("hooks")

    def turned(text: str, source: str = "page.md") -> str:
        class Of:
            src_uri = source

        return hooks.on_page_markdown(text, page=type("P", (), {"file": Of}))

    assert turned("[a](../benchmarks/README.md#x)") == "[a](speed.md#x)"
    assert turned("[a](../../CHANGELOG.md)", "reference/p.md") == "[a](../changelog.md)"
    assert turned("[a](../semjax/mixing.py)") == "[a][semjax.mixing]"
    assert turned("[a](../experiments/flags)") == "a"
    for same in (
        "[a](tour.md#b)",
        "[a](https://example.org/x)",
        "`[a](../x)`",
        "![a](images/b.png)",
    ):
        assert turned(same) == same


def test_a_page_may_hold_a_section_of_another_file_and_one_that_is_missing_is_an_error() -> None:
    hooks = _load("hooks")
    page = type("P", (), {"file": type("F", (), {"src_uri": "results.md"})})
    text = hooks.on_page_markdown("<!-- include: README.md, Results -->", page=page)
    readme = (ROOT / "README.md").read_text("utf-8")
    table = readme.partition("## Results\n")[2].partition("\n## ")[0]
    assert [line for line in table.splitlines() if line.startswith("|")] == [
        line for line in text.splitlines() if line.startswith("|")
    ]
    whole = hooks.on_page_markdown("<!-- include: CHANGELOG.md -->", page=page)
    assert "](faults.md)" in whole and "# Changelog" not in whole
    with pytest.raises(ValueError, match=r"README\.md has no section 'Nothing'"):
        hooks.on_page_markdown("<!-- include: README.md, Nothing -->", page=page)


def test_docstrings_keep_their_bars_and_subscripts() -> None:
    rewritten = _load("docstrings").rewritten
    text = 'One.\n\n| a | b |\n|---|---|\n| c | x / (|p| |t|) |\n\nb["v"][:, 0] and `x[0][1]`\n'
    assert rewritten(text) == (
        "One.\n\n| a | b |\n|---|---|\n| c | x / (&#124;p&#124; &#124;t&#124;) |\n\n"
        'b["v"]&#91;:, 0] and `x[0][1]`\n'
    )
    assert rewritten("One.\n\nExample:\n  >>> x[0][1]\n") == "One.\n\nExamples:\n  >>> x[0][1]\n"
