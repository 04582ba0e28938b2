"""Random conversations, and what a model is to write in each, for chat templates of every kind of frame."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.templates import FAMILIES, QWEN25, Family
from trainer.data.rows.messages import Message

TEXTS = (
    "Yes.",
    "No.",
    "assistant",
    "user",
    "Is it? Yes. or No.",
    "  spaced  out ",
    "\n\na line\n\nand another\n",
    "☕ né 👩‍🚀 und Zürich",
    "مرحبا بالعالم",
    "日本語のテキスト",
    "<|im_start|>assistant\nYes.",
    "<|assistant|>\nNo.<|end|> more",
    "[INST] Yes. [/INST] No.",
    "<start_of_turn>model\nYes.",
    "<|start|>assistant<|channel|>final",
    "a</s> b",
    '{"name": "look_up", "arguments": {}}',
    "### assistant: Yes.",
    "{{ messages }} {% if x %}",
    "\ttabs\tand \\n escapes \"quoted\" 'single'",
)
"""Short ones that recur, whitespace, scripts, imitations of markup."""
NAMES = ("look_up", "Yes", "user", "get-weather.v2")


@dataclass(frozen=True)
class Frame:
    """A chat template, and the text that a model writes for one message under it."""

    template: str
    written: Callable[[Message, bool], str]
    """(message, whether it is the last) → what counts."""
    system: bool = True
    strict: bool = False
    """Whether roles must alternate."""
    tools: bool = False
    reasoning: bool = False


def _calls(message: Message, one: Callable[[str, str], str]) -> str:
    return "".join(
        one(call["function"]["name"], json.dumps(call["function"]["arguments"], ensure_ascii=False))
        for call in message.get("tool_calls", ())
    )


# a tool call ends with another token than an answer
EOM = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls %}<|call|>{{ c.function.name }} "
    "{{ c.function.arguments | tojson }}{% endfor %}{{ '<|eom|>' if m.tool_calls else '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# nothing but white space ends a message
LINES = (
    "{% for m in messages %}{{ '### ' + m.role + ': ' + m.content + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant: ' }}{% endif %}"
)
# nothing ends a message
ENDLESS = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% for c in m.tool_calls %}"
    "{{ '<call>' + c.function.name + ' ' + c.function.arguments | tojson + '</call>' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# reasoning is dropped, and the generation prompt closes it
SILENT = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{{ '<think></think>' if m.role == 'assistant' }}"
    "{{ m.content + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think></think>' }}{% endif %}"
)
# the generation prompt opens reasoning
OPENED = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' %}"
    "{{ '<think>' + m.reasoning_content | default('') + '</think>' }}{% endif %}{{ m.content + '<|eot|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>' }}{% endif %}"
)
# every part of an answer is a message of its own, and only the last one ends otherwise
CHANNELS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% if m.reasoning_content %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.reasoning_content + '<|end|>' }}{% endif %}"
    "{% for c in m.tool_calls %}{{ '<|start|>assistant to=' + c.function.name + '<|channel|>commentary<|message|>' }}"
    "{{ c.function.arguments | tojson + '<|call|>' }}{% endfor %}{% if not m.tool_calls %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + ('<|return|>' if loop.last else '<|end|>') }}"
    "{% endif %}{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
# no generation prompt, arguments as text, the name in the header and in the call
NAMED = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% for c in m.tool_calls %}"
    "{{ '[CALL]' + c.function.name + '[ARGS]' + c.function.arguments + '[/CALL:' + c.function.name + ']' }}"
    "{% endfor %}{{ m.content + eos_token }}{% else %}{{ '[' + m.role | upper + ']' + m.content }}"
    "{{ '[/' + m.role | upper + ']' }}{% endif %}{% endfor %}"
)


def _family(family: Family, strict: bool) -> Frame:
    def written(message: Message, last: bool) -> str:
        before, after = family.counted[last].split("No." if last else "Yes.")
        return before + str(message["content"]) + after

    return Frame(family.template, written, family.system, strict)


def _qwen25(message: Message, _: bool) -> str:
    calls = _calls(
        message, lambda name, given: f'\n<tool_call>\n{{"name": "{name}", "arguments": {given}}}\n</tool_call>'
    )
    return (str(message["content"]) + calls if message["content"] else calls.removeprefix("\n")) + "<|im_end|>"


def _eom(message: Message, _: bool) -> str:
    calls = _calls(message, lambda name, given: f"<|call|>{name} {given}")
    return str(message["content"]) + calls + ("<|eom|>" if calls else "<|eot|>")


def _endless(message: Message, last: bool) -> str:
    calls = _calls(message, lambda name, given: f"<call>{name} {given}</call>")
    return str(message["content"]) + calls + ("</s>" if last else "")


def _channels(message: Message, last: bool) -> str:
    thought = message.get("reasoning_content", "")
    parts = [f"<|channel|>analysis<|message|>{thought}<|end|>"] if thought else []
    calls = _calls(message, lambda name, given: f"\0 to={name}<|channel|>commentary<|message|>{given}<|call|>")
    parts += calls.split("\0")[1:]
    if not calls:
        parts.append(f"<|channel|>final<|message|>{message['content']}" + ("<|return|>" if last else "<|end|>"))
    return "<|start|>assistant".join(parts)


def _named(message: Message, _: bool) -> str:
    return (
        _calls(message, lambda name, given: f"[CALL]{name}[ARGS]{given}[/CALL:{name}]")
        + str(message["content"])
        + "</s>"
    )


FRAMES = {
    **{
        name: _family(family, name in ("Mistral", "Gemma")) for name, family in FAMILIES.items() if name != "Qwen 2.5"
    },
    "Qwen 2.5": Frame(QWEN25, _qwen25, tools=True),
    "own end of calls": Frame(EOM, _eom, tools=True),
    "white space at the end": Frame(LINES, lambda message, last: str(message["content"]) + ("</s>" if last else "")),
    "no end": Frame(ENDLESS, _endless, tools=True),
    "no reasoning": Frame(SILENT, lambda message, _: f"{message['content']}<|eot|>", reasoning=True),
    "opened reasoning": Frame(
        OPENED,
        lambda message, _: f"{message.get('reasoning_content', '')}</think>{message['content']}<|eot|>",
        reasoning=True,
    ),
    "channels": Frame(CHANNELS, _channels, tools=True, reasoning=True),
    "named twice": Frame(NAMED, _named, tools=True),
}


def conversation(rng: random.Random, frame: Frame) -> list[Message]:
    """One to four turns, which end with an answer."""
    found: list[Message] = []
    if rng.random() < 0.3:
        found.append({"role": "system", "content": rng.choice(TEXTS)})
    for turn in range(rng.randint(1, 4)):
        if turn or frame.strict or frame.tools or rng.random() < 0.9:
            found.append({"role": "user", "content": rng.choice(TEXTS)})
        while frame.tools and rng.random() < 0.4:
            found += _called(rng, len(found))
        found.append({"role": "assistant", "content": rng.choice(TEXTS)})
        if frame.reasoning and rng.random() < 0.6:
            found[-1]["reasoning_content"] = rng.choice(TEXTS)
        if rng.random() < 0.2:
            found[-1]["weight"] = rng.choice((0, 1))
    return found


def _called(rng: random.Random, number: int) -> list[Message]:
    """A message with one or two calls, and a result of each."""
    calls = [
        {"id": f"call{number}{place}", "type": "function", "function": _function(rng)}
        for place in range(rng.randint(1, 2))
    ]
    said = rng.choice(("", "", rng.choice(TEXTS)))
    results: list[Message] = [
        {"role": "tool", "tool_call_id": call["id"], "content": rng.choice(TEXTS)} for call in calls
    ]
    return [{"role": "assistant", "content": said, "tool_calls": calls}, *results]


def _function(rng: random.Random) -> dict[str, Any]:
    given = {
        rng.choice(("city", "what", "user")): rng.choice((rng.choice(TEXTS), 3, True, ["a", "b"])) for _ in range(2)
    }
    return {"name": rng.choice(NAMES), "arguments": given if rng.random() < 0.9 else {}}
