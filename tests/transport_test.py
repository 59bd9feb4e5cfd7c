"""Transport plans and assignments: what they guarantee, and how near the exact optimum they are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import solver_reference as reference

from semjax.transport import assignment, sinkhorn

RNG = np.random.default_rng(0)
COST = np.float32(RNG.uniform(size=(3, 4, 6)))
BENEFIT = np.float32(RNG.uniform(size=(4, 9, 9)))


def awkward_benefits(n):
    """Benefits with ties, without any difference, at the ends of float32, and not even finite."""
    rng = np.random.default_rng(n)
    normal = rng.standard_normal((n, n))
    wanted = np.broadcast_to(np.arange(n)[None] < n / 2, (n, n))
    kinds = [
        *(np.zeros((n, n)), np.full((n, n), -7.0), wanted, rng.integers(0, 2, (n, n))),
        *(normal, np.exp(5 * normal), 1e4 + normal, np.clip(normal * 1e38, -3e38, 3e38)),
        *(normal * 1e-38, normal * 1e-41, np.eye(n)[::-1], -np.eye(n)),
        *(np.where(normal > 1, np.nan, normal), np.where(normal > 1, np.inf, normal)),
    ]
    return np.stack(kinds).astype(np.float32)


# --- Plans -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epsilon", "iterations"), [(1.0, 1), (0.1, 1), (0.1, 7), (0.1, 100), (0.02, 100)]
)
def test_plans_are_those_of_the_textbook_scaling(epsilon: float, iterations: int) -> None:
    plans = sinkhorn(COST, epsilon=epsilon, iterations=iterations)
    assert (plans.dtype, plans.shape) == (jnp.float32, COST.shape)
    for plan, cost in zip(plans, COST, strict=True):
        expected = reference.scaled_plan(cost, epsilon, iterations)
        np.testing.assert_allclose(plan, expected, rtol=2e-5, atol=1e-7)


def test_the_defaults_are_epsilon_a_tenth_and_a_hundred_iterations() -> None:
    expected = sinkhorn(COST, epsilon=0.1, iterations=100)
    np.testing.assert_array_equal(sinkhorn(COST), expected)


@pytest.mark.parametrize("iterations", [1, 50])
@pytest.mark.parametrize("epsilon", [1e-5, 0.1, 1e5])
def test_rows_sum_to_their_share_after_any_number_of_iterations(
    epsilon: float, iterations: int
) -> None:
    plan = np.asarray(sinkhorn(COST, epsilon=epsilon, iterations=iterations), np.float64)
    assert np.isfinite(plan).all() and (plan >= 0).all()
    np.testing.assert_allclose(plan.sum(2), 1 / COST.shape[1], rtol=1e-6)


def test_columns_sum_to_their_share_in_the_limit() -> None:
    def error(iterations):
        return np.abs(np.asarray(sinkhorn(COST, iterations=iterations)).sum(1) - 1 / 6).max()

    assert error(1) > 1e-3  # 0.088
    assert error(100) < 1e-6


def test_the_cost_of_the_plan_nears_the_linear_programme_as_epsilon_falls() -> None:
    least = [reference.least_transport_cost(cost) for cost in COST]

    def excess(epsilon):
        plan = np.asarray(sinkhorn(COST, epsilon=epsilon, iterations=3000), np.float64)
        return np.max((plan * COST).sum((1, 2)) / least - 1)

    # 1.2, 0.044 and 6e-5
    assert excess(0.5) > 0.5 > 0.2 > excess(0.05) > 1e-3 > excess(0.002) > -1e-5


def test_plans_of_small_epsilon_cost_a_thousandth_more_than_the_optimum() -> None:
    mean, worst = reference.sinkhorn_gap(0, 20, 16, epsilon=0.001, iterations=5000)
    assert mean < 0.003  # 0.0010
    assert worst < 0.01  # 0.0029


def test_a_constant_cost_gives_the_independent_plan() -> None:
    np.testing.assert_allclose(sinkhorn(np.full((1, 3, 5), 7.0)), 1 / 15, rtol=1e-6)


def test_what_is_added_to_a_row_or_a_column_of_the_cost_changes_no_plan() -> None:
    moved = COST + np.float32([1, 2, 4, 8])[None, :, None] + np.arange(6, dtype=np.float32)
    np.testing.assert_allclose(sinkhorn(moved), sinkhorn(COST), rtol=1e-4, atol=1e-7)


def test_large_offsets_cost_small_epsilons_no_accuracy() -> None:
    cost = np.float32(RNG.integers(0, 8, (2, 5, 5)))
    plan = sinkhorn(cost, epsilon=0.5)
    np.testing.assert_allclose(sinkhorn(cost + 2**20, epsilon=0.5), plan, rtol=1e-5)


def test_the_gradient_of_the_cost_of_a_plan_is_right() -> None:
    def loss(cost):
        return (sinkhorn(cost, iterations=20) * cost**2).sum()

    direction = np.float32(np.random.default_rng(1).standard_normal(COST.shape))
    slope = (jax.grad(loss)(jnp.asarray(COST)) * direction).sum()
    step = 1e-2 * direction
    secant = (loss(COST + step) - loss(COST - step)) / 2e-2
    np.testing.assert_allclose(slope, secant, rtol=1e-2)


# --- Assignments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "instances", "mean", "worst"),
    [
        (4, 200, 1e-6, 1e-6),  # 0 and 0
        (16, 200, 1e-6, 1e-6),  # 1e-9 and 2e-8
        (64, 200, 5e-5, 2e-3),  # 6.5e-6 and 2.7e-4
        (256, 20, 1e-3, 1e-2),  # 9.3e-5 and 2.8e-4
    ],
)
def test_the_benefit_is_near_the_greatest(
    n: int, instances: int, mean: float, worst: float
) -> None:
    found = reference.assignment_gap(0, instances, n)
    assert found[0] < mean
    assert found[1] < worst


@pytest.mark.parametrize("tolerance", [1e-4, 1e-2, 1.0])
def test_the_benefit_is_within_the_stated_bound(tolerance: float) -> None:
    for benefit, columns in zip(BENEFIT, assignment(BENEFIT, tolerance=tolerance), strict=True):
        missing = reference.greatest_benefit(benefit) - reference.total_benefit(benefit, columns)
        assert -1e-6 < missing <= 9 * tolerance * np.ptp(benefit) + 1e-6


def test_the_default_tolerance_is_a_five_thousandth() -> None:
    problems = reference.move_problems(1, 8, 64)
    expected = assignment(problems, tolerance=0.0002)
    np.testing.assert_array_equal(assignment(problems), expected)


def test_a_coarse_tolerance_misses_the_optimum_that_a_fine_one_finds() -> None:
    assert reference.assignment_gap(0, 20, 16, tolerance=1.0)[0] > 0.1
    assert reference.assignment_gap(0, 20, 16, tolerance=1e-4)[0] < 1e-6


def test_one_round_is_not_enough() -> None:
    assert reference.assignment_gap(0, 20, 16, rounds=1)[0] > 0.1


def test_whole_benefits_of_a_small_range_are_assigned_exactly() -> None:
    benefit = np.random.default_rng(2).integers(0, 10, (20, 16, 16))
    for one, columns in zip(benefit, assignment(benefit), strict=True):
        assert reference.total_benefit(one, columns) == reference.greatest_benefit(one)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
@pytest.mark.parametrize("rounds", [1, 3, 6000])
def test_the_result_is_a_permutation_whatever_the_benefits(n: int, rounds: int) -> None:
    benefit = awkward_benefits(n)
    columns = assignment(benefit, rounds=rounds)
    assert (columns.dtype, columns.shape) == (jnp.int32, benefit.shape[:2])
    np.testing.assert_array_equal(
        np.sort(columns, axis=1), np.tile(np.arange(n), (len(benefit), 1))
    )


@pytest.mark.parametrize("rounds", [1, 10, 6000])
def test_no_assignment_is_worse_than_the_identity(rounds: int) -> None:
    benefit = np.random.default_rng(3).uniform(size=(30, 20, 20)) + np.eye(20)
    for one, columns in zip(benefit, assignment(benefit, rounds=rounds), strict=True):
        assert reference.total_benefit(one, columns) > np.trace(one) - 1e-4


@pytest.mark.parametrize("n", [4, 16, 64])
def test_nothing_moves_where_nothing_is_gained(n: int) -> None:
    wanted = np.tile(np.arange(n) < n / 2, (n, 1))
    far = np.abs(np.arange(n)[:, None] - np.arange(n))
    benefit = np.stack([np.zeros((n, n)), wanted, wanted.T, -far, wanted - 1e-3 * far])
    expected = np.tile(np.arange(n), (5, 1))
    np.testing.assert_array_equal(assignment(benefit), expected)


def test_a_row_prefers_the_nearest_of_equal_columns() -> None:
    # Row 2 may have the column of row 0 or of row 3; either would be content with column 2.
    benefit = np.zeros((1, 5, 5))
    benefit[0, 2, [0, 3]] = benefit[0, 0, [0, 2]] = benefit[0, 3, [2, 3]] = 1
    assert assignment(benefit).tolist() == [[0, 1, 3, 2, 4]]


def test_neither_the_unit_nor_an_offset_of_the_benefits_matters() -> None:
    benefit = np.round(BENEFIT * 64) / 64
    expected = assignment(benefit)
    for scaled in (benefit * 2.0**100, benefit * 2.0**-100, benefit - 1024):
        np.testing.assert_array_equal(assignment(np.float32(scaled)), expected)


# --- Both --------------------------------------------------------------------------------------

each_solver = pytest.mark.parametrize(
    ("solver", "problems"),
    [
        (functools.partial(sinkhorn, iterations=10), COST),
        (assignment, BENEFIT),
        (functools.partial(assignment, rounds=4), BENEFIT),
    ],
    ids=["sinkhorn", "assignment", "unfinished"],
)


@pytest.mark.parametrize(
    ("solver", "problems"),
    [
        (functools.partial(sinkhorn, iterations=3), COST),
        (functools.partial(assignment, rounds=4), BENEFIT),
    ],
    ids=["sinkhorn", "assignment"],
)
def test_jit_changes_nothing(solver, problems) -> None:
    few = problems[:1, :3, :3]
    with jax.disable_jit():
        eager = solver(few)
    np.testing.assert_allclose(jax.jit(solver)(few), eager, rtol=1e-5)


@each_solver
def test_a_problem_does_not_depend_on_its_batch(solver, problems) -> None:
    together = solver(problems)
    for i in range(len(problems)):
        np.testing.assert_allclose(solver(problems[i : i + 1])[0], together[i], rtol=1e-6)


@each_solver
def test_vmap_is_a_longer_batch(solver, problems) -> None:
    stacked = jnp.stack([problems, problems[::-1]])
    expected = jnp.stack([solver(problems), solver(problems[::-1])])
    np.testing.assert_allclose(jax.vmap(solver)(stacked), expected, rtol=1e-6)


@each_solver
def test_an_empty_batch_has_an_empty_answer(solver, problems) -> None:
    assert solver(problems[:0]).shape[0] == 0


@pytest.mark.parametrize("shape", [(3, 4), (1, 0, 4), (1, 4, 0), (1, 2, 3, 4)])
def test_a_cost_of_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^cost must be \[B, n, m\]"):
        sinkhorn(np.zeros(shape))


@pytest.mark.parametrize("shape", [(4, 4), (1, 0, 0), (1, 3, 4), (1, 2, 3, 3)])
def test_a_benefit_of_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^benefit must be \[B, n, n\]"):
        assignment(np.zeros(shape))


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("inf"), float("nan")])
def test_epsilon_must_be_positive(epsilon: float) -> None:
    with pytest.raises(ValueError, match=r"^epsilon must be .*; found"):
        sinkhorn(COST, epsilon=epsilon)


@pytest.mark.parametrize("tolerance", [0.0, 1e-7, 1.1, float("nan")])
def test_tolerance_must_be_in_range(tolerance: float) -> None:
    with pytest.raises(ValueError, match=r"^tolerance must be .*; found"):
        assignment(BENEFIT, tolerance=tolerance)


@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_counts_must_be_integers_of_at_least_1(count: float) -> None:
    with pytest.raises(ValueError, match=rf"^iterations must be .*; found {count}"):
        sinkhorn(COST, iterations=count)
    with pytest.raises(ValueError, match=rf"^rounds must be .*; found {count}"):
        assignment(BENEFIT, rounds=count)
