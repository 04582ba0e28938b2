"""The result of testing a mask against serving as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from trainer.common.formatting import plural
from trainer.config.schema import RunConfig
from ui.views import HTML
from ui.views.data_report import on_page, pieces

render = HTML.macros("mask_test.html")
SAME, DIFFERS = "Same as in serving", "Differs from serving"


def result(value: Mapping[str, Any], config: RunConfig) -> Markup:
    """The prompt of each answer in training and in serving, what counts, and how it ends."""
    answers = value["answers"]
    return render("result", value["whole"] or _head(answers), list(_notes(value, config)), [*map(_answer, answers)])


def _head(answers: list[Mapping[str, Any]]) -> str:
    same = sum(answer["same"] is True for answer in answers)
    if not answers:
        return "No answer of this example counts."
    return f"{same:,} of {plural(len(answers), 'answer')} trained on exactly the prompt that a server builds."


def _notes(value: Mapping[str, Any], config: RunConfig) -> Iterator[str]:
    if config.data.loss_on == "all" and value["answers"]:
        yield "All tokens of this data count. Here are the answers alone."
    if value["uncounted"]:
        yield f"Not trained on: {plural(value['uncounted'], 'answer')} of this example."
    if value["more"]:
        yield f"Not tested: {plural(value['more'], 'more answer')}."


def _answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    verdict, says = _verdict(answer)
    return {
        "verdict": verdict,
        "says": says,
        "what": f"{answer['kind'].capitalize()}, message {answer['message']:,}",
        "why": on_page(answer["why"]),
        "texts": list(_texts(answer["difference"])),
        "counted": list(pieces(answer["counted"])),
        "facts": list(_facts(answer)),
    }


def _verdict(answer: Mapping[str, Any]) -> tuple[str, str]:
    if answer["same"] is None:
        return "unknown", "No prompt to compare"
    if answer["same"]:
        return "good", SAME
    return ("unknown", f"{DIFFERS}, as expected") if answer["expected"] else ("bad", DIFFERS)


def _texts(difference: Mapping[str, str] | None) -> Iterator[tuple[str, Any, Any, Any]]:
    if difference is None:
        return
    before, after = (list(pieces(difference[name])) for name in ("before", "after"))
    for name, key in (("Server's prompt", "serving"), ("Training text", "training")):
        yield name, before, list(pieces(difference[key])), after


def _facts(answer: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """(sentence, whether it is bad) on what counts."""
    if answer["hidden"]:
        yield f"{answer['hidden']:,} more characters count.", False
    if answer["missing"]:
        yield f"Left out by the template: {', '.join(answer['missing'])}.", True
    if answer["joins"]:
        yield (
            f"The first token, “{answer['joins']}”, begins in the prompt; a server has another token there.",
            True,
        )
    if answer["cut"]:
        yield "Its end is beyond the maximum length: the model does not learn to stop here.", True
    elif answer["is_eos"]:
        yield f"Ends with {answer['end']}, the EOS token.", False
    elif answer["end"]:
        yield f"Ends with {answer['end']}, a special token other than EOS: the server has to stop there.", False
    else:
        yield "No end token: the model does not learn to stop here.", True
