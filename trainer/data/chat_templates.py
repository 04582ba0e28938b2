"""Renders examples as text: with the model's chat template, ChatML if it has none, or as plain text.

A base model without a template takes prompt and answer one after the other, the end marked by EOS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

from trainer.common.errors import UserError
from trainer.config.schema import DataConfig
from trainer.data.conversations import BadRow, Example, Message

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
Tools = Sequence[dict[str, Any]] | None


@dataclass(frozen=True)
class Template:
    """How examples of one data set are rendered for one tokenizer."""

    tokenizer: Any
    kind: str
    """model, chatml or plain."""
    why: str
    system_prompt: str = ""

    @property
    def text(self) -> str | None:
        """The template that is given along; None where the tokenizer has its own."""
        return CHATML if self.kind == "chatml" else None

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokenizer puts its BOS before the text; chat templates write theirs themselves."""
        return self.kind != "model"

    @property
    def identity(self) -> list[str]:
        """What of the template decides how examples are rendered."""
        own = self.tokenizer.chat_template if self.kind == "model" else ""
        return [self.kind, str(own), self.system_prompt]

    def conversation(self, example: Example) -> list[Message]:
        """The messages of an example, with the system prompt where it has none of its own."""
        messages: list[Message] = example["messages"]
        if self.system_prompt and messages[0]["role"] != "system":
            return [{"role": "system", "content": self.system_prompt}, *messages]
        return messages

    def render(self, messages: Sequence[Message], tools: Tools = None, ask: bool = False) -> str:
        """The text of a conversation; `ask` adds what stands before an answer. Raises BadRow where it is refused."""
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), tools=tools, chat_template=self.text, tokenize=False, add_generation_prompt=ask
                )
            )
        except TemplateError as error:
            raise BadRow(f"the chat template refuses it: {str(error).strip()[:160]}") from error
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise BadRow(f"the chat template cannot take it ({type(error).__name__}: {str(error)[:120]})") from error

    def render_all(self, conversations: Sequence[Sequence[Message]]) -> list[str] | None:
        """The texts of many conversations without tools in one go; None where one of them is refused."""
        if not conversations:
            return []
        try:
            found = self.tokenizer.apply_chat_template(
                [list(messages) for messages in conversations], chat_template=self.text, tokenize=False
            )
        except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError):
            return None
        return list(found)


def choose(data: DataConfig, tokenizer: Any, shapes: Mapping[str, int]) -> Template:
    """The template for data of these shapes. Raises UserError where the one that was chosen does not exist."""
    has_own = bool(tokenizer.chat_template)
    if data.template == "model" and not has_own:
        raise UserError("This model has no chat template.", "Set the template to auto, chatml or plain.", "data")
    if data.template != "auto":
        kind, why = data.template, "as chosen"
    elif has_own:
        kind, why = "model", "the model has a chat template"
    elif next(iter(shapes), "text") == "chat":
        kind, why = "chatml", "the model has no chat template, and the data are conversations"
    else:
        kind, why = "plain", "the model has no chat template: prompt and answer one after the other"
    return Template(tokenizer, kind, why, data.system_prompt)
