"""Renders examples as text: with the model's chat template, ChatML if it has none, or as plain text.

A base model without a template takes prompt and answer one after the other, the end marked by EOS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from jinja2.exceptions import TemplateError, TemplateSyntaxError

from trainer.common.errors import UserError
from trainer.common.formatting import size
from trainer.common.work_limits import Exceeded, limited
from trainer.config.schema import DataConfig
from trainer.data.masking.message_forms import MessageForm, folded, form_of
from trainer.data.rows.messages import BadRow, Example, Message

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
Tools = Sequence[dict[str, Any]] | None
RENDER_SECONDS, RENDER_BYTES = 10.0, 1_000_000_000
"""CPU time and memory of one rendering. A template is code that came with a model: nothing else bounds its loops."""
MAX_TEXT, MAX_GROWTH = 1_000_000, 8
"""Characters of any rendered text, and how many times its messages a longer one may be."""


@dataclass(frozen=True)
class Template:
    """How examples of one data set are rendered for one tokenizer."""

    tokenizer: Any
    kind: str
    """model, chatml or plain."""
    why: str
    system_prompt: str = ""

    @cached_property
    def text(self) -> str | None:
        """The template that is given along; None where the tokenizer has its own."""
        if self.kind != "chatml":
            return None
        return "{{ bos_token }}" + CHATML if adds_bos(self.tokenizer) else CHATML

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokenizer puts its BOS before the text; chat templates write theirs themselves."""
        return self.kind == "plain"

    @property
    def identity(self) -> list[str]:
        """What of the template decides how examples are rendered."""
        own = self.tokenizer.chat_template if self.kind == "model" else ""
        return [self.kind, str(own), self.system_prompt]

    @cached_property
    def form(self) -> MessageForm:
        """How the template wants its messages."""
        return form_of(self._rendered)

    @cached_property
    def special_tokens(self) -> frozenset[str]:
        """Everything that the tokenizer makes one token of, whatever stands around it."""
        tokens = {*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab()}
        return frozenset(token for token in tokens if token.strip())

    @property
    def missing_tokens(self) -> tuple[str, ...]:
        """ChatML's markers that the tokenizer takes apart into letters."""
        return tuple(mark for mark in (IM_START, IM_END) if mark not in self.special_tokens) * (self.kind == "chatml")

    def hand_over(self) -> bool:
        """Put the template into the tokenizer, for whoever serves what is trained; False where it has its own."""
        if self.text is None:
            return False
        self.tokenizer.chat_template = self.text
        if IM_END in self.special_tokens:
            self.tokenizer.eos_token = IM_END  # servers stop there
        return True

    def conversation(self, example: Example) -> list[Message]:
        """The messages of an example, with the system prompt where it has none of its own.

        A system message that the template does not take stands at the start of the first user message.
        """
        messages: list[Message] = example["messages"]
        if self.system_prompt and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system_prompt}, *messages]
        if messages[0]["role"] == "system" and self.kind != "plain" and self.form.folds_system:
            return folded(messages)
        return messages

    def render(self, messages: Sequence[Message], tools: Tools = None, ask: bool = False) -> str:
        """The text of a conversation; `ask` adds what stands before an answer. Raises BadRow where it is refused."""
        return self._rendered(self.form(messages), tools, ask)

    def _rendered(self, messages: list[Message], tools: Tools, ask: bool) -> str:
        try:
            text = limited(lambda: self._applied(messages, tools, ask), RENDER_BYTES, RENDER_SECONDS)
        except Exceeded as error:
            raise _excessive(error) from error
        except (RecursionError, SyntaxError, TemplateSyntaxError) as error:  # no other row would fare better
            raise _unusable(f"cannot be rendered: {_reason(error)}") from error
        except Exception as error:  # a template may raise anything
            if tools is None and isinstance(error, TypeError):  # some go through the tools without asking for any
                return self._rendered(messages, [], ask)
            raise _refusal(error) from error
        if len(text) > MAX_TEXT and len(text) > MAX_TEXT + MAX_GROWTH * len(str((messages, tools))):
            raise _unusable(f"makes a text of {len(text):,} characters of a single conversation")
        return text

    def _applied(self, messages: list[Message], tools: Tools, ask: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=self.text, tokenize=False, add_generation_prompt=ask
            )
        )

    def render_all(self, conversations: Sequence[Sequence[Message]]) -> list[str] | None:
        """The texts of many conversations without tools in one go; None where one of them is refused."""
        if not conversations:
            return []
        made = [self.form(messages) for messages in conversations]
        apply = partial(self.tokenizer.apply_chat_template, made, chat_template=self.text, tokenize=False)
        try:
            texts = list(limited(apply, RENDER_BYTES, RENDER_SECONDS))
        except Exception:  # of whatever kind: rendered one by one, each gets its reason
            return None
        return texts if max(map(len, texts)) <= MAX_TEXT else None


def _excessive(error: Exceeded) -> UserError:
    limit = {"time": f"{RENDER_SECONDS:g} s", "memory": f"{size(RENDER_BYTES)} of memory"}[error.limit]
    return _unusable(f"takes more than {limit} for a single conversation")


def _unusable(does: str) -> UserError:
    fix = "Set the template to chatml or plain, or choose another model."
    return UserError(f"The chat template of the model {does}.", fix)


def _refusal(error: Exception) -> BadRow:
    if isinstance(error, TemplateError):
        return BadRow(f"the chat template refuses it: {_reason(error)}")
    return BadRow(f"the chat template cannot take it ({type(error).__name__}: {_reason(error)})")


def _reason(error: Exception) -> str:
    return str(error).strip().rstrip(".")[:160]


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a BOS token before a text."""
    bos = tokenizer.bos_token_id
    return bos is not None and bos in tokenizer("a", verbose=False)["input_ids"][:1]


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
