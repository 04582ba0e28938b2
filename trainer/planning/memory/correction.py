"""What earlier runs on a card needed beyond the plan, which later plans for that card count in."""

from __future__ import annotations

from dataclasses import dataclass

OVERHEAD = "measured overhead"
"""The memory item that holds the correction. A key of plan.json."""
LARGEST = 1.5
"""Largest factor that is believed: a plan that is wrong by more needs a look, not a correction."""


@dataclass(frozen=True)
class MemoryCorrection:
    """Measured bytes over computed ones, in the newest runs on one card."""

    ratio: float = 1.0
    """The median of the runs; 1 if there are none."""
    runs: int = 0
    """Number of runs that were measured."""
    card: str = ""

    @property
    def factor(self) -> float:
        """What the computed bytes are multiplied by: never less than 1.

        A run that needed less proves little: its rows may have been shorter than planned.
        """
        return min(max(self.ratio, 1.0), LARGEST)

    def sentence(self) -> str:
        """What was measured and whether the plan counts it; empty if there is nothing to say."""
        if not self.runs:
            return ""
        count, share = f"{self.runs} run{'s' * (self.runs > 1)}", round(100 * (self.ratio - 1))
        if not share:
            return f"Runs on this card ({self.card}) needed as much memory as computed ({count})."
        what = f"Runs on this card ({self.card}) needed {abs(share)} % {'more' if share > 0 else 'less'} memory"
        if self.ratio > LARGEST:
            return f"{what} than computed ({count}); {100 * (LARGEST - 1):.0f} % are counted."
        counted = "counted" if share > 0 else "not counted, since their rows may have been shorter than planned"
        return f"{what} than computed ({count}): {counted}."


UNCORRECTED = MemoryCorrection()
"""Nothing has been measured."""
