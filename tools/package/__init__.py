"""LoRA Module Lab as pip installs it: `lora_module_lab/`, with the repository's `app.py`, `trainer/` and `ui/` in it.

Other distributions install packages called `trainer` and `ui`, so ours stay out of site-packages. `main` puts this
folder first on the import path, in this process and in those that it starts.
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
    os.environ["PYTHONSAFEPATH"] = "1"  # otherwise `python -m` would look in the user's current folder first
    from trainer.cli.main import main as command_line

    return command_line()
