"""Which role a name in a conversation stands for. A name that nobody knows is asked about, never guessed."""

from __future__ import annotations

import re

ASSISTANTS = (
    *("assistant", "gpt", "bot", "model", "chatbot", "ai", "chatgpt", "bing", "bard", "claude", "llm"),
    *("ai_assistant", "assistant_response", "chat_assistant", "chatgpt_assistant"),
)
TOOLS = (
    *("tool", "function", "observation", "observations", "ipython", "tool_response", "tool_responses"),
    *("tool_result", "tool_results", "tool_output", "tool_outputs", "function_response", "function_responses"),
    *("function_result", "function_results", "function_output", "code_output", "code_result", "execution_result"),
    *("api_response", "search_results", "search_result", "interpreter", "environment_response"),
)
SCENES = ("context", "narrator", "narration", "scenario", "scene", "background", "instructions", "world")
ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "usr", "end_user"), "user"),
    **dict.fromkeys(ASSISTANTS, "assistant"),
    **dict.fromkeys(("system", "developer", "system_prompt", "system_message", "sys"), "system"),
    **dict.fromkeys(TOOLS, "tool"),
    **dict.fromkeys(("tool_call", "tool_calls", "function_call", "function_calls", "tool_use"), "tool_call"),
    **dict.fromkeys(SCENES, "scene"),
}
"""Common names. `tool_call` is the assistant, calling a tool. A `scene` is what a conversation takes place in: the
system message where it comes first, the user's otherwise."""
COMMON = {name: role for name, role in ROLES.items() if role not in ("tool_call", "scene")}
KNOWN_NAMES = 10_000


class RoleNames:
    """The roles of names: as the user assigned them, else by what is common."""

    def __init__(self, assigned: dict[str, str], assistant: str = "") -> None:
        """`assistant`: the one who answers, where all other names that are not common are the user's."""
        own = dict(assigned)
        if assistant:
            own[assistant] = "assistant"
        self.assigned = list(own.items())
        self._own = {plain(name): role for name, role in own.items()} | own
        self._others = "user" if assistant else None
        self._found: dict[str, str | None] = {}
        self.usual = {**COMMON, **{name: role for name, role in own.items() if role != "ignore"}}
        """Roles of names as they are most often spelled."""
        for name in own:
            if own[name] == "ignore":
                self.usual.pop(name, None)

    def role(self, name: str) -> str | None:
        """user, assistant, system, tool, tool_call, scene or ignore; None where nobody knows."""
        if name not in self._found:
            if len(self._found) > KNOWN_NAMES:
                self._found.clear()
            key = plain(name)
            role = self._own.get(name) or self._own.get(key) or ROLES.get(key)
            self._found[name] = role or self._others
        return self._found[name]


def plain(name: str) -> str:
    """`<|Tool Result|>` -> tool_result."""
    return re.sub(r"[\s-]+", "_", name.strip(" \t\r\n<|>:[]#*").lower())
