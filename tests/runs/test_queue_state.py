"""When a queued run will start."""

from __future__ import annotations

import pytest

from trainer.runs.queue_state import Wait, _turn


@pytest.mark.parametrize(
    ("running", "ahead", "seconds"),
    [
        ([60.0], [], 60.0),
        ([0.0, 60.0], [], 0.0),
        ([60.0, 10.0], [30.0, 5.0], 45.0),  # both on the device that is free after 10 s
        ([60.0, 10.0], [70.0], 60.0),
        ([None, 10.0], [], None),
        ([60.0], [None], None),
    ],
)
def test_runs_ahead_take_the_device_that_is_free_first(
    running: list[float | None], ahead: list[float | None], seconds: float | None
) -> None:
    assert _turn(running, ahead) == seconds


def test_the_sentence() -> None:
    who = "“Pirate” has had the device since 14:05 (started from the page)"
    assert str(Wait(2, 5, (who,), False, 3700)) == f"2nd of 5 in the queue. {who}. Starts in about 1 h 2 min."
    assert str(Wait(1, 1, (who,), False, None)) == f"Next in the queue. {who}."
    assert str(Wait(11, 12, (), False, 20)) == "11th of 12 in the queue. Starts in less than a minute."
    assert str(Wait(1, 2, (), True, 0)) == "Starts in a moment."
