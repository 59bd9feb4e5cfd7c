"""What the policies that look at the model compute, again in plain NumPy: loops, float64.

Nothing here is taken from the library. The exact solvers stand in `solver_reference.py`.
"""

import math

import numpy as np


class Answers:
    """A probe that answers what it was given."""

    def __init__(self, *, saliency=None, features=None, images=None):
        """Takes the answers; a question without one is an error."""
        self._answers = {"saliency": saliency, "features": features, "images": images}

    def _answer(self, name):
        if self._answers[name] is None:
            raise AssertionError(f"the policy asked for {name}")
        return self._answers[name]

    def saliency(self):
        return self._answer("saliency")

    def features(self):
        return self._answer("features")

    def images(self):
        return self._answer("images")

    def fresh(self):
        return self


def linear_saliency(kernel, image, label):
    """Root mean square over channels of the gradient of -log softmax(x W)_y, row by row."""
    kernel, image = np.float64(kernel), np.float64(image)
    out = np.empty(image.shape[:3])
    for i, x in enumerate(image):
        logits = x.reshape(-1) @ kernel
        likely = np.exp(logits - logits.max())
        error = likely / likely.sum() - np.eye(len(logits))[label[i]]
        gradient = (kernel @ error).reshape(x.shape)
        for a, b in np.ndindex(out.shape[1:]):
            out[i, a, b] = math.sqrt(sum(g**2 for g in gradient[a, b]) / x.shape[2])
    return out


def saliency_peak(saliency):
    """The first of the largest pixels of each map, in reading order."""
    peaks = []
    for each in saliency:
        best = (0, 0)
        for place in np.ndindex(each.shape):
            if each[place] > each[best]:
                best = place
        peaks.append(best)
    return np.array(peaks)


def block_means(values, rows, columns):
    """Area averages of f64[B, H, W] over rows x columns blocks, pixels cut into smaller ones."""
    values = np.float64(values)
    batch, height, width = values.shape
    out = np.empty((batch, rows, columns))
    fine = values.repeat(rows, axis=1).repeat(columns, axis=2)
    for i, a, b in np.ndindex(out.shape):
        block = fine[i, a * height : (a + 1) * height, b * width : (b + 1) * width]
        out[i, a, b] = block.mean()
    return out


def attentive_mask(attention, cells, height, width):
    """0 at the pixels of the most attended cells; of equal ones the first come first."""
    mask = np.ones((len(attention), height, width, 1))
    for i, values in enumerate(np.asarray(attention)):
        order = sorted(np.ndindex(values.shape), key=lambda place: (-values[place], place))
        for a, b in np.ndindex(height, width):
            cell = (a * values.shape[0] // height, b * values.shape[1] // width)
            if cell in order[:cells]:
                mask[i, a, b] = 0
    return mask


# --- PuzzleMix ---------------------------------------------------------------------------------


def block_shares(saliency, n):
    """Mean saliency of each block, summing to 1; equal where nothing is salient."""
    blocks = block_means(saliency, n, n)
    for i, each in enumerate(blocks):
        blocks[i] = each / each.sum() if each.sum() > 0 else 1 / n**2
    return blocks


def colour_jumps(own, other, n):
    """By how much colours jump more at the edge of two blocks when the image changes there."""
    own, other = np.float64(own), np.float64(other)
    batch, height, width, _ = own.shape

    def along(x, y, i, place, block, rows):
        """The mean jump from x before `place` to y at it, over one block of the edge."""
        jumps = [np.abs(x[i, row, place - 1] - y[i, row, place]).mean() for row in range(rows)]
        return np.repeat(jumps, n)[block * rows : (block + 1) * rows].mean()

    def excess(x, y, i, place, block, rows):
        changed = along(x, y, i, place, block, rows) + along(y, x, i, place, block, rows)
        same = along(x, x, i, place, block, rows) + along(y, y, i, place, block, rows)
        return max(changed - same, 0) / 2

    turned = own.swapaxes(1, 2), other.swapaxes(1, 2)
    horizontal, vertical = np.empty((batch, n, n - 1)), np.empty((batch, n - 1, n))
    for i, k, block in np.ndindex(batch, n - 1, n):
        horizontal[i, block, k] = excess(own, other, i, (k + 1) * width // n, block, height)
        vertical[i, k, block] = excess(*turned, i, (k + 1) * height // n, block, width)
    return horizontal, vertical


def mask_problem(
    saliency, partner, weight, n, *, images=None, beta=1.2, gamma=0.5, eta=0.2, levels=3
):
    """Unary, horizontal and vertical costs of the energy of a mask, term by term."""
    own, other = block_shares(saliency, n), block_shares(partner, n)
    unary = np.empty((*own.shape, levels))
    for i, a, b, label in np.ndindex(unary.shape):
        z, share = label / (levels - 1), float(weight[i])
        ways = math.comb(levels - 1, label)
        law = ways * share**label * (1 - share) ** (levels - 1 - label)
        lost = (1 - z) * own[i, a, b] + z * other[i, a, b]
        # The law may be 0, as when the weight is.
        unary[i, a, b, label] = lost - eta / n**2 * math.log(law + 1e-8)
    across, down = np.zeros((len(own), n, n - 1)), np.zeros((len(own), n - 1, n))
    if images is not None:
        across, down = colour_jumps(*images, n)
    strength = beta / (16 * n)
    return unary, strength * (1 + gamma * across), strength * (1 + gamma * down)


def move_benefit(z, saliency, move_cost):
    """What place j gains from the block of place i: f64[n * n, n * n] of one row."""
    n = len(z)
    benefit = np.empty((n * n, n * n))
    for j, i in np.ndindex(benefit.shape):
        (a, b), (c, d) = divmod(j, n), divmod(i, n)
        # From one side of the image to the other the distance is 1.
        distance = math.hypot(a - c, b - d) / max(n - 1, 1)
        benefit[j, i] = z[a, b] * saliency[c, d] - move_cost * distance**2
    return benefit


def moved_blocks(x, source, n):
    """An image whose n x n blocks are taken from where `source` says, pixel by pixel."""
    out = np.empty_like(x)
    height, width = x.shape[0] // n, x.shape[1] // n
    for a, b in np.ndindex(x.shape[:2]):
        row, column = divmod(int(source[a // height * n + b // width]), n)
        out[a, b] = x[row * height + a % height, column * width + b % width]
    return out


# --- AlignMix ----------------------------------------------------------------------------------


def alignment_cost(features, partner):
    """Squared distances of the cells' features scaled to unit length, of one row."""
    a, b = (np.float64(x).reshape(-1, x.shape[-1]) for x in (features, partner))
    cost = np.empty((len(a), len(b)))
    for i, j in np.ndindex(cost.shape):
        u, v = (x / np.linalg.norm(x) if x.any() else x for x in (a[i], b[j]))
        cost[i, j] = ((u - v) ** 2).sum()
    return cost


def alignment(features, partner, epsilon=0.1, iterations=100):
    """N times Sinkhorn's plan of one row, columns scaled and then rows."""
    kernel = np.exp(-alignment_cost(features, partner) / epsilon)
    n = len(kernel)
    u, v = np.ones(n), np.ones(n)
    for _ in range(iterations):
        for j in range(n):
            v[j] = 1 / n / (kernel[:, j] @ u)
        for i in range(n):
            u[i] = 1 / n / (kernel[i] @ v)
    return n * u[:, None] * kernel * v[None, :]
