"""Density schedules: their values by hand, and what is refused."""

import math

import pytest

from force_tf import schedules


@pytest.mark.parametrize(
    ("schedule", "steps", "density", "expected"),
    [
        (schedules.exponential, 2, 0.01, [0.1, 0.01]),
        (schedules.exponential, 3, 0.001, [0.1, 0.01, 0.001]),
        (schedules.exponential, 4, 0.0625, [0.5, 0.25, 0.125, 0.0625]),
        (schedules.exponential, 1, 0.3, [0.3]),
        (schedules.linear, 2, 0.01, [0.505, 0.01]),
        (schedules.linear, 4, 0.2, [0.8, 0.6, 0.4, 0.2]),
        (schedules.linear, 1, 0.3, [0.3]),
        (schedules.linear, 3, 1.0, [1.0, 1.0, 1.0]),
        (schedules.exponential, 3, 1.0, [1.0, 1.0, 1.0]),
    ],
)
def test_values_by_hand(schedule, steps, density, expected):
    assert schedules.densities(schedule, steps, density) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["exponential", "linear"])
@pytest.mark.parametrize("steps", [1, 7, 60, 100])
@pytest.mark.parametrize("density", [1e-4, 0.01, 0.5, 1.0])
def test_densities_fall_to_the_final_one(name, steps, density):
    values = schedules.densities(schedules.get(name), steps, density)
    assert len(values) == steps
    assert math.isclose(values[-1], density, rel_tol=1e-12)
    assert all(later <= earlier for earlier, later in zip([1.0, *values], values))


def test_a_callable_is_its_own_schedule():
    def halves(step, steps, density):
        return density if step == steps else 0.5

    assert schedules.get(halves) is halves
    assert schedules.densities(halves, 3, 0.1) == [0.5, 0.5, 0.1]


def test_a_callable_learns_step_steps_and_density():
    calls = []
    schedules.densities(lambda *arguments: calls.append(arguments) or 0.25, 3, 0.25)
    assert calls == [(1, 3, 0.25), (2, 3, 0.25), (3, 3, 0.25)]


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"^Expected .*Did you mean 'exponential'\? Received: .*'exponetial'$"):
        schedules.get("exponetial")
    with pytest.raises(ValueError, match=r"^Expected .* one of 'exponential', 'linear', .*\. Received: .*'x'$"):
        schedules.get("x")


def test_a_callable_of_other_arguments_is_refused_before_any_work():
    class PolynomialDecay:  # as that of tfmot
        def __call__(self, step):
            return True, 0.5

    with pytest.raises(TypeError, match=r"to take \(step, steps, density\).*from_tfmot.*which takes \(step\)"):
        schedules.get(PolynomialDecay())


@pytest.mark.parametrize("schedule", [None, 3, {"linear"}])
def test_neither_name_nor_callable_is_refused(schedule):
    with pytest.raises(TypeError, match=r"^Expected `schedule` to be a name, a list .*Received: schedule="):
        schedules.get(schedule)


@pytest.mark.parametrize(
    ("value", "error", "received"),
    [
        (math.nan, ValueError, "nan at step 1"),
        (1.5, ValueError, "1.5 at step 1"),
        (-0.1, ValueError, "-0.1 at step 1"),
        (math.inf, ValueError, "inf at step 1"),
        (0.5, ValueError, "0.5 at the last step"),
        (None, TypeError, "None at step 1"),
        ("low", TypeError, "'low' at step 1"),
    ],
)
def test_a_callable_that_returns_no_such_density_is_refused(value, error, received):
    with pytest.raises(error, match=rf"^Expected the schedule to .*Received: {received}$"):
        schedules.densities(lambda step, steps, density: value, 2, 0.25)


def test_cubic_halving_and_snip_it_by_hand():
    cubic = schedules.densities(schedules.cubic, 4, 0.25)
    assert [1 - density for density in cubic] == pytest.approx([0.43359375, 0.65625, 0.73828125, 0.75])
    assert schedules.densities(schedules.halving, 4, 0.1) == [0.5, 0.25, 0.125, 0.1]
    plan = [1 - density for density in schedules.densities(schedules.snip_it, 7, 0.02)]
    assert plan == pytest.approx([0.5, 0.74, 0.86, 0.92, 0.95, 0.965, 0.98])
    assert schedules.densities(schedules.snip_it, 3, 0.7) == [0.7] * 3, "half would be too much"


def test_a_list_of_densities_is_a_schedule():
    assert schedules.densities(schedules.get([0.5, 0.2, 0.1]), 3, 0.1) == [0.5, 0.2, 0.1]
    with pytest.raises(ValueError, match=r"as many steps as .* Received: 2 steps and 3 densities"):
        schedules.densities(schedules.get([0.5, 0.2, 0.1]), 2, 0.1)
    with pytest.raises(ValueError, match="Received: an empty list"):
        schedules.get([])
    with pytest.raises(ValueError, match="to end at the density"):
        schedules.densities(schedules.get([0.5, 0.2]), 2, 0.1)
