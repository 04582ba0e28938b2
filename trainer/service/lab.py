"""Shared state of all use cases: settings, run folders, analysis processes, scheduler."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trainer.common.errors import UserError
from trainer.execution.analysis import Analysis, LocalAnalysis
from trainer.execution.analysis_process import AnalysisProcess
from trainer.execution.device_usage import UsageMeter
from trainer.execution.measurement_process import MeasurementProcess
from trainer.execution.scheduler import Scheduler
from trainer.experiments.experiment import Experiments
from trainer.experiments.saved_sets import OwnSets
from trainer.models.base_model import BaseModels
from trainer.models.module_map import ModuleMap
from trainer.planning.schedule import Size
from trainer.runs.store import RunStore


@dataclass(frozen=True)
class Settings:
    """Where the app listens, and its folders."""

    host: str = "127.0.0.1"
    port: int | None = None
    """None: 7860, or the next free one."""
    runs_dir: Path = Path("runs")
    models_dir: Path = Path("models")

    @property
    def data_dir(self) -> Path:
        """Uploaded data, named by content, and the data cache."""
        return self.runs_dir / "data"

    @property
    def exports_dir(self) -> Path:
        """The only folder whose files the app serves."""
        return self.runs_dir / "exports"

    @property
    def uploads_dir(self) -> Path:
        """Where uploads arrive, until they are checked and stored."""
        return self.runs_dir / "uploads"


class Lab:
    """The state of an app, or of one command."""

    def __init__(self, settings: Settings, in_process: bool = False) -> None:
        """`in_process`: for a single command, which runs analyses itself and creates folders only when needed.

        Otherwise creates the folders. Raises UserError if they cannot be created.
        """
        self.settings = settings
        self.base_models = BaseModels(settings.models_dir)
        folders = settings.models_dir, settings.data_dir
        self.model_analysis: Analysis
        self.data_analysis: Analysis
        self._processes: dict[str, AnalysisProcess] = {}
        if in_process:
            self.model_analysis = self.data_analysis = LocalAnalysis(*folders)
        else:
            self._processes = {task: AnalysisProcess(*folders, task) for task in ("models", "data")}
            self.model_analysis, self.data_analysis = self._processes.values()
        self.module_maps: dict[Hashable, ModuleMap] = {}
        self.vocabularies: dict[Hashable, frozenset[str]] = {}
        """Both keyed by the model and the state of its files."""
        self.data_sizes: dict[Hashable, Size | None] = {}
        """Sizes of data, keyed by the settings that determine them; None if they cannot be trained on."""
        if not in_process:
            self.make_folders()

    @cached_property
    def store(self) -> RunStore:
        """All runs: list, open, rename, delete. Raises UserError if the runs folder cannot be used."""
        return RunStore(self.settings.runs_dir)

    @cached_property
    def experiments(self) -> Experiments:
        """All experiments: list, open, their states."""
        return Experiments(self.store)

    @cached_property
    def own_sets(self) -> OwnSets:
        """The user's own sets of scenarios."""
        return OwnSets(self.store.folder)

    @cached_property
    def usage(self) -> UsageMeter:
        """What the devices are doing."""
        return UsageMeter(self.store)

    @cached_property
    def measurements(self) -> MeasurementProcess:
        """Measures runs that have ended."""
        return MeasurementProcess(self.settings.models_dir, self.settings.data_dir)

    @cached_property
    def scheduler(self) -> Scheduler:
        return Scheduler(self.store, self.settings.models_dir, self.settings.data_dir)

    def make_folders(self) -> None:
        """Create missing folders. Raises UserError if that fails."""
        try:
            for folder in (self.store.folder, self.settings.data_dir, self.settings.exports_dir):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = (error.strerror or str(error)).lower()
            raise UserError(
                f"The runs folder {self.settings.runs_dir} cannot be used: {what}.",
                "Name another one with --runs-dir.",
                "disk",
            ) from error

    def start(self) -> None:
        """Start the background processes."""
        self.prepare_analysis("models")
        self.scheduler.start()

    def prepare_analysis(self, task: str) -> None:
        """Start the process that analyzes models or data in advance, so that the first request needs no imports."""
        if task in self._processes:
            self._processes[task].start()

    def close(self, stop_runs: bool = False) -> None:
        """End all processes except the workers, which finish their runs.

        `stop_runs`: stop those as well, with a checkpoint, and wait for them.
        """
        self.scheduler.close()
        if stop_runs:
            self.scheduler.stop_runs()
        self.measurements.close()
        for process in self._processes.values():
            process.close()
