"""What the page of one run shows of its answers: to clean, corrupted, foreign, attacked images."""

from collections.abc import Mapping
from typing import Any

from experiments.reporting import report_plots as plots
from experiments.reporting.headline import mean
from experiments.reporting.report_html import (
    Markup,
    count,
    decimal,
    details,
    epsilon,
    figure,
    join,
    percent,
    shaded,
    table,
    tag,
)
from experiments.reporting.report_plots import Curve
from experiments.reporting.report_svg import floats, svg

Result = Mapping[str, Any]
SCORES = {
    "msp": "largest softmax probability",
    "entropy": "negative entropy",
    "energy": "negative energy",
    "mahalanobis": "negative Mahalanobis distance",
    "knn": "negative distance to a near neighbour",
}


def clean(result: Result) -> Markup:
    """Calibration and selective prediction on the test images.

    Args:
      result: of the part.

    Returns:
      The HTML.
    """
    calibrated = result["calibrated"]
    rows = [
        ["accuracy, %", percent(result["accuracy"]), percent(result["accuracy"])],
        ["NLL", decimal(result["nll"]), decimal(calibrated["nll"])],
        ["Brier score", decimal(result["brier"]), decimal(calibrated["brier"])],
        ["ECE, 15 bins of equal width, %", percent(result["ece"]), percent(calibrated["ece"])],
        ["ECE, 15 bins of equal mass, %"]
        + [percent(found["adaptive_ece"]) for found in (result, calibrated)],
        ["ECE, class by class, %"]
        + [percent(found["classwise_ece"]) for found in (result, calibrated)],
    ]
    temperature = (
        f"{count(result['count'])} images of {count(result['num_classes'])} classes; temperature "
        f"T = {decimal(result['temperature'])} from {result['temperature_from']}."
    )
    diagrams = {
        "as trained": {"model": result["bins"]},
        "temperature-scaled": {"model": result["calibrated_bins"]},
    }
    coverage = result["risk_coverage"]
    risk = {"": {"model": Curve(coverage["coverage"], coverage["risk"])}}
    flat = [
        [place + 1, *_bin(result["bins"], place), *_bin(result["calibrated_bins"], place)]
        for place in range(len(result["bins"]["count"]))
    ]
    head = ["bin", *(f"{kind}{what}" for kind in ("", "scaled: ") for what in _BIN)]
    return join(
        tag("p", temperature),
        table(["", "as trained", "temperature-scaled"], rows),
        figure(
            svg(plots.reliability(diagrams), "reliability", "Reliability diagrams"),
            "Good is a line on the dashed diagonal: of the images given a confidence, that share "
            "is classified correctly; below it the model is overconfident. The lower panels show "
            "how many images each bin holds.",
        ),
        details("The bins as numbers", table(head, flat)),
        figure(
            svg(
                plots.curves(
                    risk, xlabel="coverage: share of images kept", ylabel="error", height=3.0
                ),
                "risk",
                "Risk against coverage",
            ),
            "Error on the images the model is most confident of, against how many are kept: good "
            f"is low and rising late. The area under the curve is {decimal(result['aurc'])}.",
        ),
    )


_BIN = ("images", "accuracy, %", "confidence, %")


def _bin(bins: Result, place: int) -> list[str]:
    return [
        count(bins["count"][place]),
        percent(bins["accuracy"][place]),
        percent(bins["confidence"][place]),
    ]


def corruptions(result: Result) -> Markup:
    """Accuracy at each corruption and severity.

    Args:
      result: of the part.

    Returns:
      The HTML.
    """
    severities = result["severities"]
    kinds = {name: "held out" for name in result["held_out"]}
    kinds |= {name: "benchmark" for name in result["benchmark"]}
    accuracy = result["accuracy"]
    rows = [
        [name, kinds.get(name, "-"), *map(shaded, row), shaded(mean(row))]
        for name, row in accuracy.items()
    ]
    per_severity = [None if v is None else 1 - v for v in result["mce_per_severity"]]
    rows.append(
        ["mean over the benchmark", "", *map(shaded, per_severity), shaded(mean(per_severity))]
    )
    panels = {
        "mean over the benchmark": {
            "accuracy": Curve(severities, per_severity),
            "ECE": Curve(severities, benchmark_mean(result, "ece")),
        }
    }
    panels |= {
        name: {
            "accuracy": Curve(severities, row),
            **({"ECE": Curve(severities, result["ece"][name])} if name in result["ece"] else {}),
        }
        for name, row in accuracy.items()
    }
    head = ["corruption", "kind", *(f"severity {s}" for s in severities), "mean"]
    others = {
        "NLL": [[name, *map(decimal, row)] for name, row in result["nll"].items()],
        "ECE, %": [[name, *map(percent, row)] for name, row in result["ece"].items()],
    }
    return join(
        tag("p", f"{result['source']}; {count(result['count'])} images a set."),
        tag(
            "figure",
            join(
                table(head, rows, words=2),
                tag(
                    "figcaption",
                    "Accuracy in %, darker is better; good is a row that stays dark up to "
                    "severity 5.",
                ),
            ),
        ),
        figure(
            svg(
                plots.curves(
                    panels,
                    xlabel="severity",
                    ylabel="rate",
                    columns=5,
                    height=1.75,
                    unit=True,
                    ticks=severities,
                ),
                "severity",
                "Accuracy and calibration error against severity",
            ),
            "Good is an accuracy that stays high and a calibration error that stays low as the "
            "severity grows.",
        ),
        *(
            details(f"{what} of each corruption and severity", table([head[0], *head[2:-1]], lines))
            for what, lines in others.items()
        ),
    )


def benchmark_mean(result: Any, key: str) -> list[float | None]:
    """A rate at each severity, averaged over the benchmark corruptions that were measured.

    Args:
      result: of the part "corruptions".
      key: "accuracy", "nll" or "ece".

    Returns:
      One mean a severity; None where one corruption lacks the rate.
    """
    rows = [row for name, row in result[key].items() if name in result["benchmark"]]
    return [mean(column) for column in zip(*rows, strict=True)]


def ood(result: Result) -> Markup:
    """Detection of images from other data sets.

    Args:
      result: of the part.

    Returns:
      The HTML.
    """
    rows = [
        [name, SCORES.get(score, score), count(found["count"])]
        + [percent(values[key]) for key in ("auroc", "aupr", "fpr95")]
        for name, found in result["sets"].items()
        for score, values in found["scores"].items()
    ]
    head = ["set", "score", "images", "AUROC ↑, %", "AUPR ↑, %", "FPR at 95 % TPR ↓, %"]
    shown = {
        name: found["histograms"]
        for name, found in result["sets"].items()
        if found.get("histograms")
    }
    picture = figure(
        svg(plots.histograms(shown), "ood", "Histograms of scores in and out of distribution"),
        "Good is two histograms that do not overlap; a score is higher the more an image looks "
        "like the training data.",
    )
    return join(
        tag("p", f"In distribution: {result['in']}, {count(result['count'])} images."),
        table(head, rows, words=2),
        picture if shown else "",
    )


def attacks(result: Result) -> Markup:
    """Accuracy under perturbations made to fool the model.

    Args:
      result: of the part.

    Returns:
      The HTML.
    """
    sizes = [0.0, *result["epsilons"]]
    # The clean accuracy is the one at no perturbation.
    panel = {
        name: Curve((255 * floats(sizes)).tolist(), [result["clean_accuracy"], *result[key]])
        for name, key in (("FGSM", "fgsm"), ("PGD", "pgd"))
    }
    rows = [
        [epsilon(size), percent(one), percent(other)]
        for size, one, other in zip(sizes, *(curve.y for curve in panel.values()), strict=True)
    ]
    return join(
        tag(
            "p",
            f"{count(result['count'])} images; PGD of {count(result['steps'])} steps and "
            f"{count(result['restarts'])} restart(s); ε bounds the change of any pixel.",
        ),
        table(["ε", "FGSM accuracy, %", "PGD accuracy, %"], rows),
        figure(
            svg(
                plots.curves(
                    {"": panel},
                    xlabel="ε in steps of a pixel, of 255",
                    ylabel="accuracy",
                    height=3.2,
                    unit=True,
                ),
                "attacks",
                "Accuracy against the size of the perturbation",
            ),
            "Good is a curve that stays high; PGD below FGSM is expected, since it searches "
            "longer; the reverse is a sign that its search fails.",
        ),
    )
