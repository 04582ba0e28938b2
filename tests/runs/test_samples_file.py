"""samples.jsonl, as a run leaves it and as it may be found."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.runs import damage
from trainer.runs import samples
from trainer.runs.event_log import append
from trainer.runs.samples import Answer, Answers, Samples


def write(folder: Path, reference: str = "Aye.", steps: tuple[int, ...] = (0, 20, 40)) -> Path:
    path = folder / samples.FILE
    append(path, "prompts", prompts=[{"text": "Well?", "before": "", "reference": reference}] * 2)
    for step in steps:
        answers = [{"text": f"{reference} {step}", "ended": True}, {"text": "No", "ended": False}]
        append(path, "answers", step=step, answers=answers, tokens=5, seconds=0.5)
    return path


def test_the_last_answers_of_a_step_count_and_other_prompts_begin_anew(tmp_path: Path) -> None:
    assert samples.read(tmp_path) == Samples(), "runs of earlier versions have none"
    write(tmp_path)
    write(tmp_path, steps=(40, 60))
    found = samples.read(tmp_path)
    assert [at.step for at in found.answers] == [0, 20, 40, 60]
    assert found.answers[-1] == Answers(60, (Answer("Aye. 60", True), Answer("No", False)))
    assert [at.step for at in found.thinned(3).answers] == [0, 40, 60]
    with (tmp_path / samples.FILE).open("ab") as file:
        file.write(b'{"type": "answers", "step": 80, "ans')
    assert samples.read(tmp_path) == found
    write(tmp_path, reference="Nay.", steps=(5,))
    assert [at.step for at in samples.read(tmp_path).answers] == [5]


@pytest.mark.parametrize("kind", dict.fromkeys(damage.DAMAGES), ids=lambda kind: kind.__name__)
def test_a_damaged_file_shows_what_is_left_of_it(kind: damage.Damage, tmp_path: Path) -> None:
    for seed in range(5):
        (tmp_path / str(seed)).mkdir()
        kind(write(tmp_path / str(seed)), random.Random(seed))
        found = samples.read(tmp_path / str(seed))
        assert all(len(at.answers) == len(found.prompts) for at in found.answers)
        assert len(str(found)) < 100_000
