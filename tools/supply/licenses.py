"""Writes docs/licenses.md: every dependency of the lock, direct or not, with the license that it declares.

python -m tools.supply.licenses: a minute; what is not installed here is asked of the package index.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from tools.supply.locked import ANY_MACHINE, CUDA, ROOT, Locked, read

PAGE = ROOT / "docs" / "licenses.md"
INTRODUCTION = """# Licenses

LoRA Module Lab itself is under Apache-2.0. These are the packages that its lock files name, direct or not,
with the license that each one declares. None of them is part of this repository. `make licenses` writes this
page and [sbom.json](sbom.json) (CycloneDX, for Linux with a GPU) after `make lock`.
"""
DECLARED_NOWHERE = {
    "audioop-lts": "PSF-2.0",  # the index shows its metadata to Python 3.13 only
    "httpx2-jsfetch": "BSD-3-Clause",  # the index shows its metadata to Python in a browser only
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",  # declares none; it only requires NVIDIA's packages
}
"""What the metadata that can be read from here do not say."""
SHORT = {
    "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "BSD License": "BSD",
    "BSD": "BSD",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD 2-CLAUSE LICENSE": "BSD-2-Clause",
    "ISC License": "ISC",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
}


def main() -> int:
    packages = read(ANY_MACHINE) | read(CUDA)
    found = {name: installed(package) for name, package in packages.items()}
    missing = [packages[name] for name, license in found.items() if not license and name not in DECLARED_NOWHERE]
    found |= published(missing)
    unknown = sorted(name for name, license in found.items() if not license and name not in DECLARED_NOWHERE)
    if unknown:
        print(f"No license is declared by {', '.join(unknown)}: look it up, and add it to DECLARED_NOWHERE.")
        return 1
    licenses = {name: found[name] or DECLARED_NOWHERE[name] for name in sorted(found)}
    PAGE.write_text(page(packages, licenses), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(licenses)} packages")
    return 0


def installed(package: Locked) -> str:
    """The license in the metadata of the installed package; empty if another version or none is installed."""
    try:
        found = metadata.metadata(package.name)
    except metadata.PackageNotFoundError:
        return ""
    if found["Version"].partition("+")[0] != package.version:
        return ""
    return declared(found["License-Expression"], found["License"], found.get_all("Classifier") or [])


def published(packages: Iterable[Locked]) -> dict[str, str]:
    """The licenses that the index's metadata declare, without downloading the packages."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        for package in packages:
            wanted = f"{package.name}=={package.version}"
            options = ["--dry-run", "--ignore-installed", "--no-deps", "--use-feature=fast-deps"]
            command = [sys.executable, "-m", "pip", "install", "--quiet", *options, "--report", str(report), wanted]
            subprocess.run(command, check=True)
            values: dict[str, Any] = json.loads(report.read_bytes())["install"][0]["metadata"]
            names = (values.get("license_expression"), values.get("license"), values.get("classifier", []))
            found[package.name] = declared(*names)
    return found


def declared(expression: str | None, license: str | None, classifiers: Iterable[str]) -> str:
    """The license as an SPDX expression where it is clear, else as declared; empty if not at all."""
    if expression:
        return expression
    names = [name.rpartition(" :: ")[2] for name in classifiers if name.startswith("License :: OSI Approved :: ")]
    title = (license or "").strip().partition("\n")[0]
    if title and len(title) < 60:  # else it is the license's text
        names = [title]
    return " OR ".join(SHORT.get(name.strip(), name.strip()) for name in names)


def page(packages: Mapping[str, Locked], licenses: Mapping[str, str]) -> str:
    everywhere = read(ANY_MACHINE)
    counts = ", ".join(f"{license} {count}" for license, count in Counter(licenses.values()).most_common())
    rows = [
        f"| {name} | {packages[name].version} | {license} | {'' if name in everywhere else 'Linux with a GPU'} |"
        for name, license in licenses.items()
    ]
    head = [
        f"{len(licenses)} packages: {counts}.",
        "",
        "| package | version | license | only on |",
        "|---|---|---|---|",
    ]
    return "\n".join([INTRODUCTION, *head, *rows, ""])


if __name__ == "__main__":
    sys.exit(main())
