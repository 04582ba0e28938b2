"""Data and settings: the study's values in sight, the rarely used ones folded away."""

from __future__ import annotations

import gradio as gr

from ui.form import FILE, HUB, Form

DATA_KINDS = [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt"]


def build_data(form: Form) -> gr.UploadButton:
    """The data group. Returns the upload button, whose event the tab wires."""
    source = form.add("data.source", component=gr.Radio, label="Data", elem_id="data-source", info=None)
    with gr.Column(visible=False, elem_classes="bare") as file_group:
        upload = gr.UploadButton("Choose a file", file_types=DATA_KINDS, size="sm", elem_id="data-upload")
        form.components[FILE] = gr.Textbox(
            label="Uploaded file", interactive=False, max_lines=1, elem_id="data-file", elem_classes="setting",
            placeholder="None yet: JSONL, JSON, CSV, TSV, Parquet or text",
        )  # fmt: skip
    with gr.Column(visible=False, elem_classes="bare") as hub_group:
        form.components[HUB] = gr.Textbox(
            label="Data set of the hub", placeholder="owner/name", max_lines=1, elem_classes="setting"
        )
        with gr.Row(elem_classes="pair"):
            form.add("data.subset", placeholder="none")
            form.add("data.split")
    source.change(
        lambda chosen: (gr.update(visible=chosen == "file"), gr.update(visible=chosen == "hub")),
        source, [file_group, hub_group], queue=False, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    return upload


def build_settings(form: Form) -> gr.UploadButton:
    """The settings that most runs touch, and the fold with all others. Returns the button that loads them all."""
    with gr.Column(elem_id="main-settings", elem_classes="grid bare"):
        form.add("training.num_train_epochs")
        form.add("training.learning_rate")
        form.add("adapter.r")
        form.add("adapter.lora_alpha")
        form.add("training.per_device_train_batch_size")
        form.add("training.gradient_accumulation_steps")
        form.add("training.max_length")
        form.add("training.full_learning_rate", placeholder="a tenth of the other")
    with gr.Accordion("More settings", open=False, elem_id="more-settings"):
        _build_rest(form)
        return gr.UploadButton("Load a configuration (JSON)", file_types=[".json"], size="sm", elem_id="load-config")


def _build_rest(form: Form) -> None:
    with gr.Column(elem_classes="grid bare"):
        for path in ("title", "model.revision", "model.quantization", "model.dtype"):
            form.add(path, **({"placeholder": "what it trains"} if path == "title" else {}))
        form.add("model.new_tokens", placeholder="<|first|> <|second|>")
        form.add("adapter.train_new_tokens")
    gr.HTML('<h4 class="part">Adapter</h4>', apply_default_css=False)
    with gr.Column(elem_classes="grid bare"):
        form.add("adapter.lora_dropout")
        form.add("adapter.bias")
        form.add("adapter.init_lora_weights")
        form.add("adapter.use_rslora")
        form.add("adapter.use_dora")
        form.add("adapter.loraplus_lr_ratio")
    gr.HTML('<h4 class="part">Data</h4>', apply_default_css=False)
    with gr.Column(elem_classes="grid bare"):
        form.add("data.loss_on")
        form.add("data.eval_fraction")
        form.add("data.system_prompt", lines=2, max_lines=6, elem_classes=["setting", "wide"])
    gr.HTML('<h4 class="part">Training</h4>', apply_default_css=False)
    with gr.Column(elem_classes="grid bare"):
        form.add("training.max_steps")
        form.add("training.lr_scheduler_type")
        form.add("training.warmup_ratio")
        form.add("training.optim")
        form.add("training.weight_decay")
        form.add("training.max_grad_norm")
        form.add("training.eval_steps")
        form.add("training.save_steps")
        form.add("training.seed")
        form.add("training.activation_checkpointing")
