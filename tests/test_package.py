"""What `pip install .` installs: one package, which finds its own `trainer` and `ui` beside others of these names."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client

from tests.support.lab import PATIENCE, wait_for

ROOT = Path(__file__).parents[1]
RUN = "import sys; from lora_module_lab import main; sys.exit(main())"
"""What pip makes the console script of."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like site-packages: the wheel's files, and a `trainer` and a `ui` of another distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling import build; build.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site-packages")
    return _with_strangers(folder / "site-packages")


@pytest.fixture
def folder(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's folder, whose files have our packages' names as well."""
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # as in a console script, which does not look in the current folder
    return _with_strangers(tmp_path)


def _with_strangers(folder: Path) -> Path:
    for name in ("trainer", "ui", "app"):
        (folder / f"{name}.py").write_text("raise SystemExit('imported a stranger')", encoding="utf-8")
    return folder


def lora_lab(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`lora-lab WORDS` in a folder."""
    return subprocess.run([sys.executable, "-c", RUN, *words], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def page(folder: Path) -> Iterator[Client]:
    """`lora-lab app` in that folder."""
    environment = os.environ | {"PORT": "", "GRADIO_ANALYTICS_ENABLED": "False"}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "app"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()[-1]
    yield Client(address, verbose=False, httpx_kwargs={"timeout": PATIENCE})
    process.terminate()
    process.wait(PATIENCE)


def test_the_wheel_holds_one_package_with_everything_that_the_program_reads(site: Path) -> None:
    wanted = [path for name in ("trainer", "ui") for path in (ROOT / name).rglob("*.*") if path.suffix != ".pyc"]
    package = site / "lora_module_lab"
    missing = [path for path in (ROOT / "app.py", *wanted) if not (package / path.relative_to(ROOT)).exists()]
    assert (len(wanted) > 150, missing) == (True, [])
    metadata = next(site.glob("*.dist-info"))
    assert {path.stem for path in site.iterdir()} == {"lora_module_lab", metadata.stem, "trainer", "ui", "app"}
    assert (metadata / "entry_points.txt").read_text().split("\n")[1] == "lora-lab = lora_module_lab:main"


def test_the_installed_app_trains_the_demo_in_processes_of_the_package(page: Client, folder: Path) -> None:
    rows = folder / "runs" / "data" / "rows.jsonl"
    rows.write_text('{"prompt": "Ahoy", "completion": "Arr"}\n' * 8, encoding="utf-8")
    data = {"source": "file", "path": rows.name, "eval_fraction": 0}
    config = {"modules": [{"name": "q_proj"}], "data": data, "training": {"max_steps": 1}}
    run = page.predict(config, api_name="/train")
    wait_for(lambda: page.predict(run, api_name="/run")["state"] in ("finished", "failed"))
    assert page.predict(run, api_name="/run")["state"] == "finished", (
        folder / "runs" / run / "worker.log"
    ).read_text()
    assert (folder / "runs" / run / "adapter" / "adapter_model.safetensors").is_file()


def test_the_installed_program_calls_itself_by_its_name(folder: Path) -> None:
    assert lora_lab(folder, "app", "--help").stdout.startswith("usage: lora-lab app ")
    refused = lora_lab(folder, "plan", "app.py")
    assert (refused.returncode, "`lora-lab config`" in refused.stderr) == (2, True)
