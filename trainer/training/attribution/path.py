"""Measures what each module earned: its share of the gain, the losses without it and with it alone.

Path attribution (integrated gradients, arXiv 1703.01365) over the gates: on the straight line from the base model to
the trained one, the derivatives of the loss by all gates, integrated, add up to the whole difference. Five Gauss–
Legendre points do as a rule; where their sum misses the gain by more than 1 %, more are taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from trainer.common.errors import UserError
from trainer.common.progress import Progress
from trainer.runs.attribution import GRADIENT_COST, POINTS, Attribution, KindLosses, Part, passes
from trainer.training.attribution.gates import Gate, set_all
from trainer.training.attribution.output_energy import output_energy
from trainer.training.attribution.rows import Rows
from trainer.training.attribution.trained_run import TrainedRun


def measure(run: TrainedRun, step: int, progress: Progress, began: float) -> Attribution:
    """Measure a run. `step`: steps of its adapter; `began`: when the measurement did, by `time.monotonic`.

    Raises UserError if a loss is not finite.
    """
    rows, gates = run.rows, run.gates
    advance = _Advance(progress, passes(len(_kinds(gates))))
    before, tokens = _at(rows, gates, 0.0, advance)
    after, _ = _at(rows, gates, 1.0, advance)
    energies = output_energy(run.trainer.model, gates, rows)
    advance("Measuring the outputs")
    found = Attribution(
        step=step,
        held_out=run.held_out,
        tokens=tokens,
        before=before,
        after=after,
        points=0,
        parts=(),
        kinds=_switched(rows, gates, advance),
        seconds=0.0,
        device=run.device,
    )
    for points in POINTS:
        shares = integrate(rows, gates, points, advance) / tokens.sum()
        parts = tuple(
            Part(gate.module, gate.kind, gate.treatment, gate.layer, float(share), energies.get(number))
            for number, (gate, share) in enumerate(zip(gates, shares, strict=True))
        )
        seconds = round(time.monotonic() - began, 1)
        found = Attribution(**vars(found) | {"points": points, "parts": parts, "seconds": seconds})
        if found.adds_up:
            break
    set_all(gates, 1.0)
    return found


def integrate(rows: Rows, gates: Sequence[Gate], points: int, advance: Callable[[str, int], None]) -> np.ndarray:
    """How much each gate lowered the summed loss of the rows on the way from 0 to 1, (gates,)."""
    found = np.zeros(len(gates))
    for place, weight in zip(*np.polynomial.legendre.leggauss(points), strict=True):  # from -1 to 1
        set_all(gates, (float(place) + 1) / 2)
        rows.add_gradients()
        found -= weight / 2 * np.array([gate.slope() for gate in gates])
        advance("Following the path", GRADIENT_COST)
    return found


class _Advance:
    """Counts passes over the rows."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, stage: str, passes: int = 1) -> None:
        self._done += passes
        self._total = max(self._total, self._done)
        self._progress(stage, self._done / self._total)


def _at(rows: Rows, gates: Sequence[Gate], value: float, advance: _Advance) -> tuple[np.ndarray, np.ndarray]:
    """Losses and counted tokens of the rows with all gates at one value."""
    set_all(gates, value)
    losses, tokens = rows.losses()
    advance("Measuring the losses")
    if not np.isfinite(losses).all():
        which = "trained" if value else "base"
        raise UserError(f"The loss of the {which} model is not finite on these rows.", "", "nonfinite")
    return losses, tokens


def _kinds(gates: Sequence[Gate]) -> list[tuple[str, str]]:
    """Kind and treatment of all gates, in their order."""
    return list(dict.fromkeys((gate.kind, gate.treatment) for gate in gates))


def _switched(rows: Rows, gates: Sequence[Gate], advance: _Advance) -> tuple[KindLosses, ...]:
    """The losses without each kind, and with it alone."""
    found = []
    for kind in _kinds(gates):
        losses = []
        for own in (0.0, 1.0):
            for gate in gates:
                gate.set(own if (gate.kind, gate.treatment) == kind else 1 - own)
            losses.append(rows.losses()[0])
            advance("Switching kinds off and on")
        found.append(KindLosses(*kind, *losses))
    return tuple(found)
