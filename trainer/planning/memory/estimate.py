"""The memory estimate of a configuration: what `peak.py` needs to know of the model, its targets and the device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod

from trainer.common.devices import CPU, Device
from trainer.config.schema import RunConfig
from trainer.models.module_map import ModuleMap
from trainer.planning.attention import choose_attention
from trainer.planning.device_limits import compute_width
from trainer.planning.memory.activations import (
    FLOAT32,
    ActivationSetup,
    activations_by_layer,
    by_parameter,
    cached_width,
)
from trainer.planning.memory.peak import Estimate
from trainer.planning.memory.weights import dequantized_experts, loading_buffers, modules_to_quantize, weights
from trainer.planning.optimizer_choice import choose_optimizer, optimizer_state
from trainer.planning.parameter_counts import module_parameters, tensor_sizes, whole_module
from trainer.planning.targets import Target

CONTEXT = 600 * 2**20
"""Memory of the CUDA context; a guess, since it differs between GPUs."""


def estimate(
    config: RunConfig,
    module_map: ModuleMap,
    targets: Iterable[Target],
    device: Device = CPU,
    recompute: bool = False,
    attention: str = "",
) -> Estimate:
    """The estimate of `config` with its resolved `targets`.

    `recompute`: every layer recomputes its activations. `attention`: its implementation, if not the one chosen for
    the device.
    """
    targets = list(targets)
    width = compute_width(config, device)
    attention = attention or choose_attention(config, module_map, device)[0]
    setup = ActivationSetup.of(config, width, device.is_gpu, recompute, attention)
    quantized = modules_to_quantize(config.model.quantization, module_map, targets)
    sizes = [size for target in targets for size in tensor_sizes(target, config.adapter, module_map)]
    stored = sum(sizes)
    whole = [whole_module(target, module_map) for target in targets]
    optimizer = choose_optimizer(config.training.optim, device, sizes)
    static = {
        **weights(config.model.quantization, module_map, targets, quantized, width),
        "trained weights": stored * FLOAT32,
        "slice masks": sum(_mask(target, big) for target, big in zip(targets, whole, strict=True)),
        **optimizer_state(sizes, optimizer.eight_bit),
        "CUDA context": CONTEXT * device.is_gpu,
    }
    return Estimate(
        config=config,
        module_map=module_map,
        setup=setup,
        static=static,
        optimizer=optimizer,
        gradients=stored * FLOAT32,
        head=sum(_head(target) for target in targets) * FLOAT32,
        layers=tuple(activations_by_layer(module_map, whole, quantized, setup)),
        masked=tuple(activations_by_layer(module_map, whole, quantized, replace(setup, masked=True))),
        whole_logits=any(_on_head(target) and target.treatment != "full" for target in targets),
        torch_tiles=not device.is_gpu or device.no_triton is not None,
        widest=max((target.shape[-2] for target in whole if _in_layers(target)), default=0),
        mlp_width=_mlp_width(module_map),
        cached_width=cached_width(module_map),
        buffers=_buffers(module_map, whole, quantized, setup),
        fp8_width=_fp8_width(module_map, quantized, setup),
        experts=dequantized_experts(module_map, quantized, targets) * width,
        loading_buffers=loading_buffers(config.model.quantization, module_map, quantized, width),
        every_n_layers=int(recompute),
        accumulates=config.training.gradient_accumulation_steps > 1,
    )


def _mask(target: Target, whole: Target) -> int:
    """Bytes of the gradient mask over `lora_B` for a slice: one per element."""
    return whole.shape[0] * target.r if target.slices else 0


def _mlp_width(module_map: ModuleMap) -> float:
    """Elements per token inside an MLP; of experts, which return hidden states of their own, all that are chosen."""
    hidden = module_map.hidden_size
    experts = [prod(kind.shape[1:]) / hidden for kind in module_map.kinds if kind.experts]
    return (
        module_map.forward.experts_per_token * max(min(experts), hidden) if experts else module_map.intermediate_size
    )


def _in_layers(target: Target) -> bool:
    return target.treatment == "lora" and target.kind.group in ("attention", "mlp") and not by_parameter(target)


def _on_head(target: Target) -> bool:
    kind = target.kind
    return kind.group == "embedding" and kind.class_name == "Linear"


def _head(target: Target) -> int:
    """Parameters of a fully trained head: its own, or those of the embedding that it is tied to."""
    return module_parameters(target.kind, target.shape) if target.treatment == "full" and _on_head(target) else 0


def _buffers(module_map: ModuleMap, targets: list[Target], quantized: set[str], setup: ActivationSetup) -> int:
    linears = [
        prod(shape)
        for kind in module_map.kinds
        for module, shape in zip(kind.modules[:1], kind.shapes[:1], strict=True)
        if module in quantized and not kind.experts
    ]
    largest = max(linears, default=0) * (1 if setup.quantization == "fp8" else setup.width)
    dora = max((target.shape[-2] * target.shape[-1] for target in targets if target.r), default=0) * setup.dora
    experts = max((prod(t.shape) for t in targets if by_parameter(t) and t.module not in quantized), default=0)
    rows = max((module_parameters(t.kind, t.kind.shape) for t in targets if t.treatment == "rows"), default=0)
    return max(largest, (experts + rows) * setup.width) + 3 * FLOAT32 * dora


def _fp8_width(module_map: ModuleMap, quantized: set[str], setup: ActivationSetup) -> int:
    if setup.quantization != "fp8":
        return 0
    kinds = (kind for kind in module_map.kinds if kind.slice_of is None and kind.modules[0] in quantized)
    return max((max(kind.shape) for kind in kinds), default=0)
