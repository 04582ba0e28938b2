"""Where the time of a training step goes on a CPU: the model's, the optimizer's, the libraries' loop, ours.

python benchmarks/profile_step.py FOLDER      FOLDER: a model, such as models/SmolLM2-135M-Instruct; two minutes
Wraps the functions that take part and counts for each the time outside of the others, after WARM steps. Rows of the
pirate data, LoRA on all linears in float32, nothing evaluated or saved in between.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from peft import PeftModelForCausalLM  # noqa: E402

from trainer.config.schema import DataConfig, ModelConfig, RunConfig, TrainingConfig  # noqa: E402
from trainer.planning.scenarios import LORA  # noqa: E402
from trainer.runs.event_log import EventWriter  # noqa: E402
from trainer.service.data import keep_data  # noqa: E402
from trainer.training import loop  # noqa: E402
from trainer.training.callbacks import Recorder  # noqa: E402
from trainer.training.collation import Collator  # noqa: E402
from trainer.training.modules_trainer import ModulesSFTTrainer  # noqa: E402
from trainer.training.steps import Steps  # noqa: E402

ROWS = ROOT / "trainer" / "demo" / "data" / "pirate.jsonl"
WARM, STEPS = 1, 5
LOOP = "the loop of transformers and accelerate"
PARTS: tuple[tuple[Any, str, str], ...] = (
    (PeftModelForCausalLM, "forward", "forward pass, with TRL's loss"),
    (Accelerator, "backward", "backward pass"),
    (torch.optim.AdamW, "step", "optimizer"),
    (Accelerator, "clip_grad_norm_", "clipping gradients"),
    (Collator, "__call__", "ours: packing and collating"),
    (Steps, "run", "ours: micro-batches"),
    (ModulesSFTTrainer, "compute_loss", "ours: loss and metrics"),
    (ModulesSFTTrainer, "log", "ours: logging"),
    (Recorder, "on_step_end", "ours: stop and disk space"),
    (Recorder, "on_log", "ours: events"),
)
"""Class, function, and the part of a step that it is."""


class Clock:
    """Adds up the time of each part, without that of parts inside it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running = [LOOP]
        self._since = time.perf_counter()

    def wrap(self, owner: Any, name: str, part: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        @wraps(inner)
        def timed(*values: Any, **keywords: Any) -> Any:
            self._switch()
            self._running.append(part)
            try:
                return inner(*values, **keywords)
            finally:
                self._switch()
                self._running.pop()

        setattr(owner, name, timed)

    def restart(self) -> None:
        self._switch()
        self.seconds.clear()

    def stop(self) -> dict[str, float]:
        """Seconds by part since the start, and no longer counted."""
        self._switch()
        return dict(self.seconds)

    def _switch(self) -> None:
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="the model's folder")
    model = parser.parse_args().folder.resolve()
    clock, found = Clock(), {}
    for part in PARTS:
        clock.wrap(*part)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        folder.mkdir()
        writer = EventWriter(folder / "events.jsonl", figures=True)

        def sink(type: str, **values: Any) -> None:
            if type == "metrics" and values["step"] == WARM:
                clock.restart()
            if type == "metrics" and values["step"] == WARM + STEPS:
                found.update(clock.stop())
            writer.write(type, **values)

        paths = loop.RunPaths(folder, model.parent, Path(temporary) / "data")
        paths.data_dir.mkdir()
        loop.train(_config(model.name, keep_data(ROWS, paths.data_dir)), paths, sink, lambda: False)
    _print(model.name, found)


def _config(name: str, data: str) -> RunConfig:
    training = replace(
        TrainingConfig(), max_steps=WARM + STEPS, per_device_train_batch_size=4, gradient_accumulation_steps=1,
        max_length=128, save_steps=1000,
    )  # fmt: skip
    config = RunConfig(model=ModelConfig(name=name, quantization="none"), modules=LORA, training=training)
    return replace(config, data=DataConfig(source="file", path=data, eval_fraction=0.0))


def _print(name: str, seconds: dict[str, float]) -> None:
    total = sum(seconds.values())
    print(
        f"{name}, torch {version('torch')}, transformers {version('transformers')}, {torch.get_num_threads()} threads"
    )
    print(f"{1000 * total / STEPS:,.0f} ms a step\n\n| part | ms a step | share |\n|---|---|---|")
    for _, _, part in (*PARTS, (None, "", LOOP)):
        print(f"| {part} | {1000 * seconds.get(part, 0.0) / STEPS:.2f} | {seconds.get(part, 0.0) / total:.2%} |")
    ours = sum(value for part, value in seconds.items() if part.startswith("ours"))
    print(f"| all that is ours | {1000 * ours / STEPS:.2f} | {ours / total:.2%} |")


if __name__ == "__main__":
    main()
