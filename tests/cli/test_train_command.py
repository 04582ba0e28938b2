"""A run's configuration as text: the command line, YAML and the script mean the same configuration."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.support.lab import PATIENCE, command_lab
from trainer.config import overrides, validation
from trainer.config.command_line import train_command
from trainer.config.schema import AdapterConfig, DataConfig, ModelConfig, RunConfig, Tick, default_config
from trainer.export.training_script import training_script
from trainer.service import models, planning

ODD = RunConfig(
    title='It\'s "5" $HOME `x`\\ ; a b',
    model=ModelConfig(name="owner/name", new_tokens=("<|a b|>", "5")),
    modules=(Tick("q_proj", r=4, layers="0-3"), Tick("lm_head", "full", lr=2e-5)),
    adapter=AdapterConfig(lora_alpha=8.5, use_dora=True),
    data=DataConfig(source="file", path="0123-rows.jsonl", system_prompt="[1, 2]", assistant_role="true"),
)


@pytest.mark.parametrize("config", [ODD, default_config(), RunConfig()])
def test_a_shell_reads_the_command_back_as_the_same_configuration(config: RunConfig) -> None:
    command = train_command(config).replace("python -m trainer train", "printf '%s\\0'").replace(
        "lora-lab train", "printf '%s\\0'"
    )  # fmt: skip
    shown = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout.decode()
    words = shown.split("\0")[:-1]
    assert words[::2] == ["--set"] * (len(words) // 2)
    read = overrides.apply(RunConfig().to_json(), overrides.from_options(words[1::2]))
    assert validation.from_json(read) == config
    assert validation.from_json(yaml.safe_load(yaml.safe_dump(config.to_json()))) == config


def script_of(config: RunConfig, models_dir: Path) -> str:
    lab = command_lab(models_dir)
    return training_script(
        config, planning.plan(lab, config), models.module_map(lab, config.model), 'A """title"""\n'
    )


def test_the_script_names_what_it_leaves_out(models_dir: Path) -> None:
    config = replace(default_config(), modules=(Tick("q_proj"), Tick("lm_head", "full", lr=1e-4)))
    script = script_of(config, models_dir)
    compile(script, "train.py", "exec")
    assert "Slices of fused projections are not masked" in script
    assert "RATES = {'lm_head': 0.0001}" in script
    assert "'model.layers.0.self_attn.qkv_proj'" in script


@pytest.mark.full
def test_the_script_trains(models_dir: Path, tmp_path: Path) -> None:
    """Two steps on the demo, with a module in full."""
    config = replace(default_config(), modules=(Tick("o_proj"), Tick("lm_head", "full")))
    config = replace(config, training=replace(config.training, max_steps=2, gradient_accumulation_steps=2))
    script = tmp_path / "train.py"
    script.write_text(script_of(config, models_dir).replace("'output'", repr(str(tmp_path / "output"))))
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)], cwd=root, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "trainable params" in done.stdout
    assert (tmp_path / "output" / "adapter_model.safetensors").is_file()
