"""Greedy answers to prompts, from the model as it trains, without changing what it learns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from trainer.common import heartbeat
from trainer.data.sample_prompts import SamplePrompt
from trainer.models.attention_setting import current_attention, use_attention
from trainer.planning.attention import FLEX, SDPA, VARLEN
from trainer.planning.samples import answer_limit

Answer = tuple[list[int], bool]
"""Tokens of an answer without what ends it, and whether it ended by itself."""


def answer(trainer: Any, prompts: Sequence[SamplePrompt], stop_asked: Callable[[], bool]) -> list[Answer]:
    """The model's answer to each prompt, all at once. `trainer`: a ModulesTrainer.

    Answers are incomplete if a stop was requested meanwhile.
    """
    with ready_to_generate(trainer) as model:
        ends = _ends(trainer, model, prompts)
        return [_until(row, ends) for row in _generate(trainer, model, prompts, ends, stop_asked)]


def _ends(trainer: Any, model: Any, prompts: Sequence[SamplePrompt]) -> list[int]:
    """Tokens that end an answer: the model's own, the tokenizer's, and those that end the held-out answers."""
    known = [prompt.end for prompt in prompts]
    for owner in (model.generation_config, trainer.processing_class):
        own = owner.eos_token_id
        known += own if isinstance(own, list) else [own]
    return sorted({end for end in known if end is not None})


def _generate(
    trainer: Any, model: Any, prompts: Sequence[SamplePrompt], ends: list[int], stop_asked: Callable[[], bool]
) -> list[list[int]]:
    """The tokens of every answer, greedily, with whatever follows its end."""
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)  # token 0 is padding, which is masked
    mask = torch.zeros_like(ids)
    for number, prompt in enumerate(prompts):
        ids[number, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
        mask[number, width - len(prompt.ids) :] = 1
    config = model.config.get_text_config(decoder=True)
    positions = int(getattr(config, "max_position_embeddings", 0) or 2**31)
    limit = min(answer_limit([prompt.reference_tokens for prompt in prompts]), positions - width)
    # in the place of the model's own settings, which may sample, penalize or compile
    model.generation_config = GenerationConfig(
        max_new_tokens=limit, do_sample=False, eos_token_id=ends or None, pad_token_id=0, disable_compile=True
    )
    device = trainer.args.device
    made = model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        use_cache=True,
        stopping_criteria=StoppingCriteriaList([_EachToken(stop_asked, limit)]),
    )
    return made[:, width:].tolist()  # type: ignore[no-any-return]


class _EachToken(StoppingCriteria):  # type: ignore[misc]
    """Shows a sign of life after each token, and ends the answers if the run is to stop."""

    def __init__(self, stop_asked: Callable[[], bool], limit: int) -> None:
        """`limit`: tokens that an answer may have."""
        self._stop_asked, self._limit, self._made = stop_asked, limit, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self._made += 1
        heartbeat.progress(self._made, self._limit)
        return torch.full((len(input_ids),), self._stop_asked(), device=input_ids.device)


@contextlib.contextmanager
def ready_to_generate(trainer: Any) -> Iterator[Any]:
    """The base model with the adapter inside, as transformers generates with it; restores everything afterwards.

    Not compiled, since the shapes of generation would recompile the layers. Attention without a mask knows neither
    padding on the left nor a cache, so SDPA takes its place.
    """
    model, base = trainer.model, trainer.model.get_base_model()
    was_training, own, attention = model.training, base.generation_config, current_attention(model)
    compiled = [(module, module._compiled_call_impl) for module in model.modules()]
    # with a cache, a mixture of experts cannot compute its routers' loss
    routed = [config for config in _configs(base) if getattr(config, "output_router_logits", False)]
    try:
        model.eval()
        for config in routed:
            config.output_router_logits = False
        if attention in (FLEX, VARLEN):
            use_attention(model, SDPA)
        _set_compiled([(module, None) for module, _ in compiled])
        with torch.random.fork_rng(), torch.no_grad(), trainer.accelerator.autocast():
            yield base
    finally:
        for config in routed:
            config.output_router_logits = True
        _set_compiled(compiled)
        if attention in (FLEX, VARLEN):
            use_attention(model, attention)
        base.generation_config = own
        model.train(was_training)


def _configs(model: Any) -> list[Any]:
    """The configurations that its modules read: some hold copies."""
    found = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    return list(found.values())


def _set_compiled(calls: list[tuple[nn.Module, Any]]) -> None:
    """torch has no public way to undo `Module.compile()`."""
    for module, call in calls:
        if module._compiled_call_impl is not call:
            module._compiled_call_impl = call


def _until(ids: list[int], ends: Sequence[int]) -> Answer:
    """The tokens before the first one that ends an answer, and whether there is one."""
    at = next((place for place, token in enumerate(ids) if token in ends), None)
    return (ids, False) if at is None else (ids[:at], True)
