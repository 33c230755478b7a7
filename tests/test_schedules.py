"""Every schedule against its formula, written by hand in float64."""

import math

import jax
import numpy as np
import pytest

from zoo import schedules
from zoo.errors import UserError

LR = 0.3


def make(name, total_steps=100, *, steps_per_epoch=10, batch_size=4, **options):
    return schedules.make(
        LR, total_steps, {"name": name, **options}, steps_per_epoch=steps_per_epoch, batch_size=batch_size
    )


def rates(schedule, steps=100):
    """As the compiled step sees them: the step is a traced int32."""
    return np.asarray(jax.jit(jax.vmap(schedule))(np.arange(steps, dtype=np.int32)), np.float64)


def cosine(t, length, peak=LR, end=0.0):
    return peak * (end + (1 - end) * (1 + math.cos(math.pi * min(t / length, 1))) / 2)


def compare(schedule, formula, steps=100):
    np.testing.assert_allclose(rates(schedule, steps), [formula(t) for t in range(steps)], rtol=2e-5, atol=1e-7)


def test_constant():
    compare(make("constant"), lambda t: LR)


@pytest.mark.parametrize("end", [0.0, 0.25])
def test_linear(end):
    compare(make("linear", end=end), lambda t: LR * (1 - (1 - end) * t / 100))


@pytest.mark.parametrize("end", [0.0, 0.1])
def test_cosine(end):
    compare(make("cosine", end=end), lambda t: cosine(t, 100, end=end))


@pytest.mark.parametrize("over", [{"over_epochs": 4}, {"over_percent": 40}])
def test_linear_to_a_floor_before_the_end(over):
    compare(make("linear", end=0.1, **over), lambda t: LR * max(1 - 0.9 * t / 40, 0.1))


@pytest.mark.parametrize("power, end", [(0.9, 0.0), (2.0, 0.1), (1.0, 0.25), (0.5, 0.0)])
def test_polynomial(power, end):
    compare(make("polynomial", power=power, end=end), lambda t: LR * (end + (1 - end) * (1 - t / 100) ** power))


def test_polynomial_defaults_and_length():
    compare(make("polynomial"), lambda t: LR * (1 - t / 100) ** 0.9)
    compare(make("polynomial", over_steps=30, end=0.2), lambda t: LR * (0.2 + 0.8 * max(1 - t / 30, 0) ** 0.9))


@pytest.mark.parametrize("decay", [0.0, 1.0, 9.0, 99.0])
def test_fractional_ends_at_its_share_in_a_run_of_any_length(decay):
    for steps in (100, 250):
        compare(make("fractional", steps, decay=decay), lambda t, n=steps: LR / (1 + decay * t / n), steps)
        assert float(make("fractional", steps, decay=decay)(steps)) == pytest.approx(LR / (1 + decay))


def test_rsqrt():
    compare(make("rsqrt", timescale_steps=16), lambda t: LR * math.sqrt(16 / (16 + t)))


def test_rsqrt_after_a_warmup_of_its_timescale_is_that_of_the_transformer():
    """Vaswani et al. 2017, eq. 3, with its constants taken into the peak: min(t / w, sqrt(w / t))."""
    schedule = make("rsqrt", timescale_steps=20, warmup_steps=20)
    compare(schedule, lambda t: LR * min(t / 20, math.sqrt(20 / t)) if t else 0)


TAILS = {  # of the share x of the decay that is over, to a floor e
    "linear": lambda x, e: 1 - (1 - e) * x,
    "cosine": lambda x, e: e + (1 - e) * (1 + math.cos(math.pi * x)) / 2,
    "sqrt": lambda x, e: e + (1 - e) * (1 - math.sqrt(x)),
    "exponential": lambda x, e: e**x,
}


@pytest.mark.parametrize("shape", TAILS)
@pytest.mark.parametrize("end", [0.25, None])
@pytest.mark.parametrize("decay", [40, 100, 1])
def test_warmup_stable_decay(shape, end, decay):
    floor = end or (0.1 if shape == "exponential" else 0.0)
    schedule = make("warmup_stable_decay", decay_steps=decay, shape=shape, end=end)
    compare(schedule, lambda t: LR * TAILS[shape](max(t - (100 - decay), 0) / decay, floor))
    assert float(schedule(100)) == pytest.approx(LR * floor, abs=1e-7)


def test_warmup_stable_decay_in_its_three_parts():
    schedule = make("warmup_stable_decay", 120, warmup_steps=20, decay_percent=30)  # of the 100 that are left
    compare(schedule, lambda t: LR * min(t / 20, 1, (120 - t) / 30), 120)
    compare(make("warmup_stable_decay"), lambda t: LR * min(1, (100 - t) / 20))  # the default: linear over 20 %


def test_exponential():
    compare(make("exponential", end=0.02), lambda t: LR * 0.02 ** (t / 100))


def test_step():
    compare(make("step", at=(30, 60, 90), factor=0.2), lambda t: LR * 0.2 ** ((t >= 30) + (t >= 60) + (t >= 90)))


def test_step_drops_at_a_share_of_a_longer_run():
    compare(make("step", 300, at=(50,)), lambda t: LR * 0.1 ** (t >= 150), 300)


def test_step_with_two_drops_on_one_step_of_a_short_run():
    compare(make("step", 10, at=(50, 51), factor=0.1), lambda t: LR * 0.01 ** (t >= 5), 10)


def sgdr(t, cycle, length_mult, peak_mult, end):
    """SGDR: T_0 = cycle, T_i = T_(i-1) * length_mult, walked one restart at a time."""
    start, length, peak = 0, cycle, LR
    while t >= start + length:
        start, length, peak = start + length, length * length_mult, peak * peak_mult
    return cosine(t - start, length, peak, end)


@pytest.mark.parametrize("length_mult, peak_mult, end", [(1, 1, 0), (2, 1, 0), (1, 0.5, 0), (2, 0.7, 0.1), (3, 2.0, 0)])
def test_cosine_restarts(length_mult, peak_mult, end):
    schedule = make("cosine_restarts", cycle_steps=12, length_mult=length_mult, peak_mult=peak_mult, end=end)
    compare(schedule, lambda t: sgdr(t, 12, length_mult, peak_mult, end))


def test_cosine_restarts_with_a_fractional_multiplier():
    # 10, 15, 22.5, 33.75: every length is rounded on its own, and errors do not add up.
    found = rates(make("cosine_restarts", 200, cycle_steps=10, length_mult=1.5), 82)
    assert [int(t) for t in np.flatnonzero(np.diff(found) > LR / 2) + 1] == [10, 25, 47, 81]
    np.testing.assert_allclose(found[[0, 10, 25, 47, 81]], LR, rtol=1e-6)


def clr(t, cycle, base, policy, gamma=0.99):
    """The formulas of Smith 2015 (as in its published code): x in stepsizes of half a cycle."""
    stepsize, low, high = cycle / 2, LR * base, LR
    number = math.floor(1 + t / (2 * stepsize))
    x = abs(t / stepsize - 2 * number + 1)
    scale = {"triangular": 1, "triangular2": 1 / 2 ** (number - 1), "exp_range": gamma**t}[policy]
    return low + (high - low) * max(0, 1 - x) * scale


@pytest.mark.parametrize("policy", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize("cycle", [20, 49, 7])
def test_cyclical(policy, cycle):
    gamma = {"gamma": 0.99} if policy == "exp_range" else {}
    schedule = make("cyclical", cycle_steps=cycle, base=0.2, policy=policy, **gamma)
    compare(schedule, lambda t: clr(t, cycle, 0.2, policy))


def test_cyclical_far_into_a_run():
    schedule = make("cyclical", 1_000_000, cycle_steps=2_000, policy="triangular")
    for t in (0, 499_500, 501_000, 999_001):
        assert float(schedule(t)) == pytest.approx(clr(t, 2_000, 0.1, "triangular"), rel=1e-3)


def one_cycle(t, steps, rise, start, end):
    """torch's OneCycleLR with cosine annealing, but over `steps` and not `steps - 1` intervals."""
    peak_at = steps * rise / 100

    def between(a, b, share):
        return b + (a - b) * (1 + math.cos(math.pi * share)) / 2

    if t < peak_at:
        return between(LR * start, LR, t / peak_at)
    return between(LR, LR * end, (t - peak_at) / (steps - peak_at))


@pytest.mark.parametrize("rise, start, end", [(30, 0.04, 1e-4), (50, 0.1, 0.01), (10, 1.0, 0.5), (0, 0.5, 0.1)])
def test_one_cycle(rise, start, end):
    compare(make("one_cycle", rise=rise, start=start, end=end), lambda t: one_cycle(t, 100, rise, start, end))


def test_one_cycle_defaults():
    compare(make("one_cycle"), lambda t: one_cycle(t, 100, 30, 0.04, 1e-4))


LENGTHS = {
    "cyclical": {"cycle_steps": 16},
    "cosine_restarts": {"cycle_steps": 16},
    "rsqrt": {"timescale_steps": 16},
    "warmup_stable_decay": {"decay_steps": 16},
    "linear": {"over_steps": 16},
    "polynomial": {"over_steps": 16},
}


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_warmup_is_a_line_in_front_of_the_whole_schedule(name):
    options = LENGTHS.get(name, {})
    found, bare = rates(make(name, warmup_steps=20, **options)), rates(make(name, 80, **options), 80)
    np.testing.assert_allclose(found[20:], bare, rtol=1e-6)
    np.testing.assert_allclose(found[:20], bare[0] * np.arange(20) / 20, rtol=1e-5)  # continuous at step 20


@pytest.mark.parametrize("warmup", [{"warmup_epochs": 2}, {"warmup_percent": 20}, {"warmup_examples": 80}])
def test_warmup_in_other_units(warmup):
    np.testing.assert_array_equal(rates(make("cosine", **warmup)), rates(make("cosine", warmup_steps=20)))


@pytest.mark.parametrize("name", LENGTHS)
def test_the_units_of_a_length_agree(name):
    ((key, _),) = LENGTHS[name].items()
    stem = key.removesuffix("_steps")
    by_steps = rates(make(name, **{f"{stem}_steps": 20}))
    for unit, amount in {"epochs": 2, "examples": 80, "percent": 20}.items():
        np.testing.assert_array_equal(rates(make(name, **{f"{stem}_{unit}": amount})), by_steps)
    assert not np.allclose(rates(make(name, **{f"{stem}_epochs": 3})), by_steps)


def test_unset_options_are_defaults():
    np.testing.assert_array_equal(rates(make("cosine", end=None, warmup_steps=None)), rates(make("cosine")))


@pytest.mark.parametrize(
    "name, options, line",
    [
        ("cosin", {}, r"unknown schedule 'cosin'; did you mean 'cosine'"),
        ("cosine", {"ends": 0.1}, r"config\.schedule: cosine has no option 'ends'; did you mean 'end'"),
        ("cosine", {"cycle_steps": 5}, r"cosine has no option 'cycle_steps'"),
        ("cyclical", {"cycle_step": 5}, r"cyclical has no option 'cycle_step'; did you mean 'cycle_steps'"),
        ("cyclical", {"cycle": 5}, r"cyclical has no option 'cycle'; did you mean 'cycle_"),
        ("cosine", {"warmup_step": 5}, r"did you mean 'warmup_steps'"),
        ("cosine", {"lr": 5}, r"cosine has no option 'lr'"),
        ("cosine", {"steps": 5}, r"cosine has no option 'steps'"),
        ("cyclical", {}, r"cyclical needs cycle_steps, cycle_epochs or cycle_percent"),
        ("cyclical", {"cycle_steps": 0}, r"config\.schedule\.cycle_steps is 0; it must be at least 1 step"),
        ("cyclical", {"cycle_steps": 2, "cycle_epochs": 2}, r"two durations for one thing"),
        ("cyclical", {"cycle_steps": 9, "policy": "triangle"}, r"unknown cyclical policy 'triangle'; did you mean"),
        ("cosine_restarts", {"cycle_steps": 9, "length_mult": 0.5}, r"schedule\.length_mult is 0\.5"),
        ("cyclical", {"cycle_steps": 9, "gamma": 0.9}, r"schedule\.gamma belongs to policy 'exp_range', not to 'tri"),
        ("cyclical", {"cycle_steps": 9, "policy": "exp_range", "gamma": 1.1}, r"schedule\.gamma is 1\.1; .*\(0, 1\]"),
        ("cyclical", {"cycle_steps": 9, "base": -0.1}, r"schedule\.base is -0\.1; it must be zero or more"),
        ("cosine_restarts", {"cycle_steps": 9, "peak_mult": -1}, r"schedule\.peak_mult is -1"),
        ("linear", {"end": -0.1}, r"schedule\.end is -0\.1; it must be zero or more"),
        ("cosine", {"end": -0.1}, r"schedule\.end is -0\.1"),
        ("linear", {"over": 5}, r"linear has no option 'over'; known: end, over_epochs"),
        ("linear", {"over_steps": 0}, r"over_steps is 0; it must be at least 1 step"),
        ("polynomial", {"end": -0.1}, r"schedule\.end is -0\.1"),
        ("polynomial", {"power": 0}, r"schedule\.power is 0; it must be positive"),
        ("fractional", {"decay": -1}, r"schedule\.decay is -1; it must be zero or more"),
        ("fractional", {"decay_steps": 5}, r"fractional has no option 'decay_steps'; did you mean 'decay'"),
        ("rsqrt", {}, r"rsqrt needs timescale_steps, timescale_epochs or timescale_percent"),
        ("warmup_stable_decay", {"decay_steps": 101}, r"the decay of 101 steps does not fit into the 100 after"),
        ("warmup_stable_decay", {"decay_steps": 90, "warmup_steps": 20}, r"decay of 90 steps does not fit into the 80"),
        ("warmup_stable_decay", {"shape": "cosin"}, r"unknown decay shape 'cosin'; did you mean 'cosine'"),
        ("warmup_stable_decay", {"shape": "exponential", "end": 0}, r"schedule\.end is 0; an exponential never"),
        ("warmup_stable_decay", {"shape": "sqrt", "end": -1}, r"schedule\.end is -1"),
        ("step", {"factor": -1}, r"schedule\.factor is -1; it must be zero or more"),
        ("cosine", {"warmup_steps": -1}, r"config\.schedule\.warmup_steps is -1"),
        ("cosine", {"warmup_steps": 100}, r"the warmup of 100 steps leaves nothing of the 100 steps"),
        ("step", {"at": (0, 50)}, r"schedule\.at is \(0, 50\)"),
        ("step", {"at": (100,)}, r"schedule\.at is \(100,\)"),
        ("exponential", {"end": 0}, r"schedule\.end is 0"),
        ("one_cycle", {"rise": 100}, r"rise 100 must be in \[0, 100\)"),
        ("one_cycle", {"start": 0}, r"start 0 .*positive"),
        ("one_cycle", {"end": 0.0}, r"end 0\.0 positive"),
    ],
)
def test_mistakes(name, options, line):
    with pytest.raises(UserError, match=line):
        make(name, **options)
