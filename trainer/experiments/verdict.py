"""The conclusion of a comparison in sentences: what is best, what is as good for less, and what is not known.

The first two are the answer; the others are the evidence for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from trainer.common.formatting import LOSS_DECIMALS, loss, percent
from trainer.experiments.statistics import ALPHA, MARGIN, ONE_SEED, Pair, Results, all_pairs
from trainer.experiments.table import PRICES, Group


@dataclass(frozen=True)
class Criteria:
    """What a verdict goes by."""

    margin: float = MARGIN
    """Losses this close are as good as equal: a share of the lower one."""
    cost: str = "elapsed"
    """One of PRICES: of equivalent scenarios, the cheapest by it is recommended."""


DEFAULT = Criteria()


def verdict(
    results: Mapping[str, Results], pairs: Sequence[Pair], costs: Mapping[str, float | None], criteria: Criteria
) -> list[str]:
    """What follows from `all_pairs`; `costs`: of each scenario, by `criteria.cost`."""
    known = {name: found for name, found in results.items() if found.losses}
    if len(known) < 2:
        return []
    best = min(known, key=lambda name: fmean(known[name].losses.values()))
    own = [pair for pair in pairs if best in (pair.better, pair.worse)]
    said = [f"{best} has the lowest held-out loss: {spread_text(list(known[best].losses.values()))}."]
    if max(pair.seeds for pair in pairs) == 1 if pairs else True:
        closest = min((pair for pair in own if pair.better == best), key=lambda pair: pair.difference, default=None)
        return [*said, closest.sentence if closest else ONE_SEED]
    beaten = [pair for pair in own if pair.real and not pair.equivalent]
    equal = [pair for pair in own if pair.equivalent]
    unclear = [pair for pair in own if not pair.real and not pair.equivalent]
    names = [[_other(pair, best) for pair in group] for group in (beaten, equal, unclear)]
    said += _recommendation(best, names[1], costs, criteria)
    if len(own) > 1:
        said.append(_summary(*names))
    said += [pair.sentence for pair in (*beaten, *equal, *unclear)]
    if len(pairs) > 1:
        said.append(
            f"All {len(pairs)} pairs are judged together (Holm): the chance of even one false difference is "
            f"{100 * ALPHA:.0f} %."
        )
    return said


def _summary(beaten: Sequence[str], equal: Sequence[str], unclear: Sequence[str]) -> str:
    """What the best scenario is to all the others."""
    parts = [f"It beats {_joined(beaten)}"] if beaten else []
    parts += [f"{_joined(equal)} {'is' if len(equal) == 1 else 'are'} equivalent to it"] if equal else []
    parts += [f"{'no' if parts else 'No'} difference from {_joined(unclear)} is shown"] if unclear else []
    return f"{'; '.join(parts)}."


def _joined(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _recommendation(
    best: str, equals: Sequence[str], costs: Mapping[str, float | None], criteria: Criteria
) -> list[str]:
    """The cheapest of the best scenario and those that are equivalent to it."""
    known = {name: cost for name in (best, *equals) if (cost := costs.get(name))}
    if not equals:
        return []
    least = min(known, key=lambda name: known[name], default=best)
    if best not in known or least == best or known[least] >= known[best]:
        return [f"Take {best}: nothing equivalent costs less {PRICES[criteria.cost].lower()}."]
    saved = percent(1 - known[least] / known[best])
    return [f"Take {least}: equivalent to the best within {percent(criteria.margin)} of its loss, with {saved} less "
            f"{PRICES[criteria.cost].lower()}."]  # fmt: skip


def _other(pair: Pair, name: str) -> str:
    return pair.worse if pair.better == name else pair.better


def ladder_notes(groups: Sequence[Group]) -> list[str]:
    """What the learning rates that were tried leave open."""
    found = []
    judged = [group for group in groups if group.losses]
    if len(judged) > 1 and not any(group.ladder for group in groups):
        found.append(
            "Each was run at one learning rate. The best rate differs between selections and can change their order: "
            "run them at several."
        )
    by_edge: dict[str, list[str]] = {}
    for group in judged:
        for edge in group.edges:
            by_edge.setdefault(edge, []).append(group.name)
    for edge, names in by_edge.items():
        were, loss = ("was", "its loss") if len(names) == 1 else ("were", "their losses")
        who = "All of them" if len(names) == len(judged) > 1 else _joined(names)
        found.append(f"{who} {were} best at the {edge} tried: {loss} may fall further beyond it.")
    return found


def score_notes(title: str, results: Mapping[str, Results]) -> list[str]:
    """Which scenario answers best by a task score. `results`: shares of wrong answers."""
    known = {name: found for name, found in results.items() if found.losses}
    if len(known) < 2:
        return []
    best = min(known, key=lambda name: fmean(known[name].losses.values()))
    said = f"By {title}, {best} is best: {percent(1 - fmean(known[best].losses.values()))}."
    own = [pair for pair in all_pairs(known, margin=0.0) if best in (pair.better, pair.worse)]
    if all(pair.seeds == 1 for pair in own):
        return [f"{said} {ONE_SEED}"]
    beaten = [_other(pair, best) for pair in own if pair.real]
    return [f"{said} {_summary(beaten, [], [_other(pair, best) for pair in own if not pair.real])}"]


def forgetting_notes(groups: Sequence[Group]) -> list[str]:
    """Which scenario forgets the least, and what the best one forgets."""
    known = {group.name: rise for group in groups if group.losses and (rise := group.mean("forgetting")) is not None}
    losses = {group.name: fmean(group.losses.values()) for group in groups if group.losses}
    if len(known) < 2 or len(known) < len(losses):
        return []
    best, least = min(losses, key=lambda name: losses[name]), min(known, key=lambda name: known[name])
    said = [f"the loss of {best} {_moved(known[best])}"]
    if known[best] - known[least] >= 10**-LOSS_DECIMALS:
        said.append(f"that of {least} {_moved(known[least])}")
    return [f"Forgetting: on general text, {'; '.join(said)}."]


def _moved(rise: float) -> str:
    return f"{'rises' if rise > 0 else 'falls'} by {loss(abs(rise))}"


def spread_text(values: Sequence[float]) -> str:
    """`0.5123 on average over 3 seeds (standard deviation 0.0021)`; for one value, the value."""
    if len(values) == 1:
        return loss(values[0])
    return f"{loss(fmean(values))} on average over {len(values)} seeds (standard deviation {loss(stdev(values))})"
