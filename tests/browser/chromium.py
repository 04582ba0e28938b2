"""The Chromium that drives the page. `python -m tests.browser.chromium` fetches it where this machine has none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

MISSING = (
    "The page's tests need Chromium: `apt-get install chromium`, or "
    "`.venv/bin/playwright install --with-deps chromium`."
)


def find() -> str | None:
    """Playwright's own Chromium, else the system's."""
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else shutil.which("chromium") or shutil.which("google-chrome")


def main() -> int:
    if find() is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
    if find() is None:
        print(MISSING, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
