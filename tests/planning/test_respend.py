"""Without some kinds, the parameters that they had go to the ranks of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support import tiny
from trainer.common.errors import UserError
from trainer.config.schema import AdapterConfig, ModelConfig, RunConfig, Tick, TrainingConfig
from trainer.models.discovery.discover import discover
from trainer.planning import respend
from trainer.planning.plan import make_plan

CONFIG = RunConfig(
    model=ModelConfig(quantization="none"),
    modules=(Tick("q_proj"), Tick("k_proj"), Tick("down_proj", r=4, lora_alpha=16), Tick("lm_head", "full")),
    adapter=AdapterConfig(r=8, lora_alpha=16),
    training=TrainingConfig(max_length=8),
)


@pytest.mark.parametrize("left_out", [["k_proj"], ["lm_head"], ["q_proj", "lm_head"]])
def test_as_many_parameters_train_at_the_same_scale(left_out: list[str]) -> None:
    module_map = discover(tiny.config("phi3"), "tiny")
    changed = respend.without(CONFIG, module_map, left_out)
    assert {tick.name for tick in changed.modules} == {tick.name for tick in CONFIG.modules} - set(left_out)
    before, after = make_plan(CONFIG, module_map), make_plan(changed, module_map)
    assert not after.issues
    assert 0.85 * before.trainable < after.trainable <= before.trainable
    assert changed.adapter.lora_alpha / changed.adapter.r == 2
    down = next(tick for tick in changed.modules if tick.name == "down_proj")
    assert down.r is not None and down.r > 4 and down.lora_alpha == 4 * down.r


def test_a_tied_head_goes_with_its_embedding_and_something_must_stay() -> None:
    module_map = discover(tiny.config("llama"), "tiny")
    tied = replace(CONFIG, modules=(Tick("q_proj"), Tick("lm_head", "full")))
    assert [tick.name for tick in respend.without(tied, module_map, ["embed_tokens"]).modules] == ["q_proj"]
    for names, text in ((["q_proj", "lm_head"], "nothing would be trained"), (["fc1"], "None of these kinds")):
        with pytest.raises(UserError, match=text):
            respend.without(tied, module_map, names)
