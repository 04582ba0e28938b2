"""Whether Triton can compile kernels on this machine, without importing it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

INSTALL = "Install gcc and python3-dev."


class NoTriton(NamedTuple):
    """Why Triton cannot compile kernels."""

    reason: str
    """A clause, such as `there is no C compiler`."""
    fix: str = ""
    """A sentence."""


def no_triton() -> NoTriton | None:
    """Why Triton cannot compile kernels; None if it can.

    Builds what Triton builds when it starts (triton/runtime/build.py): a Python extension, with $CC, gcc or clang.
    """
    if find_spec("triton") is None:
        return NoTriton("Triton is not installed", "pip install triton.")
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = sysconfig.get_paths(scheme=_scheme())["include"]
    missing = ["no C compiler"] * (not compiler) + ["no Python.h"] * (not (Path(headers) / "Python.h").is_file())
    if missing:
        return NoTriton(f"there is {' and '.join(missing)}", INSTALL)
    assert compiler is not None
    try:
        _build(compiler, headers)
    except (OSError, subprocess.SubprocessError) as error:
        return NoTriton(f"{Path(compiler).name} cannot build a Python extension ({_reason(error)})", INSTALL)
    return None


def _scheme() -> str:
    """Debian's own scheme names a folder of its own for headers, which Triton avoids as well."""
    scheme = sysconfig.get_default_scheme()
    return "posix_prefix" if scheme == "posix_local" else scheme


@cache
def _build(compiler: str, headers: str) -> None:
    """Build a Python extension, once if it succeeds. Raises OSError or SubprocessError."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text("#include <Python.h>\nvoid probe(void) { Py_Initialize(); }\n", encoding="ascii")
        command = [compiler, str(source), "-O3", "-shared", "-fPIC", f"-I{headers}", "-o", f"{folder}/probe.so"]
        subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


def _reason(error: Exception) -> str:
    """What a failed build says, in one line."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in error.stderr.splitlines() if "error" in line]
        return lines[0][:200] if lines else f"exit code {error.returncode}"
    return str(error)[:200]
