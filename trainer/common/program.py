"""Where the program is installed, and the commands that run it."""

from __future__ import annotations

from pathlib import Path

HOME = Path(__file__).parents[2]
"""The folder of `app.py`, `trainer/` and `ui/`: the repository, or the package that pip installed."""
_INSTALLED = (HOME / "__init__.py").is_file()
"""The repository's own folder is not a package."""
COMMAND = "lora-lab" if _INSTALLED else "python -m trainer"
"""The command line, as users call it."""
APP = "lora-lab app" if _INSTALLED else "app.py"
"""The command that starts the app."""
