"""Seeded junk: JSON values, mutated texts and bytes. The same seed makes the same inputs, on every machine."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

WORDS = (
    *(
        "",
        " ",
        "x",
        "demo",
        "../..",
        "/etc/passwd",
        "a/b",
        "q_proj",
        "lora",
        "full",
        "last 3",
        "0-99999",
        "NaN",
        "1e999",
    ),
    *(
        "<img src=x onerror=alert(1)>",
        "{{ 7*7 }}",
        "{% for x in y %}",
        "${x}",
        "__class__",
        "\ud800",
        "a\0b",
        "ﬀ",
        "‮",
    ),
    *("%s%n", "'; DROP TABLE", "\r\nX: y", "9" * 400, "é" * 300, "hf_", "-1", "true", "null", "[]", "items", "get"),
)
PIECES = (b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"\\u0000", b"\\ud800", b"[" * 3000, b"\r", b"\n")
NUMBERS = (0, -1, 1, 3.5, 2**31, 2**53, 2**63, -(2**70), 1e308, 5e-324, float("inf"), float("nan"), 10**400)


def value(random: Random, depth: int = 0) -> Any:
    """Any JSON value, sometimes deep, sometimes odd."""
    kind = random.randrange(9 if depth < 4 else 6)
    if kind == 0:
        return random.choice((None, True, False))
    if kind in (1, 2):
        return random.choice(NUMBERS)
    if kind in (3, 4, 5):
        return random.choice(WORDS)
    if kind == 6:
        return [value(random, depth + 1) for _ in range(random.randrange(4))]
    if kind == 7 and depth == 0:
        return deep(random.choice((30, 300)))
    return {random.choice(WORDS): value(random, depth + 1) for _ in range(random.randrange(4))}


def deep(levels: int) -> Any:
    found: Any = 1
    for level in range(levels):
        found = [found] if level % 2 else {"a": found}
    return found


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside a JSON value."""
    found = [path]
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, item in pairs:
        found += places(item, (*path, key))
    return found


def mutated(tree: Any, random: Random) -> Any:
    """The value with one to three of its parts replaced, taken out or doubled."""
    tree = copy.deepcopy(tree)
    for _ in range(random.randrange(1, 4)):
        path = random.choice(places(tree))
        if not path:
            continue
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        act = random.randrange(4)
        if act == 0:
            del parent[path[-1]]
        elif act == 1 and isinstance(parent, dict):
            parent[random.choice(WORDS)] = parent.pop(path[-1])
        else:
            parent[path[-1]] = value(random)
    return value(random) if random.randrange(40) == 0 else tree


def text(tree: Any, random: Random) -> str:
    """JSON of the value, at times broken as text."""
    found = json.dumps(tree, ensure_ascii=random.random() < 0.5)
    return (
        damaged(found.encode("utf-8", "surrogatepass"), random).decode("utf-8", "replace")
        if random.random() < 0.5
        else found
    )


def damaged(data: bytes, random: Random) -> bytes:
    """Bytes with flips, cuts, doublings and foreign pieces."""
    for _ in range(random.randrange(1, 5)):
        at = random.randrange(len(data) + 1)
        act = random.randrange(6)
        if act == 0:
            data = data[:at]
        elif act == 1:
            data = data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
        elif act == 2:
            data = data[:at] + data[at // 2 : at] + data[at:]
        elif act == 3:
            piece = random.choice(
                (b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"\\u0000", b"\\ud800", b"[" * 3000, b"\r", b"\n")
            )
            data = data[:at] + piece + data[at:]
        elif act == 4:
            data = data[:at] + b"7" * random.choice((3, 5000)) + data[at:]
        else:
            data = data[:at] + random.randbytes(random.randrange(20)) + data[at:]
    return data
