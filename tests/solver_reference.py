"""What semjax.transport and semjax.labelling approximate, exactly, by NumPy and SciPy.

The first part takes nothing from the library. The second draws problems like those of PuzzleMix,
and the third measures on them how far the library's answers are from the exact ones.
"""

import itertools
import math

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from semjax.labelling import label_grid
from semjax.transport import assignment, sinkhorn

# --- Exact answers -----------------------------------------------------------------------------


def scaled_plan(cost, epsilon, iterations):
    """Sinkhorn's scaling of one cost matrix, columns and then rows, as textbooks have it."""
    kernel = np.exp(-np.asarray(cost, np.float64) / epsilon)
    n, m = kernel.shape
    u = np.ones(n)
    for _ in range(iterations):
        v = 1 / m / (kernel.T @ u)
        u = 1 / n / (kernel @ v)
    return u[:, None] * kernel * v[None, :]


def least_transport_cost(cost):
    """The optimum of the linear programme of transport between uniform marginals."""
    cost = np.asarray(cost, np.float64)
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    marginals = np.r_[np.full(n, 1 / n), np.full(m, 1 / m)]
    solved = linprog(cost.ravel(), A_eq=np.r_[rows, columns], b_eq=marginals, method="highs")
    return solved.fun


def greatest_benefit(benefit):
    """The total benefit of the best assignment."""
    benefit = np.asarray(benefit, np.float64)
    return benefit[linear_sum_assignment(benefit, maximize=True)].sum()


def total_benefit(benefit, columns):
    """The benefit of giving row i the column columns[i]."""
    return sum(float(benefit[i, j]) for i, j in enumerate(columns))


def energy(labels, unary, horizontal, vertical, values):
    """The energy of one labelled grid, cell by cell and edge by edge."""
    height, width = np.shape(labels)
    total = sum(float(unary[a, b, labels[a, b]]) for a, b in np.ndindex(height, width))
    for (a, b), (c, d), weight in edges(horizontal, vertical):
        total += weight * (float(values[labels[a, b]]) - float(values[labels[c, d]])) ** 2
    return total


def edges(horizontal, vertical):
    """Every pair of neighbours with its weight."""
    across = [((a, b), (a, b + 1), float(x)) for (a, b), x in np.ndenumerate(horizontal)]
    return across + [((a, b), (a + 1, b), float(x)) for (a, b), x in np.ndenumerate(vertical)]


def least_energy_of_all(unary, horizontal, vertical, values):
    """The least energy by trying every labelling."""
    height, width, count = np.shape(unary)
    return min(
        energy(np.reshape(z, (height, width)), unary, horizontal, vertical, values)
        for z in itertools.product(range(count), repeat=height * width)
    )


def minimum_cut(unary, horizontal, vertical, values):
    """The labelling of least energy as a minimum cut, for ascending values (Ishikawa 2003).

    Cell i has L - 1 nodes, node (i, k) being on the source's side if and only if z_i >= k. With
    steps d_k between the values, the value above the lowest is x_i = sum_k d_k [z_i >= k], and

    (x_i - x_j)^2 = x_i^2 - 2 x_i top + x_j^2 + 2 sum_kl d_k d_l [z_i >= k] (1 - [z_j >= l]),

    so that an edge is a change of both unary costs and arcs of positive capacity. Capacities are
    integers of 32 bits, which loses about 1e-7 of the energy.
    """
    height, width, count = np.shape(unary)
    above = np.asarray(values, np.float64) - values[0]
    step, top = np.diff(above), above[-1]
    cost = np.array(unary, np.float64)

    def node(cell, k):
        return (cell[0] * width + cell[1]) * (count - 1) + k - 1

    source = height * width * (count - 1)
    sink = source + 1
    arcs = []
    for i, j, weight in edges(horizontal, vertical):
        cost[i] += weight * (above**2 - 2 * above * top)
        cost[j] += weight * above**2
        for k, m in itertools.product(range(1, count), repeat=2):
            arcs.append((node(i, k), node(j, m), 2 * weight * step[k - 1] * step[m - 1]))
    cost -= cost.min(-1, keepdims=True)
    scale = 2**29 / (1 + cost.sum())
    for cell in np.ndindex(height, width):
        for k in range(count):
            tail = source if k == 0 else node(cell, k)
            head = sink if k == count - 1 else node(cell, k + 1)
            arcs.append((tail, head, cost[(*cell, k)]))
            if 0 < k < count - 1:  # z_i >= k + 1 without z_i >= k is forbidden
                arcs.append((head, tail, np.inf))
    tail, head, capacity = (np.array(column) for column in zip(*arcs, strict=True))
    capacity = np.rint(np.minimum(capacity * scale, 2**30)).astype(np.int32)
    graph = csr_array((capacity, (tail, head)), shape=(sink + 1, sink + 1))
    residual = graph - maximum_flow(graph, source, sink).flow
    residual.data = np.maximum(residual.data, 0)
    residual.eliminate_zeros()
    reached = np.zeros(sink + 1, int)
    reached[breadth_first_order(residual, source, return_predecessors=False)] = 1
    return reached[:source].reshape(height, width, count - 1).sum(-1)


# --- Problems ----------------------------------------------------------------------------------


def saliency(rng, size):
    """A smooth positive map of size x size blocks with mean 1."""
    field = gaussian_filter(rng.standard_normal((size, size)), 1.5 * size / 16, mode="nearest")
    field = np.exp((field - field.mean()) / field.std())
    return field / field.mean()


def mask_problems(seed, instances, size, *, labels=3, smoothness=1.2, contrast=0.5):
    """The unary, horizontal, vertical and values of PuzzleMix-like mask problems.

    A cell shows 1 - v of one image and v of the other, and loses what is salient in the rest; a
    binomial prior draws the masks towards a random share; neighbours are bound by a constant, which
    is PuzzleMix's beta in units of the mean saliency, and by the contrast of a third map.
    """
    rng = np.random.default_rng(seed)
    values = np.linspace(0, 1, labels)
    unary, horizontal, vertical = [], [], []
    for _ in range(instances):
        first, second, colour = (saliency(rng, size)[..., None] for _ in range(3))
        share = rng.uniform(0.05, 0.95)
        ways = np.array([math.comb(labels - 1, k) for k in range(labels)])
        prior = ways * share ** np.arange(labels) * (1 - share) ** np.arange(labels)[::-1]
        unary.append(first * values + second * (1 - values) - 0.2 * np.log(prior))
        constant = smoothness * size / 16
        horizontal.append(constant + contrast * np.abs(np.diff(colour[..., 0], axis=1)))
        vertical.append(constant + contrast * np.abs(np.diff(colour[..., 0], axis=0)))
    return tuple(np.float32(x) for x in (unary, horizontal, vertical, values))


def move_problems(seed, instances, n, *, distance=0.8):
    """The benefits of PuzzleMix-like moves of n blocks, n a square: saliency brought under a mask.

    benefit[i, j] = saliency_i * mask_j - distance * (the squared distance from i to j, at most 2)
    """
    rng = np.random.default_rng(seed)
    side = math.isqrt(n)
    places = np.stack(np.divmod(np.arange(n), side), -1) / max(side - 1, 1)
    far = ((places[:, None] - places[None]) ** 2).sum(-1)
    out = []
    for _ in range(instances):
        salient, wanted = saliency(rng, side).ravel(), saliency(rng, side).ravel()
        lower, upper = np.sort(rng.uniform(0.1, 0.9, 2))
        mask = (wanted > np.quantile(wanted, lower)) / 2 + (wanted > np.quantile(wanted, upper)) / 2
        out.append(salient[:, None] * mask[None] - distance * far)
    return np.float32(out)


# --- Gaps --------------------------------------------------------------------------------------


def labelling_gap(seed, instances, size, *, iterations=20, **problem):
    """How far the energy of `label_grid` is above the least one, relative to it: mean and worst."""
    problems = mask_problems(seed, instances, size, **problem)
    found = np.asarray(label_grid(*problems, iterations=iterations))
    *grids, values = problems
    gaps = []
    for labels, *grid in zip(found, *grids, strict=True):
        least = energy(minimum_cut(*grid, values), *grid, values)
        gaps.append((energy(labels, *grid, values) - least) / least)
    return float(np.mean(gaps)), float(np.max(gaps))


def assignment_gap(seed, instances, n, **options):
    """How far the benefit of `assignment` is below the greatest, relative to it: mean and worst."""
    problems = move_problems(seed, instances, n)
    gaps = []
    for benefit, columns in zip(problems, np.asarray(assignment(problems, **options)), strict=True):
        greatest = greatest_benefit(benefit)
        gaps.append((greatest - total_benefit(benefit, columns)) / abs(greatest))
    return float(np.mean(gaps)), float(np.max(gaps))


def sinkhorn_gap(seed, instances, n, *, epsilon=0.01, iterations=500):
    """How far the cost of the plan of `sinkhorn` is from the least, relative to it: mean and worst.

    The cost is the squared distance between n and n random points of the unit square.
    """
    points = np.random.default_rng(seed).uniform(size=(2, instances, n, 2))
    cost = np.float32(((points[0][:, :, None] - points[1][:, None]) ** 2).sum(-1))
    plans = np.asarray(sinkhorn(cost, epsilon=epsilon, iterations=iterations), np.float64)
    least = np.array([-greatest_benefit(-c) / n for c in cost])
    gaps = np.abs((plans * cost).sum((1, 2)) - least) / least
    return float(gaps.mean()), float(gaps.max())
