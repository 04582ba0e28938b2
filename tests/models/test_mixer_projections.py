"""Slices of mixers' input projections, on real tiny models: against the arguments of the reference scans."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.models.test_discovery import TYPES, fused, mapped, real
from tests.support.tiny_configs import tiny_config
from trainer.models.discovery.discover import discover
from trainer.models.discovery.mixer_projections import convolution
from trainer.models.module_map import ModuleKind

LENGTH = 5
"""Tokens; no other size of a tiny model is the same, so an argument's tokens can be told by it."""

MAMBA = {"x": {"hidden_states", "dt", "B", "C"}, "z": set[str]()}
MAMBA2 = {"x": {"hidden_states"}, "z": set[str](), "B": {"B"}, "C": {"C"}, "dt": {"dt"}}
DELTA = {"q": {"query"}, "k": {"key"}, "v": {"value"}, "a": {"g"}, "b": {"beta"}, "z": set[str]()}
SCANS = {"mamba_selective_scan": MAMBA, "mamba2_chunk_scan": MAMBA2, "torch_chunk_gated_delta_rule": DELTA}
"""For each scan of transformers and each slice: the arguments that are made from its rows."""

LATER = {"x": True, "z": False, "B": True, "C": False, "dt": True, "q": False, "k": True, "v": True, "b": True}
"""Whether rows at the first token, past the convolution, change outputs of later tokens."""

SPLIT: dict[str, Any] = {
    **{name: {"in_proj": "xz"} for name in ("falcon_mamba", "jamba", "mamba")},
    **{
        name: {"in_proj": ["z", "x", "B", "C", "dt"]}
        for name in ("bamba", "falcon_h1", "granitemoehybrid", "mamba2", "nemotron_h")
    },
    **{name: {"in_proj": "BCx"} for name in ("lfm2_moe", "lfm3")},
    **{
        name: {"in_proj_qkv": "qkv"}
        for name in ("qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen4_exp", "qwen4_exp_text")
    },
    "qwen3_next": {"in_proj_qkvz": "qkvz", "in_proj_ba": "ba"},
    "zamba": {"layers.mamba.in_proj": "xz", "mamba_decoder.mamba.in_proj": "xz"},
    "zamba2": {
        "layers.mamba.in_proj": ["z", "x", "B", "C", "dt"],
        "mamba_decoder.mamba.in_proj": ["z", "x", "B", "C", "dt"],
    },
}


SCANNED = [name for name, kinds in SPLIT.items() if kinds != {"in_proj": "BCx"}]


def mixers(model_type: str) -> list[ModuleKind]:
    """Fused kinds of which the slices are named after their fused kind and one of the roles above."""
    return [kind for kind in fused(mapped(model_type)) if set(parts_of(model_type, kind)) & {"x", "q", "a"}]


def parts_of(model_type: str, kind: ModuleKind) -> dict[str, ModuleKind]:
    return {part.name.removeprefix(f"{kind.name}."): part for part in mapped(model_type).slices(kind.name)}


def test_the_mixers_with_slices_are_known() -> None:
    found = {name: {kind.name: [*parts_of(name, kind)] for kind in mixers(name)} for name in TYPES}
    wanted = {name: {kind: list(parts) for kind, parts in kinds.items()} for name, kinds in SPLIT.items()}
    assert {name: kinds for name, kinds in found.items() if kinds} == wanted


@pytest.mark.parametrize("model_type", SCANNED)
def test_each_slice_is_what_the_scan_calls_it(model_type: str) -> None:
    """Rows at zero at all tokens leave one argument of the scan the same at all tokens, and others alone."""
    model = real(tiny_config(model_type))
    for kind in mixers(model_type):
        for name in kind.modules:
            plain, _ = run(model, name)
            for role, part in parts_of(model_type, kind).items():
                (scan, changed), _ = run(model, name, partial(rows_set, part=part, value=0.0))
                mine = SCANS[scan][role] | ({"z"} & changed.keys() if role == "z" else set())
                for argument, value in plain[1].items():
                    assert constant(value) is False
                    assert constant(changed[argument]) is (argument in mine), (name, role, argument)
                    assert torch.equal(changed[argument], value) is (argument not in mine), (name, role, argument)


@pytest.mark.parametrize("model_type", SPLIT)
def test_a_gate_at_zero_shuts_off_the_mixer(model_type: str) -> None:
    model = real(tiny_config(model_type))
    for kind in mixers(model_type):
        parts = parts_of(model_type, kind)
        gate = parts.get("z", parts.get("C"))
        for name in kind.modules if gate is not None else ():
            assert gate is not None
            assert not constant(run(model, name)[1])
            assert constant(run(model, name, partial(rows_set, part=gate, value=0.0))[1])


@pytest.mark.parametrize("model_type", SCANNED)
def test_what_reaches_later_tokens(model_type: str) -> None:
    """With a convolution that sees one token only, disturbed rows of the first token."""
    model = real(tiny_config(model_type))
    for kind in mixers(model_type):
        for name in kind.modules:
            with one_token(model, name):
                _, plain = run(model, name)
                for role, part in parts_of(model_type, kind).items():
                    _, output = run(model, name, partial(rows_moved, part=part))
                    changed = (output - plain).abs().amax((0, 2)) > 1e-6 * plain.abs().max()
                    wanted = [role != "a", LATER.get(role, False)]
                    assert [bool(changed[0]), bool(changed[1:].any())] == wanted, (name, role)


@pytest.mark.parametrize("model_type", ["lfm2_moe", "lfm3"])
def test_a_gated_convolution_is_given_the_product_of_b_and_x(model_type: str) -> None:
    model = real(tiny_config(model_type))
    (kind,) = mixers(model_type)
    parts = parts_of(model_type, kind)
    for name in kind.modules:
        seen: list[torch.Tensor] = []

        def look(y: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(y)
            return y

        (_, arguments), _ = run(model, name, look)
        b, x = (torch.cat([seen[0][..., start:end] for start, end in parts[role].rows or ()], -1) for role in "Bx")
        assert torch.equal(arguments["hidden_states"][0], (b * x).transpose(1, 2))


def test_rows_of_an_unknown_pattern_are_left_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the numbers do not agree, here that of heads with that of dt rows, no slice is offered."""
    monkeypatch.setattr("trainer.models.discovery.mixer_projections._heads", lambda _: 1)
    module_map = discover(tiny_config("mamba2"), "mamba2")
    kind = module_map.get("in_proj")
    assert kind is not None
    assert (module_map.slices("in_proj"), kind.treatments) == ([], ("lora", "full"))
    assert "rows" in kind.reason


def run(
    model: PreTrainedModel, name: str, change: Callable[[torch.Tensor], torch.Tensor] = lambda y: y
) -> tuple[tuple[str, dict[str, torch.Tensor]], torch.Tensor]:
    """The scan (or convolution) in the mixer of `name`, its arguments, and the mixer's output, after a change."""
    mixer = model.get_submodule(name.rpartition(".")[0])
    code = sys.modules[type(mixer).__module__]
    scan = next(found for found in [*SCANS, "causal_conv1d_fn"] if hasattr(code, found))
    native = getattr(code, scan)
    calls: list[dict[str, Any]] = []
    outputs: list[torch.Tensor] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(inspect.signature(native).bind(*args, **kwargs).arguments)
        return native(*args, **kwargs)

    def end(_module: Any, _args: Any, y: torch.Tensor) -> None:
        outputs.append(y)
        ended.append(list(calls))

    handles = [
        model.get_submodule(name).register_forward_hook(lambda _module, _args, y: change(y)),
        mixer.register_forward_pre_hook(lambda _module, _args: calls.clear()),
        mixer.register_forward_hook(end),
    ]
    ended: list[list[dict[str, Any]]] = []
    setattr(code, scan, spy)
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([[11, 23, 42, 7, 90]]), use_cache=False)
    finally:
        setattr(code, scan, native)
        for handle in handles:
            handle.remove()
    return (scan, by_token(ended[0])), outputs[0]


def by_token(calls: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Arguments that hold a value per token, those of several heads together."""
    first = calls[0].items()
    keys = [key for key, value in first if isinstance(value, torch.Tensor) and LENGTH in value.shape]
    return {key: torch.stack([call[key] for call in calls]) for key in keys}


def constant(value: torch.Tensor) -> bool:
    """Whether it is the same at all tokens, but for rounding."""
    tokens = value.movedim(value.shape.index(LENGTH), 0)
    return bool((tokens - tokens[:1]).abs().max() <= 1e-5 * tokens.abs().max())


def rows_set(y: torch.Tensor, part: ModuleKind, value: float) -> torch.Tensor:
    y = y.clone()
    for start, end in part.rows or ():
        y[..., start:end] = value
    return y


def rows_moved(y: torch.Tensor, part: ModuleKind) -> torch.Tensor:
    y = y.clone()
    for start, end in part.rows or ():
        y[:, 0, start:end] += torch.linspace(-0.4, 0.6, end - start) if end - start > 1 else 0.5
    return y


@contextmanager
def one_token(model: PreTrainedModel, name: str) -> Iterator[None]:
    conv = convolution(model.get_submodule(name.rpartition(".")[0]))
    assert conv is not None
    kept = conv.weight.data.clone()
    conv.weight.data[..., :-1] = 0
    yield
    conv.weight.data = kept
