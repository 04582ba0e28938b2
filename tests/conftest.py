from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("OMP_NUM_THREADS", "1")


LONGEST = (
    "browser/test_page.py",
    "faults/test_memory_and_disk.py",
    "browser/test_training.py",
    "browser/test_compare.py",
    "browser/test_data.py",
    "faults/test_kills.py",
    "browser/test_runs_tab.py",
    "planning/test_performance.py",
    "training/test_demo.py",
    "training/test_liger.py",
    "faults/test_stops.py",
    "browser/test_model_field.py",
    "runs/test_runs.py",
    "test_package.py",
    "planning/test_memory_at_size.py",
    "security/test_process.py",
)
"""Files that take longest begin first, or one of two workers waits for the other at the end. Before all others of the
browser comes the one that wants to see an app without runs."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.relative_to(Path(__file__).parent).as_posix(), len(ranks)))


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
