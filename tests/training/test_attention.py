"""Attention without a dense mask: chosen by model and device, checked on the model, equal to what it replaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import varlen as torch_varlen
from transformers import AutoModelForCausalLM, PreTrainedConfig

from tests.support import meter, varlen
from tests.support.tiny_configs import tiny_config
from trainer.common.devices import CPU, Device
from trainer.common.triton_compiler import NoTriton
from trainer.config.schema import Tick, default_config
from trainer.models.attention_setting import current_attention, use_attention
from trainer.models.discovery.discover import discover
from trainer.planning.attention import FLEX, SDPA, VARLEN
from trainer.planning.memory.estimate import estimate
from trainer.planning.plan import make_plan
from trainer.training import attention
from trainer.training.preflight import choose_attention, packing_is_exact

GPU = Device("cuda:0", total=80 * 10**9, free=80 * 10**9, bfloat16=True)
WIDTH = 24
"""Tokens of a row; sliding windows of tiny models are 8."""
PACKED = torch.cat([torch.arange(13), torch.arange(1), torch.arange(7), torch.zeros(3, dtype=torch.long)])
"""Positions of three examples, one of a single token, and padding."""
WITH_WINDOWS = ("mistral", "phi3", "gemma3_text", "qwen3")
PLAIN = ("llama", "qwen2_moe", "deepseek_v3", "granite", "gpt_neox", "glm4", "smollm3", "cohere2")


def config_of(kind: str) -> PreTrainedConfig:
    config = tiny_config(kind)
    if kind == "qwen3":
        config.use_sliding_window, config.sliding_window = True, 8
        config.layer_types = ["sliding_attention", "full_attention"] * (config.num_hidden_layers // 2 + 1)
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    return config


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(kind), dtype=torch.float32).eval()
    with torch.no_grad():  # scores far enough apart that a wrong mask shows
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1)
    return model


@pytest.fixture(scope="module", autouse=True)
def cpu_kernel() -> None:
    varlen.install()


def batches() -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Which tokens hold text, and the inputs: two packed rows, and two padded ones."""
    ids = torch.arange(2 * WIDTH).reshape(2, WIDTH) * 37 % 120 + 3
    positions = torch.stack([PACKED, torch.arange(WIDTH)])
    held = torch.ones(2, WIDTH, dtype=torch.bool)
    held[0, -3:] = False
    yield held, {"input_ids": ids, "position_ids": positions}
    mask = torch.ones(2, WIDTH, dtype=torch.long)
    mask[1, 15:] = 0
    yield mask.bool(), {"input_ids": ids, "attention_mask": mask}


def computed(model: Any, held: torch.Tensor, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Logits of the text, and all gradients of its loss."""
    if "position_ids" in inputs:
        inputs = inputs | attention.packed(inputs["position_ids"], current_attention(model))
    logits = model(**inputs, use_cache=False).logits[held]
    model.zero_grad()
    functional.cross_entropy(logits, inputs["input_ids"][held].flip(0)).backward()
    return [logits, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("kind", [*WITH_WINDOWS, *PLAIN])
def test_no_mask_changes_no_loss_and_no_gradient(kind: str) -> None:
    model = model_of(kind)
    for held, inputs in batches():
        use_attention(model, SDPA)
        masked = computed(model, held, inputs)
        use_attention(model, VARLEN)
        ours = computed(model, held, inputs)
        assert len(ours) == len(masked) > 5
        for one, other in zip(ours, masked, strict=True):
            assert float((one - other).abs().max()) <= 1e-4 * float(other.abs().max())


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3_text"])
def test_flex_attention_gives_the_same_logits(kind: str) -> None:
    """Forward only: torch has no backward pass of it for CPUs, and none of attention sinks."""
    model = model_of(kind)
    before = current_attention(model)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for held, inputs in batches():
            use_attention(model, before)
            masked = model(**inputs, use_cache=False).logits[held]
            use_attention(model, FLEX)
            ours = model(**inputs, use_cache=False).logits[held]
            assert float((ours - masked).abs().max()) <= 1e-4 * float(masked.abs().max())


def test_bounds_are_where_examples_begin() -> None:
    positions = torch.stack([PACKED, torch.arange(WIDTH)])
    bounds = attention.example_bounds(positions)
    assert bounds.dtype == torch.int32
    assert bounds.tolist() == [[0, 13, 14, 21, 24], [0, 24, 24, 24, 24]]


@pytest.mark.parametrize(
    ("kind", "chosen", "reason"),
    [
        ("llama", VARLEN, "no mask"),
        ("mistral", VARLEN, "no mask"),
        ("gemma2", FLEX, "softcaps"),
        ("gpt_oss", FLEX, "attention sinks"),
        ("gpt2", SDPA, "this model supports no other"),
        ("nemotron", FLEX, "no dense mask"),
        ("gpt_neo", SDPA, "this model supports no other"),
    ],
)
def test_the_plan_says_which_attention_and_why(kind: str, chosen: str, reason: str) -> None:
    module_map = discover(config_of(kind), kind)
    config = default_config(kind)
    found = make_plan(config, module_map, GPU).performance
    assert found.attn_implementation == chosen
    assert reason in found.why["attn_implementation"]
    in_float32 = replace(config, model=replace(config.model, dtype="float32"))
    for device, run in ((CPU, config), (GPU, in_float32), (replace(GPU, bfloat16=False), config)):
        assert make_plan(run, module_map, device).performance.attn_implementation == SDPA
    lacks = replace(GPU, no_triton=NoTriton("there is no C compiler"))
    found = make_plan(config, module_map, lacks).performance
    assert found.attn_implementation == (SDPA if chosen == FLEX else chosen), "FlexAttention is compiled by Triton"


def test_without_a_mask_the_plan_counts_less() -> None:
    """Of Phi-3-medium: no mask, and keys and values of 10 heads instead of 40.

    The values of these 10 are a part of the fused projection's output (7,680 wide), so all of it is kept.
    """
    module_map = discover(meter.phi3_medium(), "phi3-medium")
    config = replace(default_config("phi3-medium"), modules=(Tick("qkv_proj"),))
    targets = make_plan(config, module_map, GPU).targets
    length = 2048
    masked, ours = (
        estimate(config, module_map, targets, GPU, attention=name).moments(1, length)[0]["activations"]
        for name in (SDPA, VARLEN)
    )
    repeated, mask = 3 * 5120 - (5120 + 1280 + 7680), length
    assert masked - ours == 40 * 2 * length * (repeated + mask)


def test_the_model_decides_whether_the_choice_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []

    def sink(_type: str, text: str) -> None:
        texts.append(text)

    model = model_of("llama")
    assert choose_attention(model, VARLEN, 48, nullcontext, sink) == VARLEN
    assert packing_is_exact(model, nullcontext)
    use_attention(model, SDPA)
    real: Any = torch_varlen.varlen_attn
    monkeypatch.setattr(torch_varlen, "varlen_attn", lambda *values, **keys: real(*values, **keys) * 1.5)
    assert choose_attention(model, VARLEN, 48, nullcontext, sink) == SDPA
    monkeypatch.undo()
    model.config.attention_dropout = 0.1
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.1
    assert choose_attention(model, VARLEN, 48, nullcontext, sink) == SDPA
    assert current_attention(model) == SDPA
    assert all("stays sdpa" in text for text in texts)
    assert ["standard deviations" in texts[0], "dropout" in texts[1]] == [True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
