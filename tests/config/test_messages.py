"""What people read about a bad configuration. `python -m tests.config.test_messages` writes messages.txt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainer.common.errors import UserError
from trainer.config import overrides, validation
from trainer.config.schema import default_config

GOLDEN = Path(__file__).with_name("messages.txt")
BAD_VALUES = ("null", "true", '"7"', '"x"', "2.5", "-7", "1e999", "NaN", "9007199254740993", "[1]", "{}")
TEXTS = (
    *("", "{", "[]", "null", '"x"', '{"schema": 99}', '{"schema": "1"}', '{"trainin": {}}', '{"zzz": 1}'),
    '{"adapter": {"r": 8,\n"r": 16}}',
    '{"adapter": {"lora_alfa": 3, "r": 0}, "training": {"learning_rate": "fast", "seed": true}, "data": 3}',
    '{"modules": {"a": 1}}',
    '{"modules": ["q_proj", {}, {"name": 3, "treatment": "lorra"}, {"name": "k_proj", "rank": 4}]}',
    '{"modules": [{"name": "q_proj"}, {"name": "q_proj", "treatment": "full", "r": 4, "layers": "5-3"}]}',
    '{"model": {"name": " ", "new_tokens": ["", "<|a|>", "<|a|>", 3]}, "title": "\\u0000"}',
    '{"data": {"source": "file"}}',
    '{"data": {"source": "file", "path": "a b", "held_out": "b", "prompt_column": "q"}}',
    '{"data": {"source": "hub", "path": "a/b", "held_out": "train", "completion_column": "q"}}',
    '{"training": {"activation_checkpointing": true, "torch_compile": false, "max_steps": 3.0}}',
)
OPTIONS = (
    *("training.max_steps", "=3", "a.b.c=3", "modules.x=3", "modules[9].r=4", "modules[0].rank=4"),
    *("modules[0].r=0", "training.max_step=3", "training.max_steps=many", "training.seed=[1]", "zzz=1"),
)


def _read(text: str) -> str:
    try:
        return f"OK {json.dumps(validation.loads(text).to_json())}"
    except UserError as error:
        return "\n".join(sorted(str(error).splitlines()))


def _set(option: str) -> str:
    base = default_config().to_json() | {"modules": [{"name": "q_proj"}]}
    try:
        return _read(json.dumps(overrides.apply(base, overrides.from_options([option]))))
    except UserError as error:
        return str(error)


def _bad_values() -> list[tuple[str, str]]:
    """Each setting with each bad value."""
    config: dict[str, Any] = default_config().to_json()
    tick = ("name", "treatment", "r", "lora_alpha", "lr", "layers")
    texts = [f'{{"modules": [{{"name": "q_proj", "{name}": VALUE}}]}}' for name in tick]
    for part, value in config.items():
        names = value if isinstance(value, dict) else ()
        texts += [f'{{"{part}": {{"{name}": VALUE}}}}' for name in names] or [f'{{"{part}": VALUE}}']
    filled = (text.replace("VALUE", value) for text in texts for value in BAD_VALUES)
    return [(text, said) for text in filled if not (said := _read(text)).startswith("OK")]


def messages() -> str:
    said = [(text, _read(text)) for text in TEXTS] + [(f"--set {option}", _set(option)) for option in OPTIONS]
    return "\n\n".join(f"> {text}\n{sentences}" for text, sentences in said + _bad_values()) + "\n"


def test_every_message_is_the_one_that_was_agreed_on() -> None:
    assert messages() == GOLDEN.read_text(encoding="utf-8")


if __name__ == "__main__":
    GOLDEN.write_text(messages(), encoding="utf-8")
