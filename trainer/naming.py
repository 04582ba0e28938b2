"""Short unique names for kinds: the last part of a path, with as much of it before as it takes."""

from __future__ import annotations

from collections import Counter

Path = tuple[str, ...]


def short_names(paths: list[tuple[Path, int]]) -> list[str]:
    """A name for each (parts of its path without layer numbers, rank), in the same order.

    Paths of a lower rank choose first, so that what cannot be trained does not make longer the names of
    what can. Kinds with one and the same path (of several classes, say) get #2, #3 ... behind the name.
    """
    best: dict[Path, int] = {}
    for path, rank in paths:
        best[path] = min(rank, best.get(path, rank))
    names: dict[Path, str] = {}
    for rank in sorted(set(best.values())):
        _choose([path for path, own in best.items() if own == rank], names)
    seen: Counter[Path] = Counter()
    given: list[str] = []
    for path, _ in paths:
        seen[path] += 1
        given.append(names[path] + (f"#{seen[path]}" if seen[path] > 1 else ""))
    return given


def _choose(paths: list[Path], names: dict[Path, str]) -> None:
    """Add to `names` the shortest ends of these different paths that nothing else is called."""
    taken = set(names.values())
    left = paths
    for length in range(1, 1 + max(map(len, paths))):
        ends = {path: ".".join(path[-length:]) for path in left}
        count = Counter(ends.values())
        chosen = {path: end for path, end in ends.items() if count[end] == 1 and end not in taken}
        names.update(chosen)
        left = [path for path in left if path not in chosen]
        if not left:
            return
