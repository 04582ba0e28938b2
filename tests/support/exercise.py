"""Trains a selection for real and shows which weights changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedConfig

from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick, TrainingConfig
from trainer.models.discovery.discover import discover
from trainer.models.discovery.probing import extra_inputs
from trainer.models.discovery.skeleton import BATCH
from trainer.models.model_config import auto_class
from trainer.models.module_map import ModuleMap
from trainer.planning.plan import Plan, make_plan
from trainer.training import adapter
from trainer.training.optimizer import parameter_groups, scale_slices

TRAINING = TrainingConfig(max_length=8, learning_rate=1e-2, full_learning_rate=1e-2, weight_decay=0.1)


@dataclass
class Trained:
    """A model after a few real steps, with its initial weights."""

    model: PeftModel
    plan: Plan
    module_map: ModuleMap
    config: RunConfig
    before: dict[str, torch.Tensor]
    base_state: dict[str, torch.Tensor]
    """The base model's initial weights, to rebuild it."""

    def moved(self) -> set[str]:
        """Names of all parameters that changed in any bit."""
        return {
            name
            for name, parameter in self.model.named_parameters()
            if not torch.equal(parameter.detach(), self.before[name])
        }


def batch(config: PreTrainedConfig, seed: int = 0) -> torch.Tensor:
    """BATCH texts of eight random tokens."""
    vocab = config.get_text_config(decoder=True).vocab_size
    return torch.randint(3, vocab, (BATCH, 8), generator=torch.Generator().manual_seed(seed))


def build(
    config: PreTrainedConfig, ticks: list[Tick], settings: AdapterConfig, module_map: ModuleMap | None = None
) -> Trained:
    """A model from `config` with random weights, with the ticks attached and verified, not trained yet."""
    torch.manual_seed(0)
    model = auto_class(config).from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():  # some start at zero, which would block the gradients of others
            parameter += torch.randn_like(parameter) * 0.02
    base_state = {name: value.clone() for name, value in model.state_dict().items()}
    module_map = module_map or discover(config, "tiny")
    run = RunConfig(modules=tuple(ticks), adapter=settings, training=TRAINING, model=ModelConfig(quantization="none"))
    plan = make_plan(run, module_map)
    assert not plan.issues, plan.issues
    wrapped = adapter.attach(model, plan, settings, module_map)
    adapter.prepare(wrapped, plan, torch.float32)
    adapter.verify(wrapped, plan, settings, module_map)
    before = {name: parameter.detach().clone() for name, parameter in wrapped.named_parameters()}
    return Trained(wrapped, plan, module_map, run, before, base_state)


def train(trained: Trained, steps: int = 2) -> Trained:
    """Real steps with AdamW and weight decay, which must not change what a slice masks."""
    model = trained.model
    optimizer = torch.optim.AdamW(parameter_groups(model, trained.config))
    scale_slices(optimizer)
    ids, more = batch(model.config), extra_inputs(model.config)
    model.train()
    for _ in range(steps):
        loss = model(input_ids=ids, labels=ids, use_cache=False, **more).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return trained


def logits(model: Any, config: PreTrainedConfig) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=batch(config, seed=1), use_cache=False, **extra_inputs(config)).logits


def reloaded(trained: Trained, config: PreTrainedConfig, folder: Path) -> Any:
    """The saved adapter on a fresh base model, loaded with plain PEFT."""
    trained.model.save_pretrained(str(folder), save_embedding_layers=False)
    base = auto_class(config).from_config(config, dtype=torch.float32)
    base.load_state_dict(trained.base_state)
    return PeftModel.from_pretrained(base, str(folder)).eval()
