from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def own_device_locks(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests neither wait for a training of the person who runs them, nor hold it up."""
    monkeypatch.setenv("LAB_DEVICE_LOCKS", str(tmp_path_factory.mktemp("locks")))
    yield


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the tiny models of `tests/support/tiny.py`."""
    from tests.support import tiny

    folder = tmp_path_factory.mktemp("models")
    for kind in ("phi3", "llama", "gpt2", "moe"):
        tiny.save_model(folder / kind, kind)
    return folder
