"""The settings: common ones in view, the others under More settings."""

from __future__ import annotations

from typing import Any, get_args

import gradio as gr

from trainer.config.schema import Quantization
from trainer.service.models import CheckpointFormat
from ui.form import Form, settings
from ui.labels import CHOICES
from ui.views import HTML

render = HTML.macros("page.html")
QUANTIZATION = "model.quantization"


def build_settings(form: Form) -> gr.UploadButton:
    """Build all settings but those of the data. Returns the button that loads a configuration file."""
    with gr.Column(elem_id="main-settings", elem_classes="grid bare"):
        form.add("training.num_train_epochs")
        form.add("training.learning_rate")
        form.add("adapter.r")
        form.add("adapter.lora_alpha")
        form.add("training.per_device_train_batch_size")
        form.add("training.gradient_accumulation_steps")
        form.add("training.max_length")
        form.add("training.full_learning_rate", placeholder="0.1 × LoRA rate")
    with gr.Accordion("More settings", open=False, elem_id="more-settings"):
        _build_rest(form)
        return gr.UploadButton("Load a configuration (JSON)", file_types=[".json"], size="sm", elem_id="load-config")


def quantization(checkpoint: CheckpointFormat | None, value: str) -> Any:
    """The quantization choices for a model: fixed if its checkpoint is quantized and used as it is."""
    choices = [(CHOICES[item], item) for item in get_args(Quantization)]
    if checkpoint is None:
        return gr.update(value=value, choices=choices, interactive=True, info=settings()[QUANTIZATION].explanation)
    if checkpoint.used_as_is:
        only = [(checkpoint.title, checkpoint.quantization)]
        return gr.update(value=checkpoint.quantization, choices=only, interactive=False, info=checkpoint.describe())
    dequantized = checkpoint.handling == "dequantized"
    return gr.update(value=value, choices=choices, interactive=dequantized, info=checkpoint.describe())


def _build_rest(form: Form) -> None:
    with gr.Column(elem_classes="grid bare"):
        for path in ("title", "model.revision", "model.quantization", "model.dtype"):
            form.add(path, **({"placeholder": "the trained modules"} if path == "title" else {}))
        form.add("model.new_tokens", placeholder="<|first|> <|second|>")
        form.add("adapter.train_new_tokens")
    gr.HTML(render("part", "Adapter"), apply_default_css=False)
    with gr.Column(elem_classes="grid bare"):
        form.add("adapter.lora_dropout")
        form.add("adapter.bias")
        form.add("adapter.init_lora_weights")
        form.add("adapter.use_rslora")
        form.add("adapter.use_dora")
        form.add("adapter.loraplus_lr_ratio")
    gr.HTML(render("part", "Training"), apply_default_css=False)
    with gr.Column(elem_classes="grid bare"):
        form.add("training.packing")
        form.add("training.max_steps")
        form.add("training.lr_scheduler_type")
        form.add("training.warmup_ratio")
        form.add("training.optim")
        form.add("training.weight_decay")
        form.add("training.max_grad_norm")
        form.add("training.eval_steps")
        form.add("training.samples")
        form.add("training.save_steps")
        form.add("training.seed")
    gr.HTML(render("part", "Speed and memory"), apply_default_css=False)
    with gr.Column(elem_classes="grid bare"):
        form.add("training.activation_checkpointing")
        form.add("training.micro_batches")
        form.add("training.torch_compile")
        form.add("training.use_liger_kernel")
