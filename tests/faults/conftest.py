from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.bench import Bench


@pytest.fixture
def bench(tmp_path: Path, models_dir: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, models_dir)
    yield bench
    bench.close()
