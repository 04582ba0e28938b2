"""All use cases. The page, the API and the command line call these functions, and nothing deeper.

lab.py          shared state: settings, run folders, analyses, scheduler
models.py       find models, read their modules
planning.py     starting configurations, validation, plans
data.py         upload, check, report and preview data
runs.py         start, stop and resume runs
experiments.py  scenarios, experiments, comparisons
suggestions.py  which selection to train: rules, and a race
exports.py      adapters and reports as files
attribution.py  what each module of a run earned
devices.py      what the devices are doing
retraining.py   a run once more, without some of its kinds
run_files.py    configuration and log of a run, as text

The types that a use case takes or returns are imported from its module.
"""

from trainer.service import (
    attribution,
    data,
    devices,
    experiments,
    exports,
    models,
    planning,
    retraining,
    run_files,
    runs,
    suggestions,
)
from trainer.service.lab import Lab, Settings

__all__ = [
    "Lab",
    "Settings",
    "attribution",
    "data",
    "devices",
    "experiments",
    "exports",
    "models",
    "planning",
    "retraining",
    "run_files",
    "runs",
    "suggestions",
]
