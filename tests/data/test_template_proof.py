"""The mask against other judges: marks in TRL's templates, what answering adds to a prompt, distinctive words; and
random conversations, of which exactly the assistant's parts count."""

from __future__ import annotations

import pytest

from tests.support.template_proof import KINDS, judge_of, shipped


@pytest.mark.parametrize("name", shipped())
def test_every_kind_of_conversation_counts_right_or_is_refused(name: str) -> None:
    judge = judge_of(name)
    found = {kind: judge.verdict(kind) for kind in KINDS}
    assert {kind: verdict.reason for kind, verdict in found.items() if verdict.state == "wrong"} == {}
    assert {kind for kind, verdict in found.items() if verdict.state == "refused"} <= {"tools"}
