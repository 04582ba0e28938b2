"""Chat templates of the well-known families, written from their documented formats, with what should count for the
loss.

Not copies: each produces the same text as its family's template, including tool calls and reasoning if supported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tests.support import tiny

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Qwen 2.5: a default system message, tool calls as <tool_call> JSON, tool answers inside a user turn
QWEN25 = """\
{%- if messages[0]['role'] == 'system' -%}
{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' -}}
{%- else -%}
{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' -}}
{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) -%}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}
{%- elif m.role == 'assistant' -%}
{{- '<|im_start|>assistant' -}}
{%- if m.content -%}{{- '\n' + m.content -}}{%- endif -%}
{%- for call in m.tool_calls -%}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) -}}
{{- '}\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- elif m.role == 'tool' -%}
{{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"""

# Qwen 3: keeps the reasoning after the last question, drops that of earlier turns
QWEN3 = """\
{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
{%- set thought = '' -%}{%- set said = m.content -%}
{%- if m.reasoning_content is string -%}{%- set thought = m.reasoning_content -%}
{%- elif '</think>' in said -%}
{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') -%}
{%- set said = said.split('</think>')[-1].lstrip('\n') -%}
{%- endif -%}
{%- if loop.index0 > ns.last and (loop.last or thought) -%}
{{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + said.lstrip('\n') -}}
{%- else -%}
{{- '<|im_start|>assistant\n' + said -}}
{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- else -%}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"""

LLAMA3 = (
    "{% for m in messages %}{% set text = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}"
    "{{ text }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# Mistral: no generation prompt, no system role, strictly alternating turns
MISTRAL = """\
{{- bos_token -}}
{%- for m in messages -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
{%- endif -%}
{%- if m['role'] == 'user' -%}{{- '[INST] ' + m['content'] + ' [/INST]' -}}
{%- elif m['role'] == 'assistant' -%}{{- ' ' + m['content'] + eos_token -}}
{%- else -%}{{- raise_exception('Only user and assistant roles are supported!') -}}
{%- endif -%}
{%- endfor -%}"""

GEMMA = """\
{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}{{- raise_exception('System role not supported') -}}{%- endif -%}
{%- for m in messages -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
{%- endif -%}
{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}
{{- '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"""

# Phi-3 ends the text with the end-of-text token unless there is a generation prompt
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI4 = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)

# DeepSeek R1: the reasoning of every answer is dropped, and the generation prompt opens a new one
DEEPSEEK = """\
{{- bos_token -}}
{%- for m in messages -%}{%- if m['role'] == 'system' -%}{{- m['content'] -}}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- if m['role'] == 'user' -%}{{- '<|User|>' + m['content'] -}}
{%- elif m['role'] == 'assistant' -%}
{%- set said = m['content'].split('</think>')[-1] -%}
{{- '<|Assistant|>' + said + '<|end_of_sentence|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|Assistant|><think>\n' -}}{%- endif -%}"""

# GLM 4: only the next turn's header ends an answer
GLM = (
    "{{ '[gMASK]<sop>' }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# Zephyr: the generation prompt has no line break, the answer starts with one
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A template and what of two answers, "Yes." and "No.", the loss should count."""

    template: str
    counted: tuple[str, str]
    system: bool = True
    """Whether it supports a system message."""


FAMILIES = {
    "ChatML": Family(CHATML, ("Yes.<|im_end|>", "No.<|im_end|>")),
    "Qwen 2.5": Family(QWEN25, ("Yes.<|im_end|>", "No.<|im_end|>")),
    "Qwen 3": Family(QWEN3, ("Yes.<|im_end|>", "<think>\n\n</think>\n\nNo.<|im_end|>")),
    "Llama 3": Family(LLAMA3, ("Yes.<|eot_id|>", "No.<|eot_id|>")),
    "Mistral": Family(MISTRAL, (" Yes.</s>", " No.</s>"), system=False),
    "Gemma": Family(GEMMA, ("Yes.<end_of_turn>", "No.<end_of_turn>"), system=False),
    "Phi-3": Family(PHI3, ("Yes.<|end|>", "No.<|end|>\n</s>")),
    "Phi-4": Family(PHI4, ("Yes.<|im_end|>", "No.<|im_end|>")),
    "DeepSeek": Family(DEEPSEEK, ("Yes.<|end_of_sentence|>", "No.<|end_of_sentence|>")),
    "GLM": Family(GLM, ("\nYes.", "\nNo.</s>")),
    "Zephyr": Family(ZEPHYR, ("\nYes.</s>", "\nNo.</s>")),
}


def tokenizer(template: str | None) -> Any:
    """The tiny tokenizer with a chat template, whose markup are special tokens."""
    made = tiny.tokenizer()
    made.chat_template = template
    markup = set(re.findall(r"<\|?[a-z_]+\|?>|\[/?[A-Z_]+\]", template or ""))
    made.add_special_tokens({"additional_special_tokens": sorted(markup - {"<think>", "</think>"})})
    return made
