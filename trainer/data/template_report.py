"""What the chat template makes of the data: what it leaves out, how it ends answers, what share of them counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.common.errors import Issue, Value
from trainer.common.formatting import plural
from trainer.config.schema import DataConfig
from trainer.data.masking.chat_templates import IM_END, IM_START
from trainer.data.preparation import LoadedData


def template_report(found: LoadedData) -> dict[str, Any]:
    """`kind` and `why` of the template; `kinds`: messages of each kind that count, and that do not; `dropped`: what
    the template leaves out, by kind of content; `notes`: what was done so that it takes the examples; `end`: what
    ends an answer."""
    parts = {id(part.tokens): part.tokens for part in (found.train, found.held_out) if part}
    kinds: dict[str, list[int]] = {}
    dropped, notes = Counter[str](), Counter[str]()
    for tokens in parts.values():
        dropped.update(tokens.account["dropped"])
        notes.update(tokens.account["notes"])
        for kind, (counted, other) in tokens.account["kinds"].items():
            before = kinds.get(kind, [0, 0])
            kinds[kind] = [before[0] + counted, before[1] + other]
    template = found.template
    return {
        "kind": template.kind,
        "why": template.why,
        "kinds": {kind: {"messages": sum(both), "counted": both[0]} for kind, both in kinds.items()},
        "dropped": dict(dropped),
        "notes": dict(notes),
        "end": found.train.tokens.account["end"],
        "missing_tokens": list(template.missing_tokens),
    }


def template_warnings(value: Mapping[str, Any], data: DataConfig) -> Iterator[Issue]:
    """What of a `template_report` may not be what was meant."""
    dropped = dict(value["dropped"])
    if reasoning := dropped.pop("reasoning", 0):
        yield Issue(
            "data.reasoning",
            f"The chat template leaves out the reasoning of {plural(reasoning, 'answer')}.",
            "Keep it (reasoning: keep), train the last answers alone (loss_on: last), or go on without it.",
            {"data.reasoning": "keep"},
        )
    if dropped:
        named = ", ".join(f"{count:,} × {kind}" for kind, count in dropped.items())
        yield Issue(
            "data.template",
            f"The chat template leaves content out: {named}.",
            "Choose another template if the model should see it.",
        )
    for note, count in value["notes"].items():
        yield Issue(
            "data.template",
            f"In {plural(count, 'example')}, {note}.",
            "The chat template takes no other form: serve the model in the same way.",
        )
    yield from _end_warnings(value, data)


def _end_warnings(value: Mapping[str, Any], data: DataConfig) -> Iterator[Issue]:
    end = value["end"]
    if value["missing_tokens"]:
        yield Issue(
            "model.new_tokens",
            f"ChatML's markers are not tokens of this model: {', '.join(value['missing_tokens'])}.",
            f"Add them as new tokens ({IM_START} {IM_END}), so that the model learns them whole; until then the EOS "
            "token ends each conversation.",
        )
    elif end and not end["special"] and data.loss_on != "all":
        what = "no special token" if end["text"] else "nothing that can be learned"
        written = f" ({end['text'].strip()!r})" if end["text"].strip() else ""
        if data.answer_end == "template" or not end["eos"]:
            fix = "Set answer_end to auto." if end["eos"] else "Choose a tokenizer with an EOS token."
            changes: dict[str, Value] = {"data.answer_end": "auto"} if end["eos"] else {}
            yield Issue(
                "data.answer_end",
                f"The chat template ends answers with {what}{written}: the model does not learn to stop.",
                fix,
                changes,
            )
        else:
            yield Issue(
                "data.answer_end",
                f"The chat template ends answers with {what}{written}: {end['eos']} ends the last answer.",
                "Answers in the middle of a conversation have no end to learn.",
            )
