"""The lock files: requirements.txt for any machine, requirements-cuda.txt, with hashes, for Linux with a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
ANY_MACHINE, CUDA = ROOT / "requirements.txt", ROOT / "requirements-cuda.txt"


@dataclass(frozen=True)
class Locked:
    """One line of a lock: a package's exact version, where it is needed, and SHA-256 of its files, if listed."""

    name: str
    version: str
    marker: str
    hashes: frozenset[str]


def read(path: Path) -> dict[str, Locked]:
    """The packages of a lock file by name. Raises InvalidRequirement for a line that is none."""
    found = {}
    lines = (line.partition(" #")[0] for line in path.read_text(encoding="utf-8").splitlines() if line[:1] != "#")
    for entry in "\n".join(lines).replace("\\\n", " ").split("\n"):
        requirement, *hashes = entry.split("--hash=")
        if requirement.strip():
            parsed = Requirement(requirement)
            (version,) = (part.version for part in parsed.specifier)
            marker = str(parsed.marker or "")
            found[parsed.name] = Locked(parsed.name, version, marker, frozenset(part.strip() for part in hashes))
    return found
