"""Audits the locked dependencies: known vulnerabilities, the files that the index offers, and what is installed here.

python -m tools.supply.audit: a minute. Exits with 1 if anything is wrong; what could not be checked is said.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker

from tools.supply.locked import ANY_MACHINE, CUDA, ROOT, Locked, read

TESTS = ROOT / "tests" / "requirements.txt"
PIP_AUDIT = "pip-audit>=2.10,<3"


def main() -> int:
    problems = [*vulnerabilities(), *replaced_files(), *differently_installed(read(ANY_MACHINE) | read(TESTS))]
    print("\n".join(problems) or "Nothing is wrong with what was checked.")
    return 1 if problems else 0


def vulnerabilities() -> Iterator[str]:
    """Known vulnerabilities of the locked versions, from pip-audit; says so if its data cannot be reached."""
    command = [*_uv("tool", "run", "--from", PIP_AUDIT), "pip-audit", "--strict", "--progress-spinner=off"]
    options = ["--requirement", str(CUDA), "--require-hashes", "--disable-pip", "--format=json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"Vulnerabilities: NOT checked, since pip-audit cannot read its data here ({reason[:160]}).")
        return
    print(f"Vulnerabilities: {len(found)} packages checked by pip-audit.")
    for package in found:
        for known in package.get("vulns", ()):
            fixed = ", ".join(known["fix_versions"]) or "no version yet"
            yield f"{package['name']} {package['version']} has {known['id']}; fixed in {fixed}."


def replaced_files() -> Iterator[str]:
    """Locked files that the index no longer offers with the locked hash."""
    ours = read(CUDA)
    with tempfile.TemporaryDirectory() as folder:
        wanted, made = Path(folder) / "wanted.txt", Path(folder) / "made.txt"
        wanted.write_text("".join(f"{package.name}=={package.version}\n" for package in ours.values()))
        options = ["--quiet", "--no-config", "--no-deps", "--generate-hashes", "--python-version=3.12"]
        platform = "--python-platform=x86_64-manylinux_2_28"
        command = _uv("pip", "compile", *options, platform, str(wanted), "-o", str(made))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            print(f"Hashes: NOT checked, since the package index cannot be read ({reason[:160]}).")
            return
        offered = read(made)
    print(f"Hashes: {sum(len(package.hashes) for package in ours.values())} files compared with the index.")
    for name, package in ours.items():
        if gone := package.hashes - offered[name].hashes:
            yield f"{name} {package.version}: {len(gone)} of its files were removed or replaced since `make lock`."
        if not package.hashes:
            yield f"{name} {package.version} has no hash in {CUDA.name}."


def differently_installed(locked: Mapping[str, Locked]) -> Iterator[str]:
    """Locked packages that are missing, have another version, or whose files were changed after installation."""
    checked = 0
    for name, package in locked.items():
        if package.marker and not Marker(package.marker).evaluate():
            continue
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            yield f"{name} {package.version} is locked and not installed."
            continue
        if found.version.partition("+")[0] != package.version:  # +cpu is a build of the same version
            yield f"{name} {found.version} is installed; {package.version} is locked."
        changed = [str(file) for file in found.files or () if file.hash and _differs(file)]
        checked += len(found.files or ())
        if changed:
            yield f"{name}: {len(changed)} of its files were changed after installation, such as {changed[0]}."
    print(f"Installed: {checked} files of {len(locked)} packages compared with their records.")


def _differs(file: metadata.PackagePath) -> bool:
    """Whether an installed file with a recorded hash is missing, or has another one."""
    assert file.hash is not None
    path = Path(str(file.locate()))
    if not path.is_file():
        return True
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, file.hash.mode).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value


def _uv(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "uv", *arguments]


if __name__ == "__main__":
    sys.exit(main())
