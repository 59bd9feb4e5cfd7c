"""What the page of one run shows of the representation, of groups, and of what the model saw."""

from collections.abc import Mapping
from typing import Any

from experiments.reporting import report_plots as plots
from experiments.reporting.headline import GAP_LAYER, items, number
from experiments.reporting.report_html import (
    Markup,
    count,
    decimal,
    details,
    failure,
    figure,
    image,
    join,
    percent,
    table,
    tag,
)
from experiments.reporting.report_plots import Curve
from experiments.reporting.report_svg import svg

Result = Mapping[str, Any]
# Groups shown as bars; a table has all.
_MOST_BARS = 30


def equivariance(result: Result) -> Markup:
    """How far the representation of a mix is from the mix of the representations.

    Args:
      result: of the part.

    Returns:
      The HTML.
    """
    policies = result["policies"]
    if not policies:
        return tag("p", "not measured", class_="absent")
    pictures = [
        figure(
            svg(
                plots.curves(
                    {
                        policy: {
                            layer: Curve(result["weight"], found[key])
                            for layer, found in entry["layers"].items()
                        }
                        for policy, entry in policies.items()
                    },
                    xlabel="weight of the first image",
                    ylabel=label,
                    columns=3,
                ),
                key.replace("_", "-"),
                f"{label} against the weight",
            ),
            caption,
        )
        for key, label, caption in (
            (
                "gap",
                "gap",
                "Distance between the representation of a mix and the mix of the two "
                "representations: good is low, but layers differ in scale, so compare a layer only "
                "with itself.",
            ),
            (
                "normalised_gap",
                "normalised gap",
                "The same free of scale, so that layers and models can be compared: good is low; 0 "
                "is exact equivariance.",
            ),
        )
    ]
    rows = [
        [policy, layer, decimal(found["mean_gap"]), decimal(found["mean_normalised_gap"])]
        for policy, entry in policies.items()
        for layer, found in entry["layers"].items()
    ]
    return join(
        tag("p", f"{count(result['count'])} mixed images. The headline takes “{GAP_LAYER}”."),
        table(["policy", "layer", "mean gap ↓", "mean normalised gap ↓"], rows, words=2),
        *pictures,
    )


def probes(result: Result) -> Markup:
    """What a linear probe reads from the representation besides the label.

    Args:
      result: of the part.

    Returns:
      The HTML.
    """
    factors = result["factors"]
    labels = [f"{name} ({_metric(found['metric'])})" for name, found in factors.items()]
    rows = [
        [
            name,
            _metric(found["metric"]),
            *(decimal(found[key], 3) for key in ("score", "chance")),
            count(found["classes"]),
        ]
        for name, found in factors.items()
    ]
    picture = figure(
        svg(
            plots.bars(
                labels,
                {"score": [found["score"] for found in factors.values()]},
                xlabel="score",
                chance=[found["chance"] for found in factors.values()],
            ),
            "probes",
            "Scores of linear probes",
        ),
        "Good is a long bar: the representation keeps what has nothing to do with the label; the "
        "black mark is what guessing gets.",
    )
    return join(
        tag(
            "p",
            f"Source: {result['source']}; probes fitted on {count(result['train'])} images and "
            f"scored on {count(result['test'])}; mean above chance "
            f"{decimal(result['mean_score'], 3)}.",
        ),
        picture if factors else "",
        details(
            "As numbers", table(["factor", "metric", "score", "chance", "classes"], rows, words=2)
        ),
    )


def _metric(name: str) -> str:
    return "R²" if name == "r2" else name


def groups(result: Result) -> Markup:
    """Accuracy in groups of the test images.

    Args:
      result: of the part.

    Returns:
      The HTML.
    """
    found = sorted(
        result["groups"],
        key=lambda group: (group["accuracy"] is None, number(group["accuracy"]) or 0.0),
    )
    shown = found[:_MOST_BARS]
    rows = [[group["name"], count(group["count"]), percent(group["accuracy"])] for group in found]
    average = number(result["average"])
    picture = figure(
        svg(
            plots.bars(
                [f"{group['name']} ({count(group['count'])})" for group in shown],
                {"accuracy": [group["accuracy"] for group in shown]},
                xlabel="accuracy",
                line=None if average is None else ("average", average),
            ),
            "groups",
            "Accuracy of each group",
        ),
        f"Good is short distances from the dashed average; the {len(shown)} worst of {len(found)} "
        "groups, with the number of images in brackets.",
    )
    return join(
        tag(
            "p",
            f"Source of the groups: {result['source']}; average {percent(result['average'])} %, "
            f"worst {percent(result['worst'])} % ({result['worst_group']}).",
        ),
        picture if shown else "",
        details("As numbers", table(["group", "images", "accuracy, %"], rows)),
    )


PICTURES = {
    "strip": (
        "A mixed batch",
        "Look whether each mix shows both images, in the share its weight says.",
    ),
    "saliency": ("Saliency", "Good is a map that lies on the object, not on the background."),
    "corrupted": (
        "Corrupted images",
        "Look whether people would still name the image: where they would, the model should.",
    ),
}


def pictures(result: Result) -> Markup:
    """What the model saw.

    Args:
      result: of the part.

    Returns:
      The HTML; a picture that cannot be shown is replaced by the reason.
    """
    found = []
    for name, entry in items(result):
        title, reading = PICTURES.get(name, (name, ""))
        try:
            shown = figure(
                image(entry["png"], title), f"{_sentence(str(entry['caption']))} {reading}"
            )
        except (ValueError, KeyError, TypeError) as error:
            shown = failure(f"unreadable: {error}")
        found.append(join(tag("h3", title), shown))
    return join(*found)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def projection(result: Result) -> Markup:
    """Representations in the plane.

    Args:
      result: of the part.

    Returns:
      The HTML.
    """
    return join(
        tag(
            "p",
            f"{result['method']}; {count(len(result['clean']))} clean images and "
            f"{count(len(result['mixed']))} mixed ones.",
        ),
        figure(
            svg(plots.projection(result), "projection", "Representations in the plane"),
            "Good is short lines: each joins the representation of a mixed image (circle) to the "
            "mix of the representations of its two images (square).",
        ),
    )
