"""Where the program lies, and the commands that run it."""

from __future__ import annotations

from pathlib import Path

HOME = Path(__file__).parents[2]
"""The folder of `app.py`, `trainer/` and `ui/`: the repository, or the package that pip installed."""
_INSTALLED = (HOME / "__init__.py").is_file()
"""The repository's own folder is no package."""
COMMAND = "lora-lab" if _INSTALLED else "python -m trainer"
"""How a person calls the command line."""
APP = "lora-lab app" if _INSTALLED else "app.py"
"""How a person starts the page."""
