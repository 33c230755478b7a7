"""Any unit gives whole steps; two units, negative ones and percent of nothing are refused."""

import pytest

from zoo import durations
from zoo.errors import UserError

LENGTH = {"steps_per_epoch": 14, "batch_size": 100, "total_steps": 420}


def resolve(settings, **changed):
    return durations.resolve("warmup", settings, **LENGTH | changed)


@pytest.mark.parametrize(
    "settings, steps",
    [
        ({"warmup_steps": 37}, 37),
        ({"warmup_epochs": 3}, 42),
        ({"warmup_epochs": 0.5}, 7),
        ({"warmup_examples": 4_200}, 42),
        ({"warmup_percent": 5}, 21),
        ({"warmup_percent": 100}, 420),
        ({"warmup_steps": 0}, 0),
        ({"warmup_epochs": 0}, 0),
    ],
)
def test_each_unit(settings, steps):
    found = resolve(settings)
    assert found == steps
    assert type(found) is int


def test_units_without_a_value_do_not_count():
    assert resolve({"warmup_steps": None, "warmup_epochs": 2, "other_steps": 5}) == 28


def test_default_when_nothing_is_set():
    assert resolve({"warmup_steps": None, "other_steps": 5}, default=11) == 11
    assert resolve({}) is None


@pytest.mark.parametrize(
    "settings, steps",
    [({"warmup_examples": 449}, 4), ({"warmup_examples": 451}, 5), ({"warmup_epochs": 0.1}, 1)],
)
def test_rounds_to_the_nearest_step(settings, steps):
    assert resolve(settings) == steps


@pytest.mark.parametrize("settings", [{"warmup_examples": 1}, {"warmup_percent": 0.01}, {"warmup_epochs": 1e-6}])
def test_a_positive_duration_is_at_least_one_step(settings):
    assert resolve(settings) == 1


def test_two_units_are_refused():
    with pytest.raises(UserError) as error:
        resolve({"warmup_steps": 5, "warmup_percent": 5}, where="config.schedule")
    assert "config.schedule.warmup_steps and config.schedule.warmup_percent" in str(error.value)
    assert "exactly one" in str(error.value)


def test_two_units_are_refused_even_when_one_is_zero():
    with pytest.raises(UserError, match="two durations"):
        resolve({"warmup_steps": 0, "warmup_epochs": 1})


@pytest.mark.parametrize("unit", durations.UNITS)
@pytest.mark.parametrize("amount", [-1, -0.5, float("nan"), float("inf"), True, "5", (5,)], ids=repr)
def test_no_duration(unit, amount):
    with pytest.raises(UserError) as error:
        resolve({f"warmup_{unit}": amount}, where="config.schedule")
    assert str(error.value).startswith(f"config.schedule.warmup_{unit} is {amount!r}; ")


def test_percent_of_an_unknown_total():
    with pytest.raises(UserError, match=r"config\.warmup_percent: .*cannot be a percentage"):
        resolve({"warmup_percent": 5}, total_steps=None)
    assert resolve({"warmup_epochs": 1}, total_steps=None) == 14


def test_minimum():
    assert resolve({"warmup_steps": 3}, minimum=3) == 3
    with pytest.raises(UserError, match=r"config\.warmup_steps is 2; it must be at least 3 steps$"):
        resolve({"warmup_steps": 2}, minimum=3)
    with pytest.raises(UserError, match=r"config\.warmup_epochs is 0; it must be at least 1 step$"):
        resolve({"warmup_epochs": 0}, minimum=1)


def test_given():
    settings = {"total_steps": None, "total_epochs": 20, "eval_every_steps": 3}
    assert durations.given("total", settings) == {"epochs": 20}
    assert durations.given("eval_every", settings) == {"steps": 3}
    assert durations.given("log_every", settings) == {}
