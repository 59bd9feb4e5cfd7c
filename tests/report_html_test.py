"""The parts of a page: what is escaped, how tables align, and that a page loads nothing."""

import base64
import re

import numpy as np
import pytest
from report_example import png

from experiments.reporting import report_html as html

EVIL = "<script>alert('1')</script>&\""


def test_texts_are_escaped_once_and_markup_is_left_alone():
    assert "<" not in html.escape(EVIL) and '"' not in html.escape(EVIL)
    assert html.escape(html.escape(EVIL)) == html.escape(EVIL)
    assert html.tag("p", EVIL, title=EVIL) == (
        f'<p title="{html.escape(EVIL)}">{html.escape(EVIL)}</p>'
    )
    # Attributes are escaped even if they are markup, since markup may hold quotes.
    assert html.tag("p", "", title=html.Markup('"')) == '<p title="&quot;"></p>'


@pytest.mark.parametrize(
    "make",
    [
        lambda text: html.table([text], [[text]]),
        lambda text: html.details(text, text),
        lambda text: html.figure(html.Markup("<svg></svg>"), text),
        lambda text: html.failure(text),
        lambda text: html.join(text, text),
        lambda text: html.image(png(np.random.default_rng(0)), text),
        lambda text: html.page(text, {text: text}, [("a", text, html.escape(text))], kind=text),
    ],
)
def test_no_function_lets_a_text_become_markup(make):
    assert "<script" not in make(EVIL)
    assert "&lt;script&gt;" in make(EVIL)


def test_control_characters_and_half_surrogates_can_be_written():
    shown = html.plain("a\x00\x1b[31m\ud800\n\tü")
    assert shown == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m?\n\tü"
    shown.encode("utf-8")


def test_numerals_are_aligned_right_and_words_left():
    found = html.table(["name", "kind", "value"], [["a", "b", "1.5"]], words=2)
    assert re.findall(r'<t[hd][^>]*class="n"[^>]*>([^<]*)', found) == ["value", "1.5"]
    assert html.table(["a"], [[html.Markup("<td>x</td>")]]).count("<td") == 1
    assert 'class="n"' not in html.table(["a", html.Markup("<th>b</th>")], [])


@pytest.mark.parametrize("value", np.linspace(0, 1, 41))
def test_shaded_cells_are_readable_at_every_rate(value):
    cell = html.shaded(float(value))
    red, green, blue = map(int, re.findall(r"rgb\((\d+),(\d+),(\d+)\)", cell)[0])
    ink = 1.0 if "color:#fff" in cell else 0.0
    paper = _luminance(np.array([red, green, blue]) / 255)
    light, dark = max(ink, paper), min(ink, paper)
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.2, success criterion 1.4.3
    assert f">{100 * value:.1f}<" in cell


def _luminance(channels):
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_shades_darken_with_the_rate_and_stay_in_range():
    reds = [int(re.findall(r"rgb\((\d+)", html.shaded(v))[0]) for v in (-1, 0, 0.5, 1, 2)]
    assert reds[0] == reds[1] == 255 and reds[1] > reds[2] > reds[3] == reds[4] == 0
    assert html.shaded(None) == '<td class="n">-</td>'


def test_a_picture_is_embedded_as_it_is():
    content = png(np.random.default_rng(0))
    assert f'src="data:image/png;base64,{content}"' in html.image(content, "x")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ('"><script>', "picture is not base64"),
        (base64.b64encode(b"<svg onload=x>").decode(), "picture is not a PNG: it starts with"),
    ],
)
def test_what_is_no_png_is_refused(content, error):
    with pytest.raises(ValueError, match=error):
        html.image(content, "x")


def test_a_part_that_cannot_be_read_says_why_and_other_errors_pass():
    assert html.attempt(lambda: html.Markup("<b>")) == "<b>"
    shown = html.attempt(lambda: html.Markup({}["<i>"]))
    assert shown == '<p class="failed">unreadable: KeyError: &#x27;&lt;i&gt;&#x27;</p>'
    with pytest.raises(ZeroDivisionError):
        html.attempt(lambda: html.Markup(1 // 0))


def test_numbers_are_shown_as_people_read_them():
    assert (html.decimal(0.5), html.decimal(0.5, 1)) == ("0.5000", "0.5")
    assert (html.percent(0.98765), html.count(10_000.0)) == ("98.77", "10,000")
    assert (html.epsilon(2 / 255), html.epsilon(0.5 / 255)) == ("2/255", "0.5/255")
    for show in (html.decimal, html.percent, html.count, html.epsilon):
        assert show(None) == show("x") == "-"


def test_contents_lead_to_the_sections_and_nothing_may_be_loaded():
    sections = [("one", "First", html.Markup("<p>1</p>")), ("two", "Second", html.Markup(""))]
    found = html.page("Title", {"seed": 3}, sections, kind="Kind")
    assert re.findall(r'href="#(\w+)"', found) == re.findall(r'<section id="(\w+)"', found)
    assert "<title>Title</title>" in found and "<dt>seed</dt>\n<dd>3</dd>" in found
    assert "Content-Security-Policy" in found and "default-src 'none'" in found
    assert "http://" not in found and "https://" not in found and "url(" not in found
