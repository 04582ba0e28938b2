"""Sizes that no published model has: refused with the number, before anything is built."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.models.test_model_config import read
from trainer.common.errors import UserError

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"vocab_size": 99}
LLAMA = {"model_type": "llama", **SIZES}
MAMBA = {"model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 99}
MOE = {"model_type": "qwen3_moe", **SIZES, "moe_intermediate_size": 32, "num_experts": 4, "head_dim": 16}
WRAPPER = {"model_type": "mistral3", "vision_config": {"model_type": "pixtral"}}
HYBRID = {"model_type": "nemotron_h", "hidden_size": 64}

REFUSED: list[tuple[dict[str, Any], str]] = [
    (LLAMA | {"num_hidden_layers": 10**7}, "“num_hidden_layers” of 10,000,000"),
    (LLAMA | {"num_hidden_layers": 10**9}, "“num_hidden_layers” of 1,000,000,000"),
    ({"model_type": "gpt2", "n_layer": 10**7}, "“n_layer” of 10,000,000"),
    (LLAMA | {"num_hidden_layers": -3}, "“num_hidden_layers” is -3"),
    (LLAMA | {"num_hidden_layers": 0}, "“num_hidden_layers” is 0"),
    (LLAMA | {"num_hidden_layers": True}, "num_hidden_layers.*expected int, got bool"),
    (LLAMA | {"num_hidden_layers": 2.0}, "num_hidden_layers.*expected int, got float"),
    (LLAMA | {"num_hidden_layers": 1e300}, r"“num_hidden_layers” of 1e\+300"),
    (LLAMA | {"num_hidden_layers": float("nan")}, "“num_hidden_layers” of nan"),
    (LLAMA | {"hidden_size": 10**9}, "a weight of .*1,000,000,000"),
    (LLAMA | {"hidden_size": 10**20}, "“hidden_size” of 100,000,000,000,000,000,000"),
    (LLAMA | {"hidden_size": 10**4000}, r"“hidden_size” of about 10\^4000"),
    (LLAMA | {"hidden_size": 0}, "“hidden_size” is 0"),
    (LLAMA | {"hidden_size": -64}, "“hidden_size” is -64"),
    (LLAMA | {"vocab_size": 10**9}, "a weight of 1,000,000,000 × 64 in Embedding"),
    (LLAMA | {"hidden_size": 2**22, "intermediate_size": 2**22}, "parameters or more"),
    (LLAMA | {"head_dim": 10**9}, "a weight of 4,000,000,000 × 64 in Linear"),
    (MAMBA | {"state_size": 10**9}, "a weight of .* in Linear"),
    (MAMBA | {"state_size": 0}, "a weight of .* 0"),
    (MAMBA | {"conv_kernel": 10**9}, "a weight of .*1,000,000,000 in Conv1d"),
    (MOE | {"num_experts": 10**8}, "“num_experts” of 100,000,000"),
    (MOE | {"layer_types": ["full_attention"] * 200_000}, "200,000 items in “layer_types”"),
    (LLAMA | {"id2label": {str(key): "x" for key in range(60_000)}}, "60,000 items in “id2label”"),
    (HYBRID | {"hybrid_override_pattern": "M" * 300_000}, "300,000 characters in “hybrid_override_pattern”"),
    (HYBRID | {"hybrid_override_pattern": "M" * 5000}, "5,000 layers"),
    (WRAPPER | {"text_config": LLAMA | {"num_hidden_layers": 10**7}}, "“text_config.num_hidden_layers” of 10"),
    (WRAPPER | {"text_config": LLAMA | {"hidden_size": 0}}, "“hidden_size” is 0"),
    (WRAPPER | {"text_config": {"a": [[[10**9, {"n_layers": 10**9}]]]}}, "“text_config.a.n_layers” of 1,000,000,000"),
]


@pytest.mark.parametrize(("value", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_absurd_sizes_are_refused_with_the_number_at_once(value: dict[str, Any], reason: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=reason) as caught:
        read(value, tmp_path)
    assert time.monotonic() - began < 20, "imports included"
    assert caught.value.fix
    assert len(str(caught.value)) < 500


def test_a_hostile_depth_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match="nested too deeply"):
        read(json.loads('{"model_type": "llama", "a": ' + "[" * 500 + "]" * 500 + "}"), tmp_path / "model")


def test_large_numbers_that_published_models_hold_are_no_sizes(tmp_path: Path) -> None:
    odd: dict[str, Any] = {
        "max_position_embeddings": 10_485_760,
        "rope_theta": 100_000_000_000,
        "model_max_length": 10**30,
    }
    odd |= {
        "model_max_length": 10**30,
        "sliding_window": 10**6,
        "max_window_layers": 80,
        "vision_feature_layer": -2,
        "num_mtp_layers": 0,
    }
    odd |= {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": ["lm_head"] * 47_000}}
    assert read(LLAMA | odd, tmp_path).layers == 2
