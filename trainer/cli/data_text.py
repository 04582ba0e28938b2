"""The data report and examples as text for a terminal, in colors or, without them, in brackets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainer.common.formatting import duration, percent, plural
from trainer.common.plain_text import visible
from trainer.service.data import SHAPES

COLORS = {"counts": "\033[30;42m", "context": "\033[2m", "cut": "\033[9;31m"}
BRACKETS = {"counts": ("⟦", "⟧"), "context": ("", ""), "cut": ("✂", "✂")}
END = "\033[0m"
LEGEND = {"counts": "counts for the loss", "context": "context", "cut": "cut off"}
LINES = 10


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report, line by line."""
    if report["shape"]:
        yield visible(f"{report['rows']:,} rows of {SHAPES[report['shape']]}. {report['why']}")
        yield f"template: {report['template']['kind']} ({report['template']['why']})"
        kinds = report["template"]["kinds"].items()
        counts = ", ".join(f"{name} {item['counted']:,} of {item['messages']:,}" for name, item in kinds)
        yield from [f"what counts: {counts}"] if counts else []
    yield from _unused(report)
    for group in report["bad_groups"]:
        lines = ", ".join(map(str, group["lines"][:LINES])) + (", …" if group["count"] > LINES else "")
        yield f"  {group['count']:,} × {group['reason']}: line {lines}"
    tokens = report["tokens"]
    if tokens:
        yield f"{tokens['examples']:,} training examples, {report['held_out']['examples']:,} held out"
        yield f"{tokens['total']:,} tokens, {tokens['counted']:,} count for the loss ({percent(tokens['share'])})"
        yield "lengths: " + ", ".join(f"{name} {size:,}" for name, size in tokens["quantiles"].items())
        yield (
            f"max_length {tokens['max_length']}: {tokens['longer']:,} longer, {tokens['answers_cut']:,} answers cut; "
            f"suggested {tokens['suggested_max_length']}"
        )
    if report["batches"]:
        batches = report["batches"]
        useful, otherwise = (percent(batches[key]) for key in ("fill", "unpacked"))
        yield f"batches: {batches['way']}, {useful} useful tokens ({otherwise} otherwise)"
    if report["training"]:
        training = report["training"]
        seconds = training.get("seconds")
        pace = f"about {duration(seconds)}" if seconds else "time unknown: no run of this model yet"
        yield f"{training['steps']:,} steps, {training['tokens']:,} tokens, {pace}"
    for issue in (*report["warnings"], *report["issues"]):
        yield visible(f"{issue['problem']} {issue['fix']}")


def _unused(report: Mapping[str, Any]) -> Iterator[str]:
    """What the rows have and no example holds."""
    words = {"columns": ("column", "row"), "fields": ("message field", "message"), "media": ("", "part")}
    for kind, (what, unit) in words.items():
        for name, count in report["unused"][kind].items():
            yield visible(f"  not used: {f'{what} {name}'.strip()} ({plural(count, unit)})")
    for reason, count in report["left_out"].items():
        yield f"  left out: {plural(count, 'row')}, {reason}"


def example_text(example: Mapping[str, Any], colors: bool) -> str:
    """One example, token by token."""
    head = f"example {example['number'] + 1} of {example['of']}, {example['file']} line {example['line']}: "
    head += f"{example['length']} tokens, {example['counted']} count, {example['cut']} cut off"
    body = "".join(_runs(example["tokens"], colors))
    rest = f" … {example['hidden']} more tokens" if example["hidden"] else ""
    return f"{visible(head)}\n{body}{rest}\n"


def mask_test_text(value: Mapping[str, Any]) -> str:
    """One example, answer by answer, compared with what a server does."""
    lines = [f"example {value['number'] + 1} of {value['of']}, compared with serving: {value['whole']}".rstrip()]
    for answer in value["answers"]:
        same = {True: "same as in serving", False: "differs from serving", None: "no prompt to compare"}
        end = f"ends with {answer['end']}" if answer["end"] else "no end token"
        end = "its end is cut off" if answer["cut"] else end
        missing = f", left out: {', '.join(answer['missing'])}" if answer["missing"] else ""
        lines.append(f"  {answer['kind']}, message {answer['message']}: {same[answer['same']]}, {end}{missing}")
        lines += [f"    {answer['why']}"] if answer["why"] else []
        for name in ("serving", "training") if answer["difference"] else ():
            difference = answer["difference"]
            lines.append(f"    {name}: …{difference['before']}⟦{difference[name]}⟧{difference['after']}…"[:400])
        lines.append(f"    counts: {answer['counted'][:400]!r}")
        lines += [f"    first token begins in the prompt: {answer['joins']!r}"] if answer["joins"] else []
    lines += [f"  answers that do not count: {value['uncounted']}"] if value["uncounted"] else []
    lines += [f"  answers not tested: {value['more']}"] if value["more"] else []
    return "\n".join(visible(line.replace("\n", "\\n")) for line in lines)


def legend(colors: bool) -> str:
    """The meaning of the colors or brackets."""
    return "  ".join(_styled(text, kind, colors) for kind, text in LEGEND.items())


def _runs(tokens: list[dict[str, Any]], colors: bool) -> Iterator[str]:
    """Joins adjacent tokens of one kind. Control characters in the data never reach the terminal."""
    start = 0
    for end in range(1, len(tokens) + 1):
        if end == len(tokens) or tokens[end]["kind"] != tokens[start]["kind"]:
            text = "".join(visible(token["text"]) for token in tokens[start:end])
            yield _styled(text, tokens[start]["kind"], colors)
            start = end


def _styled(text: str, kind: str, colors: bool) -> str:
    if not colors:
        left, right = BRACKETS[kind]
        return f"{left}{text}{right}"
    lines = text.split("\n")  # so that the background does not extend to the edge of the window
    return "\n".join(f"{COLORS[kind]}{line}{END}" if line else "" for line in lines)
