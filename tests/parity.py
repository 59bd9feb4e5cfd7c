"""How far every policy is from its reference: the table of docs/parity.md.

A row compares a deterministic function of the library with NumPy loops in float64, over many random
cases fed to both. `python tests/parity.py` writes the page; `parity_test.py` asserts the bounds and
that the page is up to date.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import policy_reference
import reference
import saliency_reference
import solver_reference

from semjax import losses
from semjax.hidden import MixingHook, input_mix
from semjax.mixing import Mix, Noise, interpolate, interpolate_spatial, perturb
from semjax.policies.alignmix import alignment
from semjax.policies.attentive_cutmix import attentive_mask
from semjax.policies.cutmix import box_mask, clipped_box, cutmix_mask
from semjax.policies.fmix import fmix_field, fmix_mask
from semjax.policies.gridmix import gridmix_mask
from semjax.policies.puzzlemix import mask_problem
from semjax.policies.resizemix import box_zoom
from semjax.policies.saliencymix import saliency_peak
from semjax.policies.smoothmix import smoothmix_mask
from semjax.targets import mixed_values
from semjax.umix import umix_weights

PAGE = Path(__file__).resolve().parents[1] / "docs" / "parity.md"
SIZES = [(32, 32), (24, 36), (7, 5), (1, 9), (1, 1)]
CASES = 40


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      policy: its name, with the options that matter.
      paper: who described it.
      reference: what the library is compared with.
      deviation: returns the largest absolute deviation over random cases.
      tolerance: what the deviation may be.
      fixtures: what was worked by hand or in closed form, and agrees, and the test that says so.
      known: what widely used implementations do differently, and what this one does.
    """

    policy: str
    paper: str
    reference: str
    deviation: Callable[[], float]
    tolerance: float
    fixtures: str
    known: str


def _gap(found, expected) -> float:
    """The largest absolute difference; shapes must agree."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        return math.inf
    return float(np.abs(found - expected).max(initial=0.0))


def _worst(compare: Callable[..., float]) -> float:
    """The largest deviation of `compare(random, height, width)` over the sizes."""
    random = np.random.default_rng(0)
    return max(compare(random, *size) for size in SIZES)


def _float32(random, low, high, *shape) -> np.ndarray:
    return random.uniform(low, high, shape).astype(np.float32)


def _centres(random, height, width) -> np.ndarray:
    return random.integers(0, [height, width], (CASES, 2)).astype(np.int32)


def mixup() -> float:
    """Rows mixed by weight."""

    def compare(random, height, width):
        partner = random.permutation(CASES).astype(np.int32)
        weight = _float32(random, 0, 1, CASES)
        x = _float32(random, -1, 1, CASES, height, width, 3)
        found = interpolate(Mix(partner, weight), x)
        return _gap(found, reference.interpolate(partner, weight, x))

    return _worst(compare)


def cutmix() -> float:
    """Boxes around a centre, clipped."""

    def compare(random, height, width):
        weight, centre = _float32(random, 0, 1, CASES), _centres(random, height, width)
        found = cutmix_mask(weight, centre, height=height, width=width)
        return _gap(found, reference.cutmix_mask(weight.astype(float), centre, height, width))

    return _worst(compare)


def cutmix_minmax() -> float:
    """Boxes inside the image, and the pixels they have."""

    def compare(random, height, width):
        first = random.integers(0, [height, width], (CASES, 2))
        last = random.integers(first, [height + 1, width + 1])
        box = np.concatenate([first, last], 1).astype(np.int32)
        found = np.asarray(box_mask(box, height=height, width=width))
        return max(
            _gap(found, policy_reference.box_mask(box, height, width)),
            _gap((1 - found).sum((1, 2, 3)), (last - first).prod(1)),
        )

    return _worst(compare)


def fmix(*, reference_compat: bool = False) -> float:
    """Fields relative to their greatest value, and the pixels chosen from a field."""

    def compare(random, height, width):
        columns = width // 2 + 1
        if reference_compat and width % 2:
            columns = min(width, width // 2 + 2)
        noise = random.standard_normal((CASES, height, columns, 2)).astype(np.float32)
        field = np.asarray(
            fmix_field(noise, height=height, width=width, reference_compat=reference_compat)
        )
        expected = policy_reference.fmix_field(noise, height, width, 3.0, reference_compat)
        weight, up = _float32(random, 0, 1, CASES), random.integers(0, 2, CASES) > 0
        return max(
            _gap(field / np.abs(field).max(), expected / np.abs(expected).max()),
            _gap(fmix_mask(weight, field, up), policy_reference.fmix_mask(weight, field, up)),
        )

    return _worst(compare)


def resizemix() -> float:
    """Boxes, and batches with the partners resized into them by area averages."""

    def compare(random, height, width):
        ratio, centre = _float32(random, 0.1, 0.8, CASES), _centres(random, height, width)
        box = clipped_box(ratio, centre, height=height, width=width)
        expected = policy_reference.clipped_box(ratio.astype(float), centre, height, width)
        mask = box_mask(box, height=height, width=width)
        partner = np.roll(np.arange(CASES), 1).astype(np.int32)
        x = _float32(random, -1, 1, CASES, height, width, 1)
        mix = Mix(
            partner, mask.mean((1, 2, 3)), mask, zoom=box_zoom(box, height=height, width=width)
        )
        pasted = x.astype(np.float64)
        for i, (top, left, bottom, right) in enumerate(expected):
            if top < bottom and left < right:
                small = reference.area_resample(x[[partner[i]]], bottom - top, right - left)
                pasted[i, top:bottom, left:right] = small[0]
        return max(_gap(box, expected), _gap(interpolate_spatial(mix, x), pasted))

    return _worst(compare)


def gridmix() -> float:
    """Grids of holes."""

    def compare(random, height, width):
        weight = _float32(random, 0, 1, CASES)
        holes = random.integers(2, 7, CASES).astype(np.float32)
        area, aspect = _float32(random, 0.5, 1, CASES), _float32(random, 0.5, 2, CASES)
        place = _float32(random, 0, 1, CASES, 2)
        found = gridmix_mask(
            weight, holes, area=area, aspect=aspect, place=place, height=height, width=width
        )
        drawn = [value.astype(float) for value in (weight, holes, area, aspect, place)]
        return _gap(found, policy_reference.gridmix_mask(*drawn, height, width))

    return _worst(compare)


def smoothmix() -> float:
    """Gaussians."""

    def compare(random, height, width):
        sigma, centre = _float32(random, 0.25, 0.5, CASES), _float32(random, 0, 1, CASES, 2)
        found = smoothmix_mask(sigma, centre, height=height, width=width)
        return _gap(found, policy_reference.smoothmix_mask(sigma, centre, height, width))

    return _worst(compare)


def saliencymix() -> float:
    """Boxes around the peaks of maps that have several."""

    def compare(random, height, width):
        weight = _float32(random, 0, 1, CASES)
        saliency = random.integers(0, 50, (CASES, height, width)).astype(np.float32)
        peak, expected = saliency_peak(saliency), saliency_reference.saliency_peak(saliency)
        found = cutmix_mask(weight, peak, height=height, width=width)
        boxes = reference.cutmix_mask(weight.astype(float), expected, height, width)
        return max(_gap(peak, expected), _gap(found, boxes))

    return _worst(compare)


def attentive_cutmix() -> float:
    """Cells of grids that are no finer than the image, some of them equal."""

    def compare(random, height, width):
        rows, columns = min(7, height), min(7, width)
        cells = 6 * rows * columns // 49
        attention = random.integers(0, 20, (CASES, rows, columns)).astype(np.float32)
        found = attentive_mask(attention, cells, height=height, width=width)
        return _gap(found, saliency_reference.attentive_mask(attention, cells, height, width))

    return _worst(compare)


def puzzlemix() -> float:
    """Every term of the energy of a mask, with at most 4 x 4 blocks."""

    def compare(random, height, width):
        n = min(4, height, width)
        own, other = (_float32(random, 0, 1, CASES, height, width) for _ in range(2))
        images = tuple(_float32(random, -1, 1, CASES, height, width, 3) for _ in range(2))
        weight = _float32(random, 0, 1, CASES)
        found = mask_problem(own, other, weight, n, images=images)
        expected = saliency_reference.mask_problem(own, other, weight, n, images=images)
        terms = zip((found.unary, found.horizontal, found.vertical), expected, strict=True)
        return max(_gap(*term) for term in terms)

    return _worst(compare)


def puzzlemix_solvers() -> float:
    """What masks of 8 x 8 blocks and moves of 64 miss of the optimum, relative to it, at worst."""
    mask = solver_reference.labelling_gap(0, CASES, 8)
    return max(mask[1], solver_reference.assignment_gap(0, CASES, 64)[1])


def alignmix() -> float:
    """Plans between feature maps of at most 3 x 3 cells."""

    def compare(random, height, width):
        shape = (CASES, min(3, height), min(3, width), 8)
        a, b = (_float32(random, -1, 1, *shape) for _ in range(2))
        found = np.asarray(alignment(a, b)).reshape(CASES, shape[1] * shape[2], -1)
        pairs = zip(a, b, strict=True)
        return _gap(found, np.stack([saliency_reference.alignment(x, y) for x, y in pairs]))

    return _worst(compare)


def manifold_mixup() -> float:
    """Rows mixed where their layer has come, and nowhere else."""

    def compare(random, height, width):
        partner = random.permutation(CASES).astype(np.int32)
        weight = _float32(random, 0, 1, CASES)
        layer = random.integers(0, 3, CASES).astype(np.int32)
        mix = Mix(partner, weight, layer=layer, layers=(0, 1, 2))
        x = _float32(random, -1, 1, CASES, height, width, 3)
        mixed = reference.interpolate(partner, weight, x)
        hook = MixingHook(mix, CASES)
        places = [input_mix(mix, jnp.asarray(x)), *(hook(k, jnp.asarray(x)) for k in (1, 2))]
        return max(
            _gap(found, [mixed[i] if layer[i] == place else x[i] for i in range(CASES)])
            for place, found in enumerate(places)
        )

    return _worst(compare)


def noisy_feature_mixup() -> float:
    """The formula of the noise, with the numbers that its seeds stand for."""

    def compare(random, height, width):
        seed = random.integers(0, 2**32, CASES, dtype=np.uint32)
        add, multiply = _float32(random, 0, 0.4, CASES), _float32(random, 0, 0.2, CASES)
        x = _float32(random, -1, 1, CASES, height, width, 3)
        zero, one = np.zeros(CASES, np.float32), np.ones(CASES, np.float32)
        normal = perturb(Noise(seed, one, zero), np.zeros_like(x))
        uniform = perturb(Noise(seed, zero, one), np.ones_like(x)) - 1
        expected = np.empty(x.shape)
        for i, a, b, c in np.ndindex(x.shape):
            factor = 1 + float(multiply[i]) * float(uniform[i, a, b, c])
            expected[i, a, b, c] = factor * x[i, a, b, c] + float(add[i]) * normal[i, a, b, c]
        return _gap(perturb(Noise(seed, add, multiply), x), expected)

    return max(compare(np.random.default_rng(0), *size) for size in SIZES[2:])


def jensen_shannon() -> float:
    """The consistency of AugMix, class by class."""

    def compare(random, height, width):
        logits = _float32(random, -8, 8, 3, CASES, height + width)
        p = np.exp(np.float64(logits))
        p /= p.sum(-1, keepdims=True)
        expected = np.zeros(CASES)
        for view, i, k in np.ndindex(p.shape):
            middle = min(max(p[:, i, k].mean(), 1e-7), 1.0)
            expected[i] += p[view, i, k] * np.log(p[view, i, k] / middle) / 3
        return _gap(losses.jensen_shannon(list(logits)), expected)

    return _worst(compare)


def umix() -> float:
    """The two terms of a mixed row, each with the weight of its own example."""

    def compare(random, height, width):
        partner = random.permutation(CASES).astype(np.int32)
        weight, rates = _float32(random, 0, 1, CASES), _float32(random, 0, 1, CASES)
        logits, targets = _float32(random, -3, 3, CASES, 5), np.eye(5)[random.integers(0, 5, CASES)]
        sample = umix_weights(rates, eta=80.0)
        mix = Mix(jnp.asarray(partner), jnp.asarray(weight))
        found = mixed_values(
            "ce", jnp.asarray(logits), jnp.asarray(targets), mix, sample_weight=sample
        )
        expected = np.empty(CASES)
        for i, j in enumerate(partner):
            own, other = (
                reference.cross_entropy(logits[i : i + 1], targets[k : k + 1])[0] for k in (i, j)
            )
            share = float(weight[i])
            expected[i] = (
                share * (80 * rates[i] + 1) * own + (1 - share) * (80 * rates[j] + 1) * other
            )
        return _gap(np.asarray(found) / 80, expected / 80)

    return _worst(compare)


ROWS = [
    Row(
        policy="mixup",
        paper="Zhang et al. 2018",
        reference="sum of two rows",
        deviation=mixup,
        tolerance=1e-6,
        fixtures="Beta law at 7 alphas from 0.001 to 10 (`mixup_test.py`)",
        known="Elsewhere: the weight is returned as the partner's, so that labels are swapped; "
        "images and labels are shuffled by two permutations; p is applied twice (p² of the batches "
        "are mixed); a ratio of float32 gammas is NaN for 13 % of the draws at alpha 0.01. Here: "
        "the weight is the original's, one `Mix` drives all, p acts once, no draw is NaN.",
    ),
    Row(
        policy="cutmix",
        paper="Yun et al. 2019",
        reference="the authors' box, pixel by pixel",
        deviation=cutmix,
        tolerance=0.0,
        fixtures="10 of 10 boxes; mean weight 0.701 at 32 and 0.690 at 64 pixels "
        "(`cutmix_test.py`)",
        known="Elsewhere: the label weight is taken from the box before clipping (wrong by up to "
        "0.69), or H and W are swapped on images that are not square. Here: the weight is the mean "
        "of the mask, whatever the shape; `correction=False` gives the unclipped weight.",
    ),
    Row(
        policy="cutmix, minmax",
        paper="Bochkovskiy et al. 2020 (code)",
        reference="a box inside the image, pixel by pixel",
        deviation=cutmix_minmax,
        tolerance=0.0,
        fixtures="sides, places and mean weight at 10 x 15 pixels (`cutmix_test.py`)",
        known="timm draws sides and places as here, the last row and column left out. A range "
        "without an integer is a ValueError that names the image's size.",
    ),
    Row(
        policy="fmix",
        paper="Harris et al. 2020",
        reference="the paper's spectrum, NumPy's irfftn; sorted pixels",
        deviation=fmix,
        tolerance=1e-5,
        fixtures="count of pixels within 1, fair coin, spectrum falling by the sixth power "
        "(`fmix_test.py`)",
        known="The authors' code and its copies index the wrong axis of the spectrum, so that all "
        "energy lies at |k_x| <= 1; labels get the proportion drawn, up to 1/(HW) from the "
        "pixels'. Here: the paper's spectrum, and the mean of the mask.",
    ),
    Row(
        policy="fmix, reference_compat",
        paper="Harris et al. 2020 (code)",
        reference="the authors' spectrum, NumPy's irfftn; sorted pixels",
        deviation=lambda: fmix(reference_compat=True),
        tolerance=1e-5,
        fixtures="energy at |k_x| > 1 below 1e-10 (`fmix_test.py`)",
        known="The wrong axis, on purpose. On images one pixel high, where the authors' code "
        "fails, row 0 serves twice.",
    ),
    Row(
        policy="resizemix",
        paper="Qin et al. 2020",
        reference="OpenMixup's box; area averages of the partner",
        deviation=resizemix,
        tolerance=1e-5,
        fixtures="mean weight 0.841 at 32 pixels (`resizemix_test.py`)",
        known="OpenMixup fails on a box without area, swaps H and W and picks nearest pixels. "
        "Here: such a box has weight 1, any shape, area averages.",
    ),
    Row(
        policy="gridmix",
        paper="Baek et al. 2021, Dobrynin's form",
        reference="hole by hole",
        deviation=gridmix,
        tolerance=0.0,
        fixtures="a grid of 9 holes; mean weight of the reference's own draws (`gridmix_test.py`)",
        known="Dobrynin's code wraps around where a crop is longer than the image, raises where "
        "holes do not fit, and has holes at weight 1. Here: crops are cut to the image, the number "
        "of holes to half the crop, and weight 1 is the row itself.",
    ),
    Row(
        policy="smoothmix",
        paper="Lee et al. 2020",
        reference="a Gaussian, pixel by pixel",
        deviation=smoothmix,
        tolerance=1e-6,
        fixtures="mean weight in closed form at 8 x 8 and 6 x 10 pixels (`smoothmix_test.py`)",
        known="OpenMixup gives the Gaussian to the partner's pixels and its mean to the row's "
        "label (labels swapped), puts centres between pixels, and needs square images. Here: the "
        "Gaussian and its mean are the row's, with centres anywhere, on any shape.",
    ),
    Row(
        policy="saliencymix",
        paper="Uddin et al. 2021",
        reference="the first peak in reading order; the box of CutMix around it, pixel by pixel",
        deviation=saliencymix,
        tolerance=0.0,
        fixtures="the gradient of a linear model in closed form (`probing_test.py`); a peak of its "
        "own for every partner (`saliencymix_test.py`)",
        known="The authors' code takes the peak of one image for the whole batch, from OpenCV's "
        "static saliency. Here: every row has the peak of its own partner, of the input gradient "
        "of the label loss.",
    ),
    Row(
        policy="attentive_cutmix",
        paper="Walawalkar et al. 2020",
        reference="sorted cells, pixel by pixel",
        deviation=attentive_cutmix,
        tolerance=0.0,
        fixtures="6 of 49 cells, weight 43/49 (`attentive_cutmix_test.py`)",
        known="There the map is that of another, pretrained network. Here: the model's own feature "
        "map; the weight is the mean of the mask, also where cells are of unequal size.",
    ),
    Row(
        policy="puzzlemix",
        paper="Kim et al. 2020",
        reference="the energy of a mask, term by term",
        deviation=puzzlemix,
        tolerance=1e-5,
        fixtures="masks of 2 x 2 and 3 x 3 blocks are the best of all; blocks move whole, pixel by "
        "pixel (`puzzlemix_test.py`)",
        known="The authors' colour term also charges each image for its own edges, and takes "
        "colours in [0, 1], averaged over a few pixels; here only the excess counts, of the pixels "
        "at the edge, in the units of the images. The prior alone keeps no very salient partner "
        "out of a row of weight 1; here such a row is left as it is, and nothing moves in a row "
        "that is its own partner.",
    ),
    Row(
        policy="puzzlemix, solvers",
        paper="Kim et al. 2020",
        reference="minimum cut (Ishikawa) and best assignment, by SciPy; relative",
        deviation=puzzlemix_solvers,
        tolerance=1e-2,
        fixtures="up to 16 x 16 blocks (`labelling_test.py`, `transport_test.py`)",
        known="The authors' code masks by alpha-beta swaps of graph cuts on the host, and its "
        "moves need not end in a permutation. Here: message passing and an auction on the device; "
        "moves are a permutation.",
    ),
    Row(
        policy="alignmix",
        paper="Venkataramanan et al. 2022",
        reference="Sinkhorn's scaling of the kernel, cell by cell",
        deviation=alignmix,
        tolerance=1e-4,
        fixtures="permuted cells are found again; the best assignment for small epsilon "
        "(`alignmix_test.py`)",
        known="The authors' cost is of features as they are, so that epsilon depends on their "
        "scale. Here: features are scaled to unit length, and costs lie in [0, 4].",
    ),
    Row(
        "manifold_mixup",
        "Verma et al. 2019",
        "rows of the layer mixed, the others as they are",
        manifold_mixup,
        1e-6,
        "an unmodified Linen model equals the pass mixed by hand (`hidden_test.py`); layers drawn "
        "uniformly inside one program (`hidden_layers_test.py`)",
        "The authors' code draws the layer on the host and takes the sigmoid cross-entropy of the "
        "softmax. Here: the layer is drawn inside the compiled step, softmax cross-entropy is the "
        "default, and a layer that the model does not offer is an error.",
    ),
    Row(
        "noisy_feature_mixup",
        "Lim et al. 2021",
        "the formula, number by number",
        noisy_feature_mixup,
        1e-6,
        "moments of the noise, Beta(2, 5) strengths (`hidden_layers_test.py`, `mixing_test.py`)",
        "Labels and the targets of the gap have no noise.",
    ),
    Row(
        "AugMix's Jensen-Shannon term",
        "Hendrycks et al. 2020",
        "the divergence, class by class",
        jensen_shannon,
        1e-5,
        "0.8415339715 for the published formula on two rows (`losses_test.py`)",
        "As the authors': the mean of the predictions is clipped to [1e-7, 1].",
    ),
    Row(
        "UMIX's weighted loss",
        "Han et al. 2022",
        "two terms, row by row; relative to eta",
        umix,
        1e-5,
        "weights by the share of errors (`umix_test.py`)",
        "The authors' code counts an epoch that was not recorded as an error. Here: it is left "
        "out where `recorded` says so.",
    ),
]


@functools.cache
def deviation_of(row: Row) -> float:
    """The deviation of a row, computed once."""
    return row.deviation()


def bound(deviation: float) -> str:
    """A deviation as text: the next power of ten, with room for the rounding of other machines."""
    if deviation == 0:
        return "exact"
    return f"<= 1e{math.ceil(math.log10(3 * deviation)):d}"


def render(rows: list[Row] | None = None) -> str:
    """The page."""
    lines = [
        "# Parity",
        "",
        "Every method against an independent NumPy reference (float64, loops), both fed the same "
        "random draws: the largest absolute deviation over "
        f"{CASES} cases on each of {len(SIZES)} sizes, among them non-square, odd and one-pixel "
        "ones. "
        "Written by `python tests/parity.py`; `tests/parity_test.py` asserts it.",
        "",
        "| policy | paper | reference | deviation | tolerance | fixtures | known differences |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in ROWS if rows is None else rows:
        tolerance = "0" if row.tolerance == 0 else f"{row.tolerance:.0e}".replace("e-0", "e-")
        cells = [row.policy, row.paper, row.reference, bound(deviation_of(row)), tolerance]
        cells += [row.fixtures, row.known]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render(), encoding="utf-8")
