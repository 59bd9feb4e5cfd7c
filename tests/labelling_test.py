"""Labels on a grid: what they guarantee, and how near the minimum cut they are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import solver_reference as reference

from semjax.labelling import grid_energy, label_grid


def random_problems(seed, instances, height, width, labels=3, weight=1.0):
    """Unary costs without any structure, edges from 0 to `weight`, unevenly spaced values."""
    rng = np.random.default_rng(seed)
    return tuple(
        np.float32(x)
        for x in (
            rng.uniform(size=(instances, height, width, labels)),
            rng.uniform(0, weight, (instances, height, width - 1)),
            rng.uniform(0, weight, (instances, height - 1, width)),
            np.sort(rng.uniform(-1, 1, labels)),
        )
    )


def energies(labels, unary, horizontal, vertical, values):
    return np.array(
        [
            reference.energy(*grid, values)
            for grid in zip(np.asarray(labels), unary, horizontal, vertical, strict=True)
        ]
    )


def least_energies(unary, horizontal, vertical, values):
    return np.array(
        [
            reference.least_energy_of_all(*grid, values)
            for grid in zip(unary, horizontal, vertical, strict=True)
        ]
    )


# --- The energy --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 4), (2, 5), (5, 2), (1, 4), (4, 1), (1, 1)])
def test_the_energy_is_the_sum_over_cells_and_edges(shape: tuple[int, int]) -> None:
    problems = random_problems(0, 3, *shape)
    labels = np.random.default_rng(1).integers(0, 3, (3, *shape))
    found = grid_energy(labels, *problems)
    assert (found.dtype, found.shape) == (jnp.float32, (3,))
    np.testing.assert_allclose(found, energies(labels, *problems), rtol=1e-5)


# --- How good the labels are -------------------------------------------------------------------


@pytest.mark.parametrize("labels", [2, 3])
def test_the_minimum_cut_is_the_least_energy_of_all_labellings(labels: int) -> None:
    *grids, values = random_problems(2, 3, 3, 3, labels, weight=2.0)
    for grid in zip(*grids, strict=True):
        least = reference.least_energy_of_all(*grid, values)
        cut = reference.energy(reference.minimum_cut(*grid, values), *grid, values)
        assert cut == pytest.approx(least, rel=1e-6)


def test_the_energy_on_3_by_3_cells_is_the_least() -> None:
    problems = random_problems(3, 4, 3, 3)
    found = energies(label_grid(*problems), *problems)
    np.testing.assert_allclose(found, least_energies(*problems), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "mean", "worst"),
    [
        ({"size": 4}, 1e-6, 1e-6),  # 0 and 0
        ({"size": 8}, 1e-6, 1e-6),  # 0 and 0
        ({"size": 16}, 1e-5, 1e-3),  # 1.4e-6 and 1.3e-4
        ({"size": 16, "iterations": 40}, 1e-6, 1e-4),  # 1.7e-8 and 3.4e-6
        ({"size": 16, "labels": 2}, 3e-4, 1e-2),  # 5.5e-5 and 4.6e-3
        ({"size": 16, "labels": 5, "instances": 40}, 1e-5, 1e-3),  # 1.3e-6 and 5.2e-5
        ({"size": 16, "smoothness": 5.0}, 1e-3, 3e-2),  # 1.8e-4 and 8.9e-3
    ],
    ids=str,
)
def test_the_energy_of_masks_is_near_the_minimum_cut(options, mean: float, worst: float) -> None:
    found = reference.labelling_gap(0, **{"instances": 200, **options})
    assert -1e-6 < found[0] < mean
    assert found[1] < worst


def test_one_iteration_is_a_hundredth_above_the_minimum_cut() -> None:
    assert 0.003 < reference.labelling_gap(0, 200, 16, iterations=1)[0] < 0.03  # 0.011


def test_the_default_is_20_iterations() -> None:
    problems = reference.mask_problems(4, 100, 16, smoothness=5.0)
    expected = label_grid(*problems, iterations=20)
    np.testing.assert_array_equal(label_grid(*problems), expected)
    assert (label_grid(*problems, iterations=19) != expected).any()


def test_more_iterations_are_never_worse() -> None:
    problems = reference.mask_problems(5, 100, 16, smoothness=5.0)
    counts = [1, 2, 4, 8, 16]
    found = [grid_energy(label_grid(*problems, iterations=k), *problems) for k in counts]
    assert (np.diff(np.stack(found), axis=0) <= 0).all()


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (1, 1), (2, 3), (3, 2)])
def test_chains_and_slender_grids_are_labelled_for_the_least_energy(
    shape: tuple[int, int],
) -> None:
    problems = random_problems(6, 5, *shape)
    labels = label_grid(*problems)
    assert (labels.dtype, labels.shape) == (jnp.int32, (5, *shape))
    np.testing.assert_allclose(energies(labels, *problems), least_energies(*problems), rtol=1e-5)


@pytest.mark.parametrize("shape", [(5, 16), (16, 5)])
def test_oblong_grids_are_near_the_minimum_cut(shape: tuple[int, int]) -> None:
    problems = random_problems(7, 20, *shape)
    *grids, values = problems
    cuts = [reference.minimum_cut(*grid, values) for grid in zip(*grids, strict=True)]
    least = energies(cuts, *problems)
    gaps = energies(label_grid(*problems), *problems) / least - 1
    assert gaps.min() > -1e-6
    assert gaps.max() < 1e-3  # 0


@pytest.mark.parametrize("iterations", [1, 20])
@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0, 10.0, 1000.0])
def test_no_labelling_is_worse_than_a_constant_or_the_cheapest_labels(
    weight: float, iterations: int
) -> None:
    problems = random_problems(8, 20, 5, 7, weight=weight)
    found = energies(label_grid(*problems, iterations=iterations), *problems)
    simple = [np.full((20, 5, 7), label) for label in range(3)] + [problems[0].argmin(-1)]
    assert (found <= np.min([energies(z, *problems) for z in simple], axis=0) + 1e-5).all()


def test_without_edges_each_cell_has_its_cheapest_label() -> None:
    problems = random_problems(9, 20, 5, 7, weight=0.0)
    np.testing.assert_array_equal(label_grid(*problems), problems[0].argmin(-1))


def test_strong_edges_make_the_cheapest_constant() -> None:
    problems = random_problems(10, 20, 5, 7, weight=1e5)
    cheapest = problems[0].sum((1, 2)).argmin(-1)[:, None, None]
    np.testing.assert_array_equal(label_grid(*problems), np.broadcast_to(cheapest, (20, 5, 7)))


def test_an_edge_of_no_weight_is_where_the_labels_change() -> None:
    unary = np.zeros((1, 3, 4, 2))
    unary[0, 0, 0, 0], unary[0, 2, 3, 1] = 1, 1  # one corner wants label 1, the opposite one 0
    horizontal, vertical = np.ones((1, 3, 3)), np.ones((1, 2, 4))
    horizontal[0, :, 1] = 0
    labels = label_grid(unary, horizontal, vertical, np.array([0.0, 1.0]))
    assert labels.tolist() == [[[1, 1, 0, 0]] * 3]
    horizontal[0, :, 1], vertical[0, 1] = 1, 0
    labels = label_grid(unary, horizontal, vertical, np.array([0.0, 1.0]))
    assert labels.tolist() == [[[1] * 4, [1] * 4, [0] * 4]]


def test_it_is_the_values_that_must_be_near_and_not_the_indices() -> None:
    unary = np.array([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]).reshape(1, 1, 2, 3)
    edges = np.ones((1, 1, 1)), np.ones((1, 0, 2))
    assert label_grid(unary, *edges, np.array([0.0, 2.0, 0.1])).tolist() == [[[0, 2]]]
    assert label_grid(unary, *edges, np.array([0.0, 1.0, 2.0])).tolist() == [[[0, 0]]]


def test_there_may_be_a_single_label() -> None:
    assert not label_grid(*random_problems(11, 2, 3, 3, labels=1)).any()


def test_neither_the_unit_nor_an_offset_of_the_costs_matters() -> None:
    problems = random_problems(12, 20, 5, 7)
    *costs, values = (np.round(x * 64) / 64 for x in problems)
    expected = label_grid(*costs, values)
    for unit in (2.0**80, 2.0**-80):
        scaled = label_grid(*(np.float32(x * unit) for x in costs), values)
        np.testing.assert_array_equal(scaled, expected)
    np.testing.assert_array_equal(label_grid(costs[0] + 16, *costs[1:], values), expected)


# --- Transformations and errors ----------------------------------------------------------------

FEW = functools.partial(label_grid, iterations=2)


def test_jit_changes_nothing() -> None:
    problems = random_problems(13, 2, 2, 2, labels=2)
    with jax.disable_jit():
        eager = label_grid(*problems, iterations=1)
    jitted = jax.jit(functools.partial(label_grid, iterations=1))
    np.testing.assert_array_equal(jitted(*problems), eager)


def test_a_grid_does_not_depend_on_its_batch() -> None:
    *grids, values = random_problems(14, 2, 4, 5)
    together = FEW(*grids, values)
    for i in range(2):
        np.testing.assert_array_equal(FEW(*(x[i : i + 1] for x in grids), values)[0], together[i])


def test_vmap_is_a_longer_batch() -> None:
    problems = [random_problems(seed, 2, 4, 5) for seed in range(3)]
    stacked = [jnp.stack(arrays) for arrays in zip(*problems, strict=True)]
    expected = jnp.stack([FEW(*one) for one in problems])
    np.testing.assert_array_equal(jax.vmap(FEW)(*stacked), expected)


def test_an_empty_batch_has_no_labels() -> None:
    assert label_grid(*random_problems(15, 0, 3, 3)).shape == (0, 3, 3)


@pytest.mark.parametrize("function", [label_grid, functools.partial(grid_energy, np.zeros(1, int))])
@pytest.mark.parametrize(
    ("place", "name", "shape"),
    [
        (0, "unary", (2, 3, 4)),
        (0, "unary", (2, 0, 4, 3)),
        (0, "unary", (2, 3, 4, 0)),
        (1, "horizontal", (2, 3, 4)),
        (1, "horizontal", (1, 3, 3)),
        (2, "vertical", (2, 3, 4)),
        (3, "values", (2,)),
    ],
)
def test_shapes_that_do_not_fit_are_an_error(function, place: int, name: str, shape) -> None:
    arrays = list(random_problems(16, 2, 3, 4))
    arrays[place] = np.zeros(shape)
    with pytest.raises(ValueError, match=rf"^{name} must .*found \({shape[0]},"):
        function(*arrays)


def test_labels_must_be_integers_of_the_shape_of_the_grids() -> None:
    problems = random_problems(17, 2, 3, 4)
    with pytest.raises(TypeError, match=r"^labels must be integers.*found float32"):
        grid_energy(np.zeros((2, 3, 4), np.float32), *problems)
    with pytest.raises(ValueError, match=r"^labels must have shape \(2, 3, 4\); found \(2, 4, 3\)"):
        grid_energy(np.zeros((2, 4, 3), int), *problems)


@pytest.mark.parametrize("iterations", [0, -1, 2.5])
def test_iterations_must_be_an_integer_of_at_least_1(iterations: float) -> None:
    with pytest.raises(ValueError, match=rf"^iterations must be .*; found {iterations}"):
        label_grid(*random_problems(18, 1, 2, 2), iterations=iterations)
