"""The page of one run: complete, alone, safe, the same every time, and whole when parts are not."""

import copy
import html.parser
import re

import pytest
from report_example import PARTS, example

from experiments.reporting import comparison_page, report_page
from experiments.reporting.headline import METRICS, headline

VOID = {"meta", "img", "br", "path", "use", "image", "rect"}
TITLES = [title for title, _ in report_page._SECTIONS.values()]


class Page(html.parser.HTMLParser):
    """Reads a page strictly: every element is closed, in order."""

    def __init__(self, text):
        """Reads the whole page."""
        super().__init__()
        self.open, self.ids, self.texts, self.attributes = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


@pytest.fixture(scope="module")
def report():
    return example()


@pytest.fixture(scope="module")
def text(report):
    return report_page.render(report)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def section(text, name):
    return re.search(rf'<section id="{name}">.*?</section>', text, re.DOTALL)[0]


def test_the_page_names_the_run_and_has_every_section(report, page):
    run = report["run"]
    for value in (run["name"], "sem_mixup", "cifar100", "resnet18", "11,220,132", "78,200"):
        assert value in page.texts
    assert all(title in page.texts for title in TITLES)
    assert not any("unreadable" in text for text in page.texts)
    links = [value[1:] for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert set(links) == {"headline", *PARTS, "made"} and set(links) <= set(page.ids)


def test_every_number_of_the_headline_stands_in_its_table(report, text):
    shown = section(text, "headline")
    for metric in METRICS:
        value = metric.show(headline(report)[metric.name])
        row = rf"<td>{re.escape(metric.title)}</td>\s*<td>{metric.arrow}</td>\s*<td class=\"n\">"
        assert re.search(rf"{row}{re.escape(value)}</td>", shown), metric.name
    corrupted = report["parts"]["corruptions"]["result"]
    for name in (*corrupted["benchmark"], *corrupted["held_out"], corrupted["source"]):
        assert name in shown
    assert "over 15 corruptions at 5 severities" in shown and "ε = 8/255, 1,000 images" in shown


def test_a_part_of_the_benchmark_is_not_called_the_benchmark(report):
    fewer = copy.deepcopy(report)
    del fewer["parts"]["corruptions"]["result"]["accuracy"]["fog"]
    note = report_page._note(fewer, "mce")
    assert "over 14 of 15 corruptions" in note and "fog" not in note


def test_nothing_is_loaded_from_elsewhere(text, page):
    assert "http://" not in text and "https://" not in text and "@import" not in text
    loaded = [v for _, name, v in page.attributes if name in ("src", "href", "xlink:href", "data")]
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in loaded)
    assert all(value.startswith("#") for value in re.findall(r"url\(([^)]*)\)", text))
    assert not {tag for tag, _, _ in page.attributes} & {"script", "link", "iframe", "object"}
    assert not any(name.startswith("on") for _, name, _ in page.attributes)


def test_the_page_is_small_and_its_ids_are_its_own(text, page):
    assert len(text.encode()) < 3_000_000
    assert len(page.ids) == len(set(page.ids))


def test_every_figure_says_how_to_read_it(text):
    figures = re.findall(r"<figure>.*?</figure>", text, re.DOTALL)
    assert len(figures) >= 13
    for found in figures:
        caption = re.search(r"<figcaption>(.+?)</figcaption>", found, re.DOTALL)[1]
        assert re.search(r"[Gg]ood is|Look whether|can be compared", caption)


def test_the_same_report_gives_the_same_bytes_and_stays_as_it_is():
    report = example(missing=("corruptions", "ood", "equivariance"))
    before = copy.deepcopy(report)
    assert report_page.render(report) == report_page.render(before)
    assert report == before


def test_parts_without_result_say_why_and_the_rest_comes_out(text):
    drawn = ("clean", "corruptions", "ood", "equivariance", "projection", "pictures")
    found = report_page.render(
        example(failed=("attacks",), skipped=("groups",), missing=("probes", *drawn))
    )
    reason = "ValueError: attacks met logits that are not finite"
    assert f'<p class="failed">failed: {reason}</p>' in section(found, "attacks")
    assert '<p class="absent">skipped: --nogroups</p>' in section(found, "groups")
    assert '<p class="absent">not measured</p>' in section(found, "probes")
    shown = section(found, "headline")
    assert shown.count(f'<td class="failed">{reason}</td>') == 2  # FGSM and PGD
    assert '<td class="absent">skipped</td>' in shown
    assert f"failed: {reason}" in section(found, "made")
    # In red, and not by colour alone: the word stands there too.
    assert re.search(r"\.failed \{ color: #b3261e", found)


@pytest.mark.parametrize("part", PARTS)
def test_a_result_that_cannot_be_read_costs_only_its_part(report, part, monkeypatch):
    monkeypatch.setattr(report_page, "_SECTIONS", {part: report_page._SECTIONS[part]})
    broken = copy.deepcopy(report)
    broken["parts"][part]["result"] = {"x": 1}
    found = section(report_page.render(broken), part)
    assert 'class="failed">unreadable: ' in found
    assert 'id="made"' in report_page.render(broken)


def _nulls(value):
    if isinstance(value, dict):
        return {key: _nulls(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nulls(item) for item in value]
    return None if isinstance(value, int | float) else value


@pytest.mark.parametrize("part", sorted({*PARTS} - {"clean", "corruptions", "pictures"}))
def test_a_part_whose_numbers_are_all_null_still_comes_out(report, part, monkeypatch):
    monkeypatch.setattr(report_page, "_SECTIONS", {part: report_page._SECTIONS[part]})
    empty = copy.deepcopy(report)
    empty["parts"][part]["result"] = _nulls(report["parts"][part]["result"])
    if part == "projection":  # labels are whole numbers, which are never null
        empty["parts"][part]["result"]["label"] = report["parts"][part]["result"]["label"]
    found = report_page.render(empty)
    assert "unreadable" not in found and ">nan<" not in found


EVIL = "<script>alert(1)</script>\"'&$_{"


def _evil(value):
    """The same report with every text and every free key turned into an attack."""
    if isinstance(value, dict):
        return {key: _evil(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_evil(item) for item in value]
    return EVIL if isinstance(value, str) else value


def test_no_text_of_a_report_becomes_markup(report):
    evil = copy.deepcopy(report)
    evil["run"] = {**_evil(report["run"]), "flags": {EVIL: EVIL}, "environment": {EVIL: [EVIL]}}
    evil["options"] = {EVIL: EVIL}
    parts = evil["parts"]
    for name in ("ood", "corruptions", "probes", "groups", "projection", "clean"):
        parts[name]["result"] = _evil(report["parts"][name]["result"])
    for name, key in (("ood", "sets"), ("equivariance", "policies"), ("probes", "factors")):
        found = parts[name]["result"][key]
        found[EVIL] = found.pop(next(iter(found)))
    corrupted = parts["corruptions"]["result"]
    for key in ("accuracy", "nll", "ece"):
        corrupted[key][EVIL] = corrupted[key].pop("fog")
    corrupted["benchmark"] = [EVIL]
    for name in ("shot_noise", "snow", "pixelate", "contrast", "saturate", "frost", "spatter"):
        del corrupted["accuracy"][name]  # fewer panels are drawn sooner
    parts["attacks"] = {"status": "failed", "seconds": 1.0, "reason": EVIL}
    parts[EVIL] = {"status": "skipped", "seconds": 1.0, "reason": EVIL}
    parts["pictures"]["result"]["strip"] = {"png": EVIL, "caption": EVIL}
    parts["pictures"]["result"]["saliency"]["caption"] = EVIL
    text = report_page.render(evil)
    page = Page(text)
    assert "<script" not in text.lower() and "unreadable: picture" in text
    assert text.count("unreadable") == 1
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert page.texts.count(EVIL) > 20


def test_seconds_flags_options_and_environment_tell_how_it_was_made(text):
    made = section(text, "made")
    for shown in ("3.2", "29.2", "attack_count", "alpha", "0123abcd", "projection", "done"):
        assert f">{shown}<" in made, shown


def test_the_page_of_many_runs_has_its_name_here_too():
    assert report_page.render_comparison is comparison_page.render_comparison
