"""The bundled demo: a small pre-trained model in Phi-3's architecture, and a data set in a pirate's voice.

`python -m tools.demo.build` rebuilds both from scratch.
"""

from functools import cache
from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
TRAIN_FILE = Path(__file__).parent / "data" / "pirate.jsonl"
HELDOUT_FILE = Path(__file__).parent / "data" / "pirate_heldout.jsonl"
GENERAL_FILE = Path(__file__).parent / "data" / "general.jsonl"
"""Passages on anything else, for the loss on general text."""


@cache
def examples() -> int:
    """Number of training rows, all of them valid."""
    with TRAIN_FILE.open("rb") as file:
        return sum(1 for _ in file)


# A small model needs a far higher learning rate than the 1e-4 of a 14B one.
SETTINGS: dict[str, float | int] = {
    "learning_rate": 8e-3,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "max_length": 128,
    "eval_steps": 60,
}
