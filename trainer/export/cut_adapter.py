"""Exports an adapter that is cut down: the zip of any adapter, with lower ranks."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from trainer.common import atomic
from trainer.common.disk import write_failed
from trainer.common.errors import UserError
from trainer.common.formatting import percent
from trainer.common.progress import ProgressMonitor
from trainer.export.adapter_zip import REPAIR, WEIGHTS, adapter_zip, check_adapter
from trainer.runs.adapter_settings import CONFIG, read_settings
from trainer.runs.run import Run
from trainer.training import low_rank


class CutRun(Run):
    """A run whose adapter is cut down."""

    def __init__(self, run: Run, adapter: Path, kept: float) -> None:
        super().__init__(run.folder, run.config, run.config_problem, run.history, run.read)
        self._adapter, self._kept = adapter, kept

    @property
    def adapter(self) -> Path:
        return self._adapter

    @property
    def title(self) -> str:
        return f"{super().title}, cut to {percent(self._kept)}"

    @property
    def adapter_note(self) -> str:
        return (
            f"It was cut down after training: {percent(self._kept)} of the energy of its LoRA updates is kept, in "
            "lower ranks. The losses and the number of trainable parameters are those before."
        )


def cut_adapter_zip(run: Run, kept: float, exports_dir: Path, monitor: ProgressMonitor | None = None) -> Path:
    """Write the adapter of `run`, cut down to the share `kept` of its energy, into `exports_dir`, atomically.

    Raises UserError if there is none or it cannot be cut, and Canceled if `monitor` cancels it.
    """
    check_adapter(run)
    settings = read_settings(run.adapter / CONFIG)
    try:
        weights, config = low_rank.cut(load_file(run.adapter / WEIGHTS), settings, kept)
        with tempfile.TemporaryDirectory(dir=exports_dir, prefix=".cut-") as name:
            folder = Path(name)
            for file in run.adapter.iterdir():
                if file.is_file() and not file.is_symlink() and file.name != WEIGHTS:
                    shutil.copyfile(file, folder / file.name)
            atomic.write_json(folder / CONFIG, config)
            save_file(weights, folder / WEIGHTS, {"format": "pt"})
            return adapter_zip(CutRun(run, folder, kept), exports_dir, monitor)
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"The adapter of {run.title} is damaged.", REPAIR, "data") from error
    except OSError as error:
        raise write_failed(error) from error
