"""What README, CONTRIBUTING and two of the docs name exists: paths, make targets, commands."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from trainer.cli import main as command_line

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in (
    "README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/deployment.md",
)}  # fmt: skip
MADE = ("runs/", "models/", ".venv/", "checkpoints/", "adapter/", "lora_module_lab/")
"""Paths that exist only once something has run."""


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_links_to_or_names_exists(page: str) -> None:
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", PAGES[page]) if "://" not in link}
    broken = {link for link in links if not (ROOT / page).parent.joinpath(link).exists()}
    named = re.findall(r"`((?:[\w-]+/)+(?:[\w.-]+\.\w+)?|[\w-]+\.(?:py|toml|txt))`", PAGES[page])
    assert broken | {path for path in named if not path.startswith(MADE) and not _places(path)} == set()


def test_every_path_in_the_pictures_exists() -> None:
    named = set(re.findall(r"\b((?:[a-z_]+/)+(?:\w+\.py)?)", PAGES["docs/architecture.md"]))
    assert {path for path in named if not path.startswith(MADE) and not _places(path)} == set()


def test_the_tree_of_the_readme_is_the_repository() -> None:
    tree = PAGES["README.md"].partition("## For developers")[2].split("```")[1]
    shown = set(re.findall(r"^  (\w+)/ ", tree, re.M))
    assert shown == {path.parent.name for path in (ROOT / "trainer").glob("*/__init__.py")}
    assert all((ROOT / top).exists() for top in re.findall(r"^([\w.]+)", tree, re.M))


def test_every_make_target_and_every_command_exists() -> None:
    text = "\n".join(PAGES.values())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"(?:`|^|\s)make ([a-z-]+)(?=`|\s+#|$)", text, re.M)) - targets == set()
    commands = command_line._parser().format_help()
    named = set(re.findall(r"(?:-m trainer|lora-lab) ([a-z]+)", text))
    assert {name for name in named if not re.search(rf"^    {name}\b", commands, re.M)} == set()
    assert len(named) > 10


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = PAGES["docs/deployment.md"].partition("```ini\n")[2].partition("```")[0]
    assert "[Service]" in unit
    file = tmp_path / "lora-module-lab.service"
    file.write_text(unit.replace("/srv/lora-module-lab", str(ROOT)).replace("User=lab", "User=root"))
    done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def _places(path: str) -> list[Path]:
    """Where a page may mean `path` to be: in the repository, or in one of the two packages."""
    return [place for place in (ROOT, ROOT / "trainer", ROOT / "ui") if (place / path).exists()]
