"""Who may read and lock what the programs write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WRITE = """
import sys
from pathlib import Path
from trainer.common import atomic, file_locks, file_modes
file_modes.keep_private()
folder = Path(sys.argv[1])
held = [file_locks.acquire(folder / "locks" / "cpu.lock", shared=True), file_locks.acquire(folder / "run" / "lock")]
(folder / "run" / "log").write_text("x")
atomic.write(folder / "run" / "config.json", "{}")
atomic.write(folder / "report.html", "x")
file_modes.make_ordinary(folder / "report.html")
with file_modes.ordinary():
    (folder / "hub").mkdir()
(folder / "later").write_text("x")
"""


def test_files_are_private_except_those_that_others_need(tmp_path: Path) -> None:
    """Locks of devices are taken by all users; reports and the hub's cache have the user's ordinary modes."""
    subprocess.run([sys.executable, "-c", WRITE, str(tmp_path)], check=True, umask=0o022)
    modes = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o7777 for path in tmp_path.rglob("*")}
    assert modes == {
        "locks": 0o1777,
        "locks/cpu.lock": 0o666,
        "run": 0o700,
        "run/lock": 0o600,
        "run/log": 0o600,
        "run/config.json": 0o600,
        "report.html": 0o644,
        "hub": 0o755,
        "later": 0o600,
    }
