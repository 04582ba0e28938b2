"""Samples while it trains: what is answered, that it is what the adapter answers, and that it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.lab import small_config
from trainer.common.plain_text import visible
from trainer.config.schema import ModelConfig, RunConfig, Tick
from trainer.data.preparation import prepare
from trainer.data.sample_prompts import sample_prompts
from trainer.runs import samples
from trainer.runs.samples import Samples
from trainer.service.data import keep_data
from trainer.training import loop

Events = list[dict[str, Any]]
Train = Callable[..., Events]


@pytest.fixture
def train(tmp_path: Path, models_dir: Path) -> Train:
    """Trains a configuration in a folder of tmp_path, until a stop is asked for, and gives back its events."""

    def run(config: RunConfig, folder: str = "run", stop: Callable[[Events], bool] = lambda _: False) -> Events:
        events: Events = []
        (tmp_path / folder).mkdir(exist_ok=True)
        paths = loop.RunPaths(tmp_path / folder, models_dir, tmp_path / "data")
        loop.train(config, paths, lambda type, **found: events.append({"type": type, **found}), lambda: stop(events))
        return events

    return run


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return small_config(tmp_path / "data", tmp_path / "rows.jsonl", steps=4, eval_steps=2, samples=3)


def with_training(config: RunConfig, **settings: Any) -> RunConfig:
    return replace(config, training=replace(config.training, **settings))


def trained(events: Events, folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """All that a run learned: its losses, gradient norms and evals, and its adapter."""
    keys = ("step", "loss", "grad_norm", "eval_loss", "eval_accuracy")
    figures = [[event.get(key) for key in keys] for event in events if event["type"] in ("metrics", "eval")]
    return figures, load_file(folder / "adapter" / "adapter_model.safetensors")


def same(one: tuple[Any, dict[str, torch.Tensor]], other: tuple[Any, dict[str, torch.Tensor]]) -> bool:
    return one[0] == other[0] and all(weight.equal(other[1][name]) for name, weight in one[1].items())


def texts(found: Samples) -> dict[int, list[str]]:
    return {at.step: [answer.text for answer in at.answers] for at in found.answers}


@pytest.mark.parametrize("kind", ["phi3", "moe"])
def test_samples_change_nothing_and_are_what_the_adapter_answers(
    kind: str,
    config: RunConfig,
    train: Train,
    tmp_path: Path,
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With dropout, so that a random number drawn for a sample would show in every later loss."""
    adapter = replace(config.adapter, lora_dropout=0.1)
    config = replace(config, model=ModelConfig(name=kind, quantization="none"), adapter=adapter)
    with_samples = train(config, "on")
    without = train(with_training(config, samples=0), "off")
    assert same(trained(with_samples, tmp_path / "on"), trained(without, tmp_path / "off"))
    assert not (tmp_path / "off" / samples.FILE).exists()
    assert any("Samples took" in event.get("text", "") for event in with_samples)

    found = samples.read(tmp_path / "on")
    assert list(texts(found)) == [0, 2, 4]
    assert [prompt.reference[:4] for prompt in found.prompts] == ["The "] * 3
    base = AutoModelForCausalLM.from_pretrained(models_dir / kind)
    tokenizer = AutoTokenizer.from_pretrained(models_dir / kind)
    limit = 2 * max(len(tokenizer(prompt.reference + "<|end|>").input_ids) for prompt in found.prompts)
    for folder, step in ((None, 0), (tmp_path / "on" / "adapter", 4)):
        model = PeftModel.from_pretrained(base, str(folder)).eval() if folder else base.eval()
        assert texts(found)[step] == [answered(model, tokenizer, prompt.text, limit) for prompt in found.prompts]
    assert texts(found)[0] != texts(found)[4]
    if kind == "moe":
        return
    monkeypatch.setattr("transformers.generation.utils.GenerationMixin.generate", broken)
    failing = train(config, "failing")
    assert same(trained(failing, tmp_path / "failing"), trained(without, tmp_path / "off"))
    (said,) = [event["text"] for event in failing if "No more samples" in event.get("text", "")]
    assert "shape '[3, 4]' is invalid" in said


def broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("shape '[3, 4]' is invalid")


def answered(model: Any, tokenizer: Any, question: str, limit: int) -> str:
    """What anybody gets who asks the model with plain transformers."""
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    made = model.generate(
        **asked, max_new_tokens=limit, do_sample=False, eos_token_id=[2, end], use_cache=True, pad_token_id=0
    )
    text: str = tokenizer.decode(made[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    return visible(text.strip())


def test_a_stop_ends_a_sample_at_its_next_token(config: RunConfig, train: Train, tmp_path: Path) -> None:
    """Asked for once the answers of the first evaluation are being written: no step follows, nothing is kept."""
    asked = 0

    def stop(events: Events) -> bool:
        nonlocal asked
        asked += any(event["type"] == "eval" for event in events)
        return asked > 5

    events = train(config, stop=stop)
    assert asked < 20
    assert samples.read(tmp_path / "run").answers == ()
    assert sum(event["type"] == "metrics" for event in events) == 1


def test_without_held_out_examples_there_are_none(config: RunConfig, train: Train, tmp_path: Path) -> None:
    events = train(with_training(replace(config, data=replace(config.data, eval_fraction=0.0)), max_steps=2))
    assert [event["text"] for event in events if "no samples" in event.get("text", "")]
    assert samples.read(tmp_path / "run") == Samples()


def test_a_quantized_base_answers_on_a_cpu(config: RunConfig, train: Train, tmp_path: Path) -> None:
    """A single prompt, since NF4 has a kernel of its own for one row."""
    config = replace(
        config, model=ModelConfig(name="phi3", quantization="nf4"), modules=(Tick("q_proj"), Tick("o_proj"))
    )
    events = train(with_training(config, samples=1, max_steps=1))
    assert not [event for event in events if "No more samples" in event.get("text", "")]
    assert [len(at.answers) for at in samples.read(tmp_path / "run").answers] == [1, 1]


def test_prompts_of_plain_text_and_of_whole_conversations(
    config: RunConfig, tmp_path: Path, models_dir: Path
) -> None:
    """A plain text is continued from its middle; a conversation is answered at its last turn, with loss on all."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"The cat sat on mat number {n}, and the dog ran.\n\n" for n in range(30)))
    chat = tmp_path / "chat.jsonl"
    turn = '{{"role": "user", "content": "Q{0}"}}, {{"role": "assistant", "content": "A{0}"}}'
    chat.write_text("".join(f'{{"messages": [{turn.format(n)}, {turn.format(n + 100)}]}}\n' for n in range(30)))
    found = []
    for file in (text, chat):
        data = replace(config.data, path=keep_data(file, tmp_path / "data"), eval_fraction=0.2, loss_on="all")
        prepared = prepare(data, AutoTokenizer.from_pretrained(models_dir / "phi3"), 128, 42, tmp_path / "data")
        assert prepared.held_out is not None and prepared.template is not None
        found.append(sample_prompts(prepared.held_out, prepared.template, data, 3, 128)[0])
    first, second = found
    assert first.text.startswith("The cat") and first.reference.endswith("dog ran.")
    assert second.text.removeprefix("Q") == second.reference.removeprefix("A")
    number = int(second.text[1:]) - 100
    assert second.before == f"user: Q{number}\n\nassistant: A{number}"
