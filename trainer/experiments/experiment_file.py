"""experiments/<id>.json: what an experiment asks, its scenarios, and which runs belong to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trainer.common import bounded_files
from trainer.common.bounded_files import DamagedFile
from trainer.common.errors import InvalidConfig, UserError
from trainer.common.plain_text import one_line
from trainer.config import validation
from trainer.config.schema import RunConfig
from trainer.experiments.rate_ladder import HIGHEST, LOWEST, Rung
from trainer.runs.plan_file import is_count, is_issues, is_match_report
from trainer.runs.run import MAX_TITLE
from trainer.runs.store import RUN_ID

MAX_RUNS = 200
MAX_BYTES = 64_000_000
"""Every scenario lists the modules that it matched."""
MAX_TEXT = 4000
"""Characters of a question."""
FIX = "Fix the file, or move it away."


@dataclass(frozen=True)
class Member:
    """One run of an experiment."""

    scenario: str
    """Key of its scenario."""
    seed: int
    run: str
    """Id of its run."""
    rate: float = 1.0
    """Factor of LoRA's learning rate: its rung of the scenario's ladder."""
    full_rate: float = 1.0
    """Factor of the learning rate of modules trained in full."""

    @property
    def rung(self) -> Rung:
        return Rung(self.rate, self.full_rate)


@dataclass(frozen=True)
class Experiment:
    """What experiments/<id>.json holds."""

    id: str
    name: str
    question: str
    equal_budget: bool
    scenarios: tuple[dict[str, Any], ...]
    """From `ScenarioPlan.to_json`; those that run also have their configuration as `config`."""
    members: tuple[Member, ...]
    """In queue order: all scenarios with the first seed, then with the next one."""
    machine: dict[str, str]

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(member.run for member in self.members)

    def config(self, member: Member) -> RunConfig:
        """The configuration of one of its runs."""
        scenario = next(item for item in self.scenarios if item["key"] == member.scenario)
        config = validation.from_json(scenario["config"])
        several = len({member.seed for member in self.members}) > 1
        parts = [config.title, member.rung.title, f"seed {member.seed}" if several else ""]
        config = member.rung.applied(replace(config, title=" · ".join(filter(None, parts))))
        return replace(config, training=replace(config.training, seed=member.seed))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read(path: Path) -> Experiment:
    """The experiment in a file. Raises UserError that says what is damaged."""
    try:
        return _experiment(bounded_files.read_json(path, MAX_BYTES), path.stem)
    except DamagedFile as error:
        raise UserError(f"experiments/{error.problem}", FIX, "data") from error
    except (KeyError, TypeError, ValueError, AttributeError, InvalidConfig) as error:
        raise UserError(f"experiments/{path.name} is damaged: {_what_is_wrong(error)}", FIX, "data") from error


def _experiment(value: dict[str, Any], experiment_id: str) -> Experiment:
    """Checks what the program relies on. Raises KeyError, TypeError, ValueError, AttributeError or InvalidConfig."""
    members = tuple(map(_member, value["members"]))
    if not 0 < len(members) <= MAX_RUNS or not all(RUN_ID.fullmatch(member.run) for member in members):
        raise ValueError("its members are not runs")
    scenarios = tuple(map(_scenario, value["scenarios"]))
    if not {member.scenario for member in members} <= {item["key"] for item in scenarios if "config" in item}:
        raise ValueError("a member has no scenario")
    name, question = one_line(str(value["name"]), MAX_TITLE), one_line(str(value["question"]), MAX_TEXT)
    facts = {one_line(key): one_line(str(item)) for key, item in value["machine"].items()}
    return Experiment(
        experiment_id, name or experiment_id, question, bool(value["equal_budget"]), scenarios, members, facts
    )


def _scenario(value: dict[str, Any]) -> dict[str, Any]:
    """A scenario, from `ScenarioPlan.to_json`. Raises like `_experiment`."""
    texts = {
        name: one_line(value.get(name) or "", MAX_TEXT) for name in ("key", "title", "note", "same_as", "budget")
    }
    if not texts["key"] or not is_count(value["trainable"]):
        raise ValueError("a scenario has no key or no trainable parameters")
    if not is_match_report(value.get("receipts", [])) or not is_issues(value.get("issues", [])):
        raise ValueError("a scenario has a damaged match report or damaged issues")
    if "config" in value:
        validation.from_json(value["config"])
    return value | texts | {"title": texts["title"] or texts["key"]}


def _member(value: dict[str, Any]) -> Member:
    """A member; those of earlier versions have no rates."""
    rates = (_factor(value.get(name, 1.0)) for name in ("rate", "full_rate"))
    return Member(str(value["scenario"]), _seed(value["seed"]), str(value["run"]), *rates)


def _factor(value: Any) -> float:
    if type(value) not in (int, float) or not LOWEST <= value <= HIGHEST:
        raise ValueError("a learning rate's factor is not a number between 1/64 and 64")
    return float(value)


def _seed(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**32:
        raise ValueError("a seed is not a number")
    return value


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing."
    wrong = (
        str(error)[:300].rstrip(".") if isinstance(error, ValueError | InvalidConfig) else "a value has a wrong type"
    )
    return f"{wrong}."
