"""LoRA Module Lab as pip installs it: `lora_module_lab/`, with the repository's `app.py`, `trainer/` and `ui/` in it.

Other distributions install packages called `trainer` and `ui`, so ours stay out of site-packages. `main` puts this
folder first on the import path, here and in every process started from here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HOME = str(Path(__file__).parent)


def main() -> int:
    """The console script `lora-lab`; returns its exit code."""
    sys.path.insert(0, HOME)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (HOME, os.environ.get("PYTHONPATH"))))
    os.environ["PYTHONSAFEPATH"] = "1"  # or `python -m` would first look in the current folder, which is the user's
    from trainer.cli.main import main as command_line

    return command_line()
