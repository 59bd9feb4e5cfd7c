"""The parts a report page is made of: text, tables, figures, sections and the page around them.

Strings of a report reach a page through these functions, which escape them. A page loads nothing:
no script, style, font or picture from outside, which its content policy forbids as well.
"""

import base64
import binascii
import html
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.reporting.headline import number

_PNG = b"\x89PNG\r\n\x1a\n"


class Markup(str):
    """HTML that is whole and safe; any other string is escaped before it comes into a page."""


def plain(value: Any) -> str:
    r"""A text with nothing but characters that can be shown and written.

    Args:
      value: anything; what is not a string is turned into one.

    Returns:
      The text, with control characters and halves of surrogate pairs replaced.

    Example:
      >>> plain("a\0b") == "a\N{REPLACEMENT CHARACTER}b"
      True
    """
    text = str(value).encode("utf-8", "replace").decode()
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def escape(value: Any) -> Markup:
    """A text as HTML that shows it.

    Args:
      value: Markup is left as it is; anything else is turned into a text and escaped.

    Returns:
      The HTML.

    Example:
      >>> escape("<b>"), escape(Markup("<b>"))
      ('&lt;b&gt;', '<b>')
    """
    return value if isinstance(value, Markup) else Markup(html.escape(plain(value)))


def decimal(value: Any, digits: int = 4) -> str:
    """A number as people read it.

    Args:
      value: a number of a report.
      digits: after the point.

    Returns:
      The number; a dash for one that is missing.

    Example:
      >>> decimal(0.12345), decimal(None)
      ('0.1235', '-')
    """
    found = number(value)
    return "-" if found is None else f"{found:.{digits}f}"


def percent(value: Any) -> str:
    """A rate as a percentage.

    Args:
      value: a rate of a report.

    Returns:
      The percentage with two decimals, without its sign; a dash for a rate that is missing.

    Example:
      >>> percent(0.12345)
      '12.35'
    """
    found = number(value)
    return "-" if found is None else f"{100 * found:.2f}"


def count(value: Any) -> str:
    """A whole number with its thousands set apart.

    Args:
      value: a whole number of a report.

    Returns:
      The number; a dash for one that is missing.

    Example:
      >>> count(11220132)
      '11,220,132'
    """
    found = number(value)
    return "-" if found is None else f"{found:,.0f}"


def epsilon(value: Any) -> str:
    """The size of a perturbation in steps of an eight-bit pixel.

    Args:
      value: in units of the pixel range [0, 1].

    Returns:
      The size as a fraction of 255.

    Example:
      >>> epsilon(8 / 255)
      '8/255'
    """
    found = number(value)
    return "-" if found is None else f"{255 * found:.3g}/255"


def join(*parts: Any) -> Markup:
    """HTML of parts, one after another.

    Args:
      *parts: texts, escaped, or Markup.

    Returns:
      The HTML.
    """
    return Markup("\n".join(escape(part) for part in parts if part != ""))


def tag(name: str, content: Any = "", **attributes: Any) -> Markup:
    """An element.

    Args:
      name: of the tag.
      content: escaped unless it is Markup.
      **attributes: by name; `class_` is class. None leaves one out.

    Returns:
      The HTML.

    Example:
      >>> tag("p", "1 < 2", class_="note")
      '<p class="note">1 &lt; 2</p>'
    """
    shown = "".join(
        f' {key.rstrip("_")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{shown}>{escape(content)}</{name}>")


def table(head: Sequence[Any], rows: Sequence[Sequence[Any]], *, words: int = 1) -> Markup:
    """A table of which the first columns are words and the others numerals, aligned right.

    Args:
      head: the titles of the columns; a title that is a whole `<th>` is left as it is.
      rows: the cells; a cell that is a whole `<td>` is left as it is.
      words: columns of words at the left.

    Returns:
      The HTML.
    """

    def cell(value: Any, column: int) -> Markup:
        if isinstance(value, Markup) and value.startswith("<td"):
            return value
        return tag("td", value, class_=None if column < words else "n")

    titles = [
        title
        if isinstance(title, Markup) and title.startswith("<th")
        else tag("th", title, scope="col", class_=None if column < words else "n")
        for column, title in enumerate(head)
    ]
    lines = [
        tag("tr", join(*(cell(value, column) for column, value in enumerate(row)))) for row in rows
    ]
    body = join(tag("thead", tag("tr", join(*titles))), tag("tbody", join(*lines)))
    return tag("div", tag("table", body), class_="wide")


def shaded(value: float | None) -> Markup:
    """A cell that shows a rate in [0, 1] as a percentage, the darker the higher.

    Args:
      value: the rate; None is shown as a dash.

    Returns:
      The cell.
    """
    if value is None:
        return Markup('<td class="n">-</td>')
    share = min(max(value, 0.0), 1.0)
    # From white to a dark blue. Black or white, the text has a contrast of at least 4.5 to 1.
    red, green, blue = (round(255 + share * (end - 255)) for end in (0, 84, 140))
    ink = "#fff" if share > 0.77 else "#000"
    style = f"background:rgb({red},{green},{blue});color:{ink}"
    return Markup(f'<td class="n heat" style="{style}">{100 * value:.1f}</td>')


def details(summary: Any, content: Any) -> Markup:
    """What is hidden until somebody asks for it.

    Args:
      summary: the line that is always shown.
      content: the rest.

    Returns:
      The HTML.
    """
    return tag("details", join(tag("summary", summary), content))


def figure(picture: Markup, caption: Any) -> Markup:
    """A picture with the sentence that says how to read it.

    Args:
      picture: the HTML of the picture.
      caption: the sentence.

    Returns:
      The HTML.
    """
    return tag("figure", join(picture, tag("figcaption", caption)))


def image(png: str, alt: str) -> Markup:
    """A picture of a report.

    Args:
      png: the file in base64.
      alt: what it shows, for those who cannot see it.

    Returns:
      The HTML.

    Raises:
      ValueError: it is not a PNG in base64.
    """
    try:
        content = base64.b64decode(png, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"picture is not base64: {error}") from error
    if not content.startswith(_PNG):
        raise ValueError(f"picture is not a PNG: it starts with {content[:8]!r}")
    source = "data:image/png;base64," + base64.b64encode(content).decode()
    return Markup(f'<img alt="{escape(alt)}" src="{source}">')


def failure(text: Any) -> Markup:
    """A line that says in red what went wrong.

    Args:
      text: the reason.

    Returns:
      The HTML.
    """
    return tag("p", text, class_="failed")


def attempt(body: Callable[[], Markup]) -> Markup:
    """A part of a page; if the report is not as it should be there, what is wrong with it.

    One part that cannot be read must not cost the page the others.

    Args:
      body: makes the part.

    Returns:
      The HTML.

    Example:
      >>> attempt(lambda: Markup({}["bins"]))
      '<p class="failed">unreadable: KeyError: &#x27;bins&#x27;</p>'
    """
    try:
        return body()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return failure(f"unreadable: {type(error).__name__}: {error}")


def page(
    title: str,
    facts: Mapping[str, Any],
    sections: Sequence[tuple[str, str, Markup]],
    *,
    kind: str,
) -> str:
    """A whole page.

    Args:
      title: of the page.
      facts: what stands below the title, by name.
      sections: the anchor, title and content of each.
      kind: what sort of page it is, above the title.

    Returns:
      The HTML document.
    """
    entries = [tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name, _ in sections]
    shown = [tag("div", join(tag("dt", key), tag("dd", value))) for key, value in facts.items()]
    head = join(tag("p", kind, class_="kind"), tag("h1", title), tag("dl", join(*shown)))
    body = join(
        tag("header", head),
        tag("nav", join(tag("h2", "Contents"), tag("ol", join(*entries)))),
        *(
            tag("section", join(tag("h2", name), content), id=anchor)
            for anchor, name, content in sections
        ),
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en-GB">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{tag('title', title)}\n<style>{_STYLE}</style>\n</head>\n<body>\n{tag('main', body)}\n"
        "</body>\n</html>\n"
    )


_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1c2733; font: 16px/1.5 system-ui, -apple-system,
  "Segoe UI", "Helvetica Neue", Arial, sans-serif; -webkit-print-color-adjust: exact;
  print-color-adjust: exact; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 40px 64px; }
.kind { margin: 0; color: #5b6875; font-size: 14px; }
h1 { margin: 0 0 16px; font-size: 32px; line-height: 1.2; font-weight: 650;
  overflow-wrap: anywhere; }
h2 { margin: 48px 0 12px; padding-top: 16px; border-top: 1px solid #d8dee4; font-size: 22px;
  font-weight: 650; }
h3 { margin: 28px 0 8px; font-size: 17px; font-weight: 650; }
dl { display: flex; flex-wrap: wrap; gap: 12px 36px; margin: 0; }
dt { color: #5b6875; font-size: 13px; }
dd { margin: 0; font-weight: 550; overflow-wrap: anywhere; }
nav h2 { margin: 28px 0 8px; padding: 0; border: 0; font-size: 15px; }
nav ol { margin: 0; padding-left: 20px; columns: 3; font-size: 15px; }
a { color: #00548c; }
p { margin: 8px 0; max-width: 76ch; }
.wide { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-size: 14px; line-height: 1.4; }
th, td { padding: 5px 12px; border-bottom: 1px solid #e4e8ec; text-align: left;
  vertical-align: top; }
th { color: #5b6875; font-weight: 600; border-bottom-color: #9aa5b1; vertical-align: bottom; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.heat { min-width: 56px; border: 1px solid #fff; }
td.long { max-width: 560px; color: #44515e; overflow-wrap: anywhere; }
td.better strong { color: #00548c; }
td.worse strong { color: #a63c00; }
.failed { color: #b3261e; font-weight: 550; overflow-wrap: break-word; }
.absent { color: #5b6875; font-style: italic; overflow-wrap: break-word; }
td.failed, td.absent { white-space: normal; }
.warnings { margin: 12px 0; padding: 4px 20px; border-left: 4px solid #d55e00;
  background: #fdf3ec; overflow-wrap: anywhere; }
figure { margin: 20px 0 28px; break-inside: avoid; }
figure svg, figure img { display: block; max-width: 100%; height: auto; }
figure img { image-rendering: pixelated; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial,
  sans-serif !important; }
figcaption { margin-top: 6px; max-width: 84ch; color: #44515e; font-size: 14px; }
details { margin: 12px 0; }
summary { cursor: pointer; color: #00548c; font-size: 15px; }
code { font-size: 13px; overflow-wrap: anywhere; }
@media (max-width: 700px) { main { padding: 20px 16px; } nav ol { columns: 1; } }
@media print {
  @page { margin: 14mm; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  body { font-size: 11pt; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
  .wide { overflow: visible; }
  table { font-size: 9pt; }
}
"""
