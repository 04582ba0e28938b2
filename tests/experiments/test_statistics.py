"""What is called different, equivalent or open: quantiles, intervals by hand, error rates over many trials."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from trainer.experiments.statistics import MARGIN, Pair, Results, all_pairs, difference
from trainer.experiments.student_t import t_quantile
from trainer.runs.row_losses import RowLosses

NAMES = ("a", "b", "c", "d", "e")


def results(losses: dict[int, float], rows: dict[int, RowLosses] | None = None, complete: bool = True) -> Results:
    return Results(losses, rows or {}, complete)


def rows_of(losses: Sequence[float], examples: str = "same", tokens: Sequence[int] = ()) -> RowLosses:
    counts = np.asarray(tokens or [10] * len(losses), dtype=float)
    return RowLosses(examples, counts, None, np.asarray(losses) * counts, 40)


def simulated(random: np.random.Generator, level: float, seeds: int, rows: int) -> Results:
    """A scenario whose loss varies with the seed, with the row, and with both together."""
    losses, known = {}, {}
    for seed in range(seeds):
        own = level + random.normal(0, 0.02) + random.normal(0, 0.1, rows)
        known[seed] = rows_of(own.tolist())
        losses[seed] = float(own.mean())
    return Results(losses, known)


def test_student_t_is_exact() -> None:
    for freedom, value in {40: 2.02107539, 60: 2.00029782, 200: 1.97189622, 1000: 1.96233907}.items():
        assert t_quantile(freedom, 0.95) == pytest.approx(value, rel=1e-6)
    tables = {1: 12.7062047, 2: 4.30265273, 3: 3.18244631, 4: 2.77644511, 9: 2.26215716, 30: 2.04227246}
    for freedom, value in tables.items():
        assert t_quantile(freedom, 0.95) == pytest.approx(value, rel=1e-8)
    assert t_quantile(2, 0.99) == pytest.approx(9.92484320, rel=1e-8)


def test_seeds_are_compared_in_pairs() -> None:
    (pair,) = all_pairs({"b": results({1: 1.10, 2: 2.12, 3: 3.11}), "a": results({1: 1.0, 2: 2.0, 3: 3.0, 9: 0.0})})
    assert (pair.better, pair.worse, pair.seeds, pair.rows) == ("a", "b", 3, 0)
    assert pair.difference == pytest.approx(0.11)
    assert pair.half_width == pytest.approx(4.30265273 * 0.01 / 3**0.5)
    assert all(part in pair.sentence for part in ("a beats b", "0.110 ± 0.025", "95 %", "3 seeds"))
    assert not all_pairs({"a": results({1: 1.0}), "b": results({2: 1.0})})


def test_rows_widen_an_interval_that_three_seeds_make_too_narrow() -> None:
    """The seeds agree to the last digit, the rows do not: other rows would have given another difference."""
    one, other = [1.0, 2.0, 3.0, 4.0], [1.4, 2.0, 3.0, 4.0]
    first = results(dict.fromkeys(range(3), 2.5), {seed: rows_of(one) for seed in range(3)})
    second = results(dict.fromkeys(range(3), 2.6), {seed: rows_of(other) for seed in range(3)})
    found = difference(first, second)
    assert found.mean == pytest.approx(0.1) and found.rows == 4
    (seeds, over_seeds), (variance, over_rows) = found.variances
    assert (seeds, over_seeds, over_rows) == (0.0, 2, 3)
    assert variance == pytest.approx(0.1**2), "one of four rows differs by 0.4: 0.2 / sqrt(4)"
    assert not all_pairs({"first": first, "second": second})[0].real
    without = {name: results(dict(found.losses)) for name, found in (("first", first), ("second", second))}
    assert all_pairs(without)[0].real
    elsewhere = results(dict(second.losses), {seed: rows_of(other, "others") for seed in range(3)})
    assert difference(first, elsewhere).rows == 0, "other examples cannot be paired"


def test_long_rows_weigh_as_many_tokens_as_they_have() -> None:
    one, other = rows_of([1.0, 2.0], tokens=[90, 10]), rows_of([1.1, 2.0], tokens=[90, 10])
    loss = {1: 1.1}, {1: 1.19}
    found = difference(results(loss[0], {1: one}), results(loss[1], {1: other}))
    # the residuals of a ratio of means: 9 - 0.09 * 90 and 0 - 0.09 * 10
    assert found.variances[0][0] == pytest.approx((0.9**2 + 0.9**2) / 2 / 50**2)


def test_one_seed_proves_nothing() -> None:
    rows = {1: rows_of(np.linspace(1, 2, 50).tolist())}, {1: rows_of(np.linspace(1.5, 2.5, 50).tolist())}
    (pair,) = all_pairs({"a": results({1: 1.5}, rows[0]), "b": results({1: 2.0}, rows[1])})
    assert not pair.real and not pair.equivalent
    assert "run 3 seeds" in pair.sentence and "50 held-out rows" in pair.sentence


def test_equivalence_needs_the_whole_interval_within_the_margin_and_all_runs() -> None:
    near = {1: 1.0, 2: 1.001, 3: 1.002}, {1: 1.001, 2: 1.0015, 3: 1.0035}
    (pair,) = all_pairs({"a": results(near[0]), "b": results(near[1])})
    assert pair.equivalent and pair.margin == pytest.approx(MARGIN * 1.001) and "equivalent" in pair.sentence
    (unfinished,) = all_pairs({"a": results(near[0]), "b": results(near[1], complete=False)})
    assert not unfinished.equivalent and "no difference shown" in unfinished.sentence
    (strict,) = all_pairs({"a": results(near[0]), "b": results(near[1])}, margin=0.0001)
    assert not strict.equivalent
    (far,) = all_pairs({"a": results({1: 3.8, 2: 3.9}), "b": results({1: 4.5, 2: 5.0})})
    assert not far.real and not far.equivalent, "two seeds that disagree show neither"
    assert "may still differ" in far.sentence


def test_adjusted_probabilities_are_those_of_holm() -> None:
    """Checked by hand: the smallest of three times three, the next times two, never below the one before."""
    spread = {name: {seed: level + 0.001 * seed * scale for seed in range(4)}
              for name, level, scale in (("a", 1.0, 1), ("b", 1.02, 3), ("c", 1.021, 9))}  # fmt: skip
    pairs = all_pairs({name: results(losses) for name, losses in spread.items()})
    alone = {
        (pair.better, pair.worse): all_pairs({name: results(spread[name]) for name in (pair.better, pair.worse)})[0].p
        for pair in pairs
    }
    expected, highest = {}, 0.0
    for left, names in zip((3, 2, 1), sorted(alone, key=lambda names: alone[names]), strict=True):
        highest = max(highest, min(1.0, left * alone[names]))
        expected[names] = highest
    for pair in pairs:
        assert pair.p == pytest.approx(expected[pair.better, pair.worse])
        assert pair.half_width is not None and pair.real == (pair.difference > pair.half_width)


@pytest.mark.parametrize(("seeds", "rows"), [(2, 40), (3, 40), (5, 200)])
def test_of_experiments_without_a_difference_at_most_one_in_twenty_finds_one(seeds: int, rows: int) -> None:
    random, trials = np.random.default_rng(seeds), 400
    wrong = sum(
        any(pair.real for pair in all_pairs({name: simulated(random, 2.0, seeds, rows) for name in NAMES[:3]}))
        for _ in range(trials)
    )
    assert wrong <= trials * 0.05 + 2 * (trials * 0.05 * 0.95) ** 0.5


def test_a_difference_five_times_the_noise_is_found() -> None:
    random, trials = np.random.default_rng(1), 100
    levels = {"good": 2.0, "bad": 2.2}
    found = 0
    for _ in range(trials):
        (pair,) = all_pairs({name: simulated(random, level, 3, 100) for name, level in levels.items()})
        found += pair.real and pair.better == "good"
    assert found > 0.8 * trials


def test_a_sentence_says_what_is_known() -> None:
    pair = Pair("a", "b", 0.01, 0.05, 0.95, 0.6, 0.001, 3, 0)
    assert "no difference shown" in pair.sentence and "may still differ" in pair.sentence
