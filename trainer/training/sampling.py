"""Answers held-out prompts at each evaluation, on the model as it trains, without changing what it learns."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList, TrainerCallback

from trainer.common import heartbeat
from trainer.common.errors import first_line
from trainer.common.formatting import count, duration, percent
from trainer.data.sample_prompts import SamplePrompt, readable
from trainer.models.attention_setting import current_attention, use_attention
from trainer.planning.attention import FLEX, SDPA, VARLEN
from trainer.planning.samples import answer_limit
from trainer.runs import event_log
from trainer.runs.samples import FILE, shortened
from trainer.training.callbacks import Sink

NO_HELD_OUT = "There are no samples, since no examples are held out."
NO_PROMPTS = "There are no samples: no held-out example has an answer within max_length."


class Sampler(TrainerCallback):  # type: ignore[misc]
    """Generates the answers and writes them to the run's samples.jsonl. A failure is logged and ends only them."""

    def __init__(
        self,
        trainer: Any,
        prompts: Sequence[SamplePrompt],
        folder: Path,
        sink: Sink,
        stop_asked: Callable[[], bool],
    ) -> None:
        """`trainer`: a ModulesTrainer."""
        self._trainer, self._prompts, self._path = trainer, list(prompts), folder / FILE
        self._sink, self._stop_asked = sink, stop_asked
        self._times = self._tokens = 0
        self._seconds, self._began = 0.0, time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._began = time.monotonic()

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self._prompts or self._stop_asked():
            return
        began = time.monotonic()
        try:
            with heartbeat.phase(heartbeat.SAMPLING):
                self._sample(state.global_step)
        except Exception as error:  # whatever a model, a kernel or a disk may raise
            problem = f"{type(error).__name__}: {first_line(error)}"
            self._prompts = []
        else:
            problem = ""
        if problem:  # outside the handler, whose exception holds the tensors of the pass that failed
            torch.cuda.empty_cache()
            self._sink("log", text=f"No more samples: {problem} Training goes on without them.")
        self._seconds += time.monotonic() - began

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._times:
            share = percent(self._seconds / max(time.monotonic() - self._began, 1e-6))
            self._sink(
                "log",
                text=f"Samples took {share} of the time ({duration(self._seconds)}, {count(self._tokens)} tokens)",
            )

    def _sample(self, step: int) -> None:
        began = time.monotonic()
        with ready_to_generate(self._trainer) as model:
            ends = self._ends(model)
            ids = self._generate(model, ends)
        if self._stop_asked():
            return  # the answers are incomplete
        answers = [_until(row, ends) for row in ids]
        tokens = sum(len(row) for row, _ in answers)
        if not self._times:
            self._write_prompts()
        self._times, self._tokens = self._times + 1, self._tokens + tokens
        texts = [
            {"text": shortened(readable(row, self._trainer.processing_class)), "ended": ended}
            for row, ended in answers
        ]
        seconds = round(time.monotonic() - began, 3)
        event_log.append(self._path, "answers", step=step, answers=texts, tokens=tokens, seconds=seconds)

    def _write_prompts(self) -> None:
        shown = [
            {name: shortened(getattr(prompt, name)) for name in ("text", "before", "reference")}
            for prompt in self._prompts
        ]
        event_log.append(self._path, "prompts", prompts=shown)

    def _ends(self, model: Any) -> list[int]:
        """Tokens that end an answer: the model's own, the tokenizer's, and those that end the held-out answers."""
        known = [prompt.end for prompt in self._prompts]
        for owner in (model.generation_config, self._trainer.processing_class):
            own = owner.eos_token_id
            known += own if isinstance(own, list) else [own]
        return sorted({end for end in known if end is not None})

    def _generate(self, model: Any, ends: list[int]) -> list[list[int]]:
        """The tokens of every answer, greedily, with whatever follows its end."""
        width = max(len(prompt.ids) for prompt in self._prompts)
        ids = torch.zeros(len(self._prompts), width, dtype=torch.long)  # token 0 is padding, which is masked
        mask = torch.zeros_like(ids)
        for number, prompt in enumerate(self._prompts):
            ids[number, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
            mask[number, width - len(prompt.ids) :] = 1
        config = model.config.get_text_config(decoder=True)
        positions = int(getattr(config, "max_position_embeddings", 0) or 2**31)
        limit = min(answer_limit([prompt.reference_tokens for prompt in self._prompts]), positions - width)
        # in the place of the model's own settings, which may sample, penalize or compile
        model.generation_config = GenerationConfig(
            max_new_tokens=limit, do_sample=False, eos_token_id=ends or None, pad_token_id=0, disable_compile=True
        )
        device = self._trainer.args.device
        made = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            use_cache=True,
            stopping_criteria=StoppingCriteriaList([_EachToken(self._stop_asked, limit)]),
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


def _until(ids: list[int], ends: Sequence[int]) -> tuple[list[int], bool]:
    """The tokens before the first one that ends an answer, and whether there is one."""
    at = next((place for place, token in enumerate(ids) if token in ends), None)
    return (ids, False) if at is None else (ids[:at], True)
