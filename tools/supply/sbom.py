"""Writes docs/sbom.json: the locked packages as a CycloneDX bill of materials, with the licenses of docs/licenses.md.

python -m tools.supply.sbom, after tools.supply.licenses. Hashes of the packages' files are in requirements-cuda.txt.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.supply.licenses import PAGE
from tools.supply.locked import CUDA, ROOT

BILL = ROOT / "docs" / "sbom.json"
CYCLONEDX = "cyclonedx-bom>=7.5,<8"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "sbom.json"
        command = [sys.executable, "-m", "uv", "tool", "run", "--from", CYCLONEDX, "cyclonedx-py", "requirements"]
        options = ["--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible", "--output-file", str(made)]
        subprocess.run([*command, str(CUDA), *options], check=True)
        bill: dict[str, Any] = json.loads(made.read_bytes())
    bill["metadata"].pop("tools", None)
    known = licenses()
    for component in bill["components"]:
        for key in ("description", "externalReferences"):  # the requirement's line, and the index's address
            component.pop(key, None)
        component["licenses"] = [{"license": {"name": known[component["name"]]}}]
    BILL.write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    print(f"{BILL.relative_to(ROOT)}: {len(bill['components'])} packages")
    return 0


def licenses() -> dict[str, str]:
    """License by package, as docs/licenses.md lists them."""
    rows = (line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| "))
    return {cells[0].removeprefix("| "): cells[2] for cells in rows}


if __name__ == "__main__":
    sys.exit(main())
