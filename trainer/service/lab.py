"""The app's one object: settings, runs, supervisor, helper. The page calls these methods and nothing deeper."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import demo
from trainer.common import devices
from trainer.common.errors import InvalidConfig, Issue
from trainer.config import validation
from trainer.config.lenient import checked
from trainer.config.schema import RunConfig, is_bundled
from trainer.data.readers.files import quickly_read
from trainer.data.readers.uploads import keep_data, take_upload
from trainer.execution.analysis_process import Helper, Watcher
from trainer.execution.scheduler import Supervisor
from trainer.experiments.comparison import Comparison, compare
from trainer.experiments.experiment import ID, Experiment, Experiments, default_name, expand
from trainer.experiments.saved_sets import OwnSets
from trainer.experiments.scenario_plans import Offer, make_offers
from trainer.models import search
from trainer.models.base_model import BaseModels
from trainer.models.module_map import ModuleMap
from trainer.models.search import Choice
from trainer.planning.plan import Plan, make_plan
from trainer.planning.scenarios import Scenario
from trainer.planning.schedule import Size
from trainer.runs import duration_estimates, lifecycle
from trainer.runs.store import Run, RunStore

__all__ = ["Lab", "Settings", "keep_data"]


@dataclass(frozen=True)
class Settings:
    """Where the app listens and where it keeps things."""

    host: str = "127.0.0.1"
    port: int | None = None
    """None: 7860, or the next free one."""
    runs_dir: Path = Path("runs")
    models_dir: Path = Path("models")

    @property
    def data_dir(self) -> Path:
        """Uploaded data, by content."""
        return self.runs_dir / "data"

    @property
    def exports_dir(self) -> Path:
        """The only folder whose files the app serves."""
        return self.runs_dir / "exports"


class Lab:
    """What the page can do."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = RunStore(settings.runs_dir)
        self.experiments = Experiments(self.store)
        self.own_sets = OwnSets(self.store.folder)
        for folder in (settings.data_dir, settings.exports_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self.base_models = BaseModels(settings.models_dir)
        self.helper = Helper(settings.models_dir, settings.data_dir)
        self.data_helper = Helper(settings.models_dir, settings.data_dir, "data")
        self._sizes: dict[Hashable, Size | None] = {}
        """Of data that were looked at, by what decides about it."""
        self.supervisor = Supervisor(self.store, settings.models_dir, settings.data_dir)

    def start(self) -> None:
        self.helper.start()
        self.supervisor.start()

    def close(self) -> None:
        self.supervisor.close()
        self.helper.close()
        self.data_helper.close()

    def recent_models(self) -> list[str]:
        """Names of the models that were trained last."""
        return search.recent(self.store.summaries())

    def models_here(self) -> list[Choice]:
        """The demo, then the folders of the models folder."""
        return search.here(self.settings.models_dir)

    def models_in_cache(self) -> list[Choice]:
        """Models of the hub that lie in its local cache."""
        return search.in_cache()

    def search_hub(self, text: str) -> list[Choice]:
        """Models of the hub. Raises UserError where it cannot be asked."""
        return search.on_hub(self.base_models.hub, text)

    def module_map(self, config: RunConfig) -> ModuleMap:
        return self.helper.module_map(config.model)

    def plan(self, config: RunConfig) -> Plan:
        """The plan of a configuration. Raises UserError where its model cannot be read."""
        vocabulary = self.helper.vocabulary(config.model) if config.model.new_tokens else ()
        module_map = self.module_map(config)
        plan = make_plan(config, module_map, devices.device(), vocabulary, self._size(config))
        return plan.on(self.base_models.examine(config.model, module_map))

    def count(self, config: RunConfig) -> None:
        """Read data that take no time, so that `plan` knows the steps of a run; others are read when asked for.

        Raises UserError only where the helper cannot answer.
        """
        if quickly_read(config.data, self.settings.data_dir):
            self._measure(config)

    def _size(self, config: RunConfig) -> Size | None:
        """How much there is to train on, where that is known."""
        return Size(demo.examples(), 0.0) if is_bundled(config) else self._sizes.get(_read_as(config))

    def _measure(self, config: RunConfig) -> None:
        """Read the data, unless their size is known."""
        if self._size(config) is None:
            found = self.data_helper.call("data_size", config=config.to_json())
            self._sizes[_read_as(config)] = Size(**found) if found else None

    def read(self, value: Any) -> RunConfig:
        """A configuration from parsed JSON. Raises InvalidConfig with every problem of it, those of its plan too."""
        return checked(value, lambda config: self.plan(config).issues)

    def data_report(self, config: RunConfig, watcher: Watcher | None = None) -> dict[str, Any]:
        """The account of a configuration's data, with the time that its training takes where that is known.

        Raises UserError only where the helper cannot answer; what is wrong with the data stands in `issues`.
        """
        found = self.data_helper.call("data_report", watcher, config=config.to_json())
        self._sizes[_read_as(config)] = duration_estimates.size_of(found)
        return duration_estimates.with_seconds(found, config, duration_estimates.paces(self.store, config.model))

    def data_example(self, config: RunConfig, which: str) -> dict[str, Any]:
        """One training example, token by token: `which` is its number, random, longest or shortest."""
        found: dict[str, Any] = self.data_helper.call("data_example", config=config.to_json(), which=which)
        return found

    def train(self, config: RunConfig, watcher: Watcher | None = None) -> Run:
        """Queue a run. Raises InvalidConfig with every problem at once, UserError where the model is none.

        Data that were not looked at yet are read first; `watcher` may break that off, which raises Cancelled.
        """
        issues = validation.validate(config)
        if issues:
            raise InvalidConfig(issues)
        plan = self.plan(config)
        if plan.issues:
            raise InvalidConfig(plan.issues)
        self._check_data(config, watcher)
        self._measure(config)
        run = self.store.create(config, self.plan(config))
        self.supervisor.kick()
        return run

    def _check_data(self, config: RunConfig, watcher: Watcher | None) -> None:
        """Raises InvalidConfig where the data are such that no run can start."""
        if is_bundled(config):
            return
        issues = self.data_helper.call("data_issues", watcher, config=config.to_json())
        if issues:
            raise InvalidConfig([Issue(**issue) for issue in issues])

    def stop(self, run_id: str) -> str:
        """Stop a run, or an experiment with all its runs; the second time, kill. Returns what was done."""
        if ID.fullmatch(run_id):
            return self.experiments.stop(run_id)
        return lifecycle.stop_run(self.store.get(run_id))

    def resume(self, run_id: str, epochs: float = 0) -> None:
        """Let a run that is over go on where it was, for `epochs` more. Raises UserError where it cannot."""
        lifecycle.resume_run(self.store.get(run_id), epochs=epochs)
        self.supervisor.kick()

    def scenarios(self, config: RunConfig, set_name: str) -> tuple[Scenario, ...]:
        """The scenarios of a set on this configuration's model. Raises UserError where there is no such set."""
        return self.own_sets.find(set_name).make(self.module_map(config))

    def offers(
        self, config: RunConfig, set_name: str, equal_budget: bool, without: Collection[str] = ()
    ) -> tuple[Offer, ...]:
        """What the scenarios of a set, those of these keys left out, mean with this configuration."""
        chosen = self.scenarios(config, set_name)
        return make_offers(config, chosen, self.module_map(config), self.plan, equal_budget, without)

    def time_needed(self, config: RunConfig, offers: Iterable[Offer], seeds: int) -> float | None:
        """Seconds that these scenarios will take with so many seeds; None where no earlier run tells."""
        configs = [offer.config for offer in offers if offer.runs] * seeds
        known, size = duration_estimates.paces(self.store, config.model), self._sizes.get(_read_as(config))
        return duration_estimates.total(configs, known, size) if configs else None

    def run_scenarios(
        self,
        config: RunConfig,
        set_name: str,
        equal_budget: bool = False,
        seeds: int = 1,
        name: str = "",
        without: Collection[str] = (),
        watcher: Watcher | None = None,
    ) -> Experiment:
        """Queue the scenarios of a set as one experiment. Raises as `train`, and where none of them can run."""
        offers, found = self.offers(config, set_name, equal_budget, without), self.own_sets.find(set_name)
        title = name.strip() or default_name(found.title, config.model.name, equal_budget)
        if any(offer.runs for offer in offers):
            self._check_data(config, watcher)
        made = self.experiments.create(title, found.question, offers, seeds, equal_budget, self.plan)
        self.supervisor.kick()
        return made

    def resume_experiment(self, experiment_id: str) -> str:
        """Queue again what did not finish of an experiment. Returns what was done."""
        done = self.experiments.resume(experiment_id, self.plan)
        self.supervisor.kick()
        return done

    def compare(self, names: Sequence[str]) -> tuple[Comparison, Experiment | None]:
        """Compare runs, or those of experiments, by their ids."""
        ids, experiment = expand(self.experiments, names)
        return compare(self.store, ids, experiment), experiment

    def report(self, names: Sequence[str]) -> Path:
        """The report of a comparison as a zip in the exports folder."""
        from trainer.experiments.report_html import report_zip

        return report_zip(self.store, *self.compare(names), self.settings.exports_dir)

    def first(self, run_id: str) -> None:
        """Put a queued run at the front of the queue. Raises UserError if it does not wait."""
        lifecycle.put_first(self.store, run_id)

    def add_data(self, upload: Path) -> str:
        """Keep an uploaded data file; returns the name by which `data.path` knows it."""
        name = take_upload(upload, self.settings.data_dir)
        self.data_helper.start()  # it will be asked what is in it
        return name

    def export(self, run_id: str) -> Path:
        """The adapter of a run as a zip in the exports folder. Raises UserError where there is none yet."""
        from trainer.export.adapter_zip import adapter_zip

        return adapter_zip(self.store.get(run_id), self.settings.exports_dir)


def _read_as(config: RunConfig) -> Hashable:
    """What of a configuration decides how many tokens its data are."""
    return config.model, config.data, config.training.max_length, config.training.seed
