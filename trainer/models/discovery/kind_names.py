"""Short unique names for kinds: the last part of a path, with as much of it before as it takes."""

from __future__ import annotations

from collections import Counter

Path = tuple[str, ...]


def short_names(kinds: list[tuple[Path, int, int]]) -> list[str]:
    """Names, in the same order, for (parts of the path without layer numbers, rank, parts at least).

    Paths of a lower rank choose first, and no end of theirs goes to a higher rank: `q_proj` never means
    something that cannot be trained while there is a `q_proj` that can. Kinds with one and the same path
    (of several classes, say) get #2, #3 ... after the name.
    """
    best: dict[Path, tuple[int, int]] = {}
    for path, rank, least in kinds:
        best[path] = min((rank, max(least, 1)), best.get(path, (rank, max(least, 1))))
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for rank in sorted({rank for rank, _ in best.values()}):
        paths = {path: least for path, (own, least) in best.items() if own == rank}
        names.update(_choose(paths, taken))
        taken.update(".".join(path[-length:]) for path in paths for length in range(1, len(path) + 1))
    seen: Counter[Path] = Counter()
    given: list[str] = []
    for path, _, _ in kinds:
        seen[path] += 1
        given.append(names[path] + (f"#{seen[path]}" if seen[path] > 1 else ""))
    return given


def _choose(paths: dict[Path, int], taken: set[str]) -> dict[Path, str]:
    """For each of these different paths the shortest end, of so many parts at least, that is its own."""
    names: dict[Path, str] = {}
    for length in range(1, 1 + max(map(len, paths))):
        ends = {path: ".".join(path[-length:]) for path in paths if path not in names}
        count = Counter(ends.values())
        for path, end in ends.items():
            if length >= min(paths[path], len(path)) and count[end] == 1 and end not in taken:
                names[path] = end
    return {path: names.get(path, ".".join(path)) for path in paths}
