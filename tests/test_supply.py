"""The lock is complete, and the lists of licenses and materials name what it names."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from packaging.markers import Marker

from tools.supply import audit, sbom
from tools.supply.licenses import PAGE
from tools.supply.locked import ANY_MACHINE, CUDA, Locked, read

LINUX = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "python_version": "3.12"}
LINUX |= {"python_full_version": "3.12.9", "os_name": "posix"}


def test_the_lock_for_gpus_is_the_other_one_with_hashes_and_nvidias_packages() -> None:
    """torch's CUDA build requires NVIDIA's packages, which a CPU build must not install."""
    anywhere, cuda = read(ANY_MACHINE), read(CUDA)
    applies = {n: p.version for n, p in anywhere.items() if not p.marker or Marker(p.marker).evaluate(LINUX)}
    assert applies == {name: cuda[name].version for name in applies}
    added = cuda.keys() - applies.keys()
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13"} <= added
    assert all(name.startswith(("nvidia-", "cuda-")) for name in added)
    assert all(package.hashes for package in cuda.values())


def test_licenses_and_bill_of_materials_are_those_of_the_lock() -> None:
    cuda = read(CUDA)
    versions = {name: package.version for name, package in (read(ANY_MACHINE) | cuda).items()}
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    assert {row[0].removeprefix("| "): row[1] for row in rows} == versions, "run make licenses"
    assert all(row[2].strip() for row in rows)
    components = json.loads(sbom.BILL.read_bytes())["components"]
    assert {item["name"]: item["version"] for item in components} == {n: p.version for n, p in cuda.items()}


def test_a_file_changed_after_installation_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "parrot-1.0.dist-info"
    record.mkdir()
    (tmp_path / "parrot.py").write_text("alive = True\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"alive = True\n").digest()).rstrip(b"=").decode()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot\nVersion: 1.0\n")
    (record / "RECORD").write_text(f"parrot.py,sha256={digest},13\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    locked = {"parrot": Locked("parrot", "1.0", "", frozenset())}
    assert list(audit.differently_installed(locked)) == []
    (tmp_path / "parrot.py").write_text("alive = False\n")
    assert "parrot.py" in " ".join(audit.differently_installed(locked))
    other = next(audit.differently_installed({"parrot": Locked("parrot", "2.0", "", frozenset())}))
    assert "1.0 is installed; 2.0 is locked" in other
