"""RunConfig: everything that determines what a run does. Frozen, serializable as JSON, without secrets.

Settings have the names that PEFT, TRL and transformers use. Each one is defined with its bounds and a one-line
explanation, which the page, validation and the command line use. pydantic reads the bounds (`validation.py`), but is
not imported here, so that importing this module is cheap.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal

from trainer import demo

SCHEMA = 1

Treatment = Literal["lora", "full"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Bias = Literal["none", "lora_only"]
Start = Literal["default", "pissa"]
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]
Quantization = Literal["nf4", "int8", "fp8", "none"]
Optimizer = Literal["auto", "paged_adamw_8bit", "adamw_torch"]
DataSource = Literal["demo", "file", "hub"]
LossOn = Literal["completion", "all", "last"]
Template = Literal["auto", "model", "chatml", "plain"]
Reasoning = Literal["template", "keep"]
AnswerEnd = Literal["auto", "template"]
BadRows = Literal["stop", "skip"]
PreferenceRows = Literal["stop", "chosen"]
Media = Literal["refuse", "drop"]
Packing = Literal["auto", "bfd", "group_by_length", "off"]
Switch = Literal["auto", "on", "off"]


def setting(default: Any, explanation: str, **bounds: Any) -> Any:
    """A dataclass field with its explanation and its bounds, named as in pydantic: `ge`, `gt`, `le`."""
    strict = {} if isinstance(default, str | tuple) else {"strict": True}  # "7" is not a number
    return field(default=default, metadata={"description": explanation, **strict, **bounds})


@dataclass(frozen=True)
class Tick:
    """One ticked module kind. Empty `r` and `lora_alpha` mean the adapter's, empty `lr` the training's."""

    name: str
    treatment: Treatment = "lora"
    r: int | None = setting(None, "Rank of this kind alone.", ge=1, le=4096)
    lora_alpha: float | None = setting(None, "Scale of this kind alone.", gt=0, le=65536)
    lr: float | None = setting(None, "Peak learning rate of this kind alone.", gt=0, le=1)
    layers: str = setting("", "Layers to train, such as 0-15, last 8, 3,5,7. Empty: all.")


@dataclass(frozen=True)
class ModelConfig:
    """Which model, and how its frozen weights are held in memory."""

    name: str = setting("demo", "The demo, a model id on the Hugging Face hub, or a folder in the models folder.")
    revision: str = setting("main", "Branch, tag or commit of a hub model.")
    quantization: Quantization = setting(
        "nf4",
        "How the frozen linears are held: nf4 is 4-bit with double quantization (QLoRA), int8 is LLM.int8(), fp8 is "
        "8-bit floats that the GPU also multiplies.",
    )
    new_tokens: tuple[str, ...] = setting((), "Special tokens to add to the vocabulary, such as <|pirate|>.")
    dtype: Dtype = setting(
        "auto", "Precision: auto is bfloat16 on a GPU that has it, float16 on an older one, float32 on a CPU."
    )


@dataclass(frozen=True)
class AdapterConfig:
    """LoRA's own settings, shared by every kind ticked as LoRA."""

    r: int = setting(16, "Rank of each LoRA.", ge=1, le=4096)
    lora_alpha: float = setting(16, "Scale: the update is multiplied by lora_alpha / r.", gt=0, le=65536)
    lora_dropout: float = setting(0.05, "Fraction of LoRA's inputs dropped in training.", ge=0, le=0.9)
    bias: Bias = setting("none", "Biases to train: none, or those of modules with LoRA.")
    use_rslora: bool = setting(False, "Scale by lora_alpha / sqrt(r), steadier at high ranks (rsLoRA).")
    use_dora: bool = setting(False, "Train magnitude and direction separately (DoRA): slower, often better at low r.")
    init_lora_weights: Start = setting(
        "default",
        "default: B starts at zero. pissa: starts from the largest singular values.",
    )
    train_new_tokens: bool = setting(
        True, "Train only the new tokens' rows of the embedding and of an untied head: the cheap way to teach them."
    )
    loraplus_lr_ratio: float = setting(
        1.0, "Learning rate of B over that of A (LoRA+); 1 is plain LoRA.", ge=1, le=64
    )


@dataclass(frozen=True)
class DataConfig:
    """Where examples come from, and which of their tokens count for the loss."""

    source: DataSource = setting("demo", "The bundled pirate data, uploaded files, or a hub data set.")
    path: str = setting("", "Name of the uploaded file (several: separated by spaces), or id of the hub data set.")
    subset: str = setting("", "Configuration of the hub data set, if it has several.")
    split: str = setting("train", "Split of the hub data set, such as train or train[:10000].")
    held_out: str = setting(
        "", "Uploaded file, or split of the hub data set, for the eval loss. Empty: a fraction of the examples."
    )
    eval_fraction: float = setting(0.05, "Fraction of the examples held out for the eval loss.", ge=0, le=0.5)
    general_text: str = setting(
        "",
        "Uploaded file with general text: its loss before and after training shows forgetting. Empty: 40 bundled "
        "passages.",
    )
    messages_column: str = setting("", "Column with whole conversations. Empty: recognized by its name.")
    prompt_column: str = setting("", "Column with the question or instruction. Empty: recognized by its name.")
    input_column: str = setting("", "Column appended to the instruction, if a row has one. Empty: recognized.")
    completion_column: str = setting("", "Column with the answer. Empty: recognized by its name.")
    system_column: str = setting("", "Column with a system message. Empty: recognized by its name.")
    text_column: str = setting("", "Column with plain text. Empty: recognized by its name.")
    assistant_role: str = setting("", "Role that answers, where conversations do not call it assistant.")
    roles: str = setting(
        "",
        "Roles by name in conversations, such as pirate=assistant, narrator=ignore: user, assistant, system, tool or "
        "ignore.",
    )
    template: Template = setting(
        "auto",
        "auto: the model's chat template; without one, ChatML for conversations, else plain prompt and answer.",
    )
    system_prompt: str = setting("", "Added to every conversation that has no system message of its own.")
    loss_on: LossOn = setting(
        "completion", "Tokens that count toward the loss: the answers, all tokens, or the last answer alone."
    )
    reasoning: Reasoning = setting(
        "template", "Reasoning that the chat template drops from some answers: drop it, or keep it."
    )
    answer_end: AnswerEnd = setting(
        "auto", "auto: where the template ends an answer with no special token, the EOS token ends the last one."
    )
    bad_rows: BadRows = setting("stop", "Invalid rows: stop, or skip them and train on the rest.")
    preference_rows: PreferenceRows = setting(
        "stop",
        "Rows with chosen and rejected or with good and bad answers: stop, or train on the good ones alone.",
    )
    media: Media = setting("refuse", "Images, audio, files in messages: reject the row, or train on its text alone.")


@dataclass(frozen=True)
class TrainingConfig:
    """Training settings; the defaults are those of the reference study, or are chosen for the device."""

    num_train_epochs: float = setting(1.0, "Passes over the data.", gt=0, le=1000)
    max_steps: int = setting(-1, "Number of steps; -1: the epochs decide.", ge=-1, le=10_000_000)
    learning_rate: float = setting(1e-4, "Peak learning rate of the LoRA weights.", gt=0, le=1)
    full_learning_rate: float | None = setting(
        None, "Learning rate of fully trained modules. Empty: 0.1 × the LoRA rate.", gt=0, le=1
    )
    lr_scheduler_type: Scheduler = setting("linear", "How the learning rate changes after the warmup.")
    warmup_ratio: float = setting(0.1, "Fraction of the steps over which the learning rate rises.", ge=0, le=0.9)
    per_device_train_batch_size: int = setting(
        8, "Rows held in memory at once: an example each, or several if packed.", ge=1, le=4096
    )
    gradient_accumulation_steps: int = setting(
        8, "Batches per optimizer step; batch size × this is the effective batch.", ge=1, le=4096
    )
    max_length: int = setting(512, "Longer examples are truncated to this many tokens.", ge=8, le=1_048_576)
    packing: Packing = setting(
        "auto",
        "bfd: several examples share a row, without attending to each other. auto: on a GPU, or if it saves padding.",
    )
    optim: Optimizer = setting(
        "auto", "auto: AdamW; on a GPU, the paged 8-bit one where AdamW's state would be large."
    )
    weight_decay: float = setting(0.0, "AdamW's weight decay.", ge=0, le=1)
    max_grad_norm: float = setting(1.0, "Gradients are clipped to this norm; 0: no clipping.", ge=0, le=1000)
    activation_checkpointing: Switch = setting(
        "auto", "Recompute activations in the backward pass: less memory, more time. auto: only as much as needed."
    )
    micro_batches: Literal["auto", "off"] = setting(
        "auto", "auto: on a GPU, the fastest size that fits its memory, with the same effective batch; off: as set."
    )
    torch_compile: Switch = setting(
        "auto", "Compile each layer; the first step waits for it. auto: on most GPUs, for long runs."
    )
    use_liger_kernel: Switch = setting(
        "auto",
        "Liger's kernels for norms, rotations and MLPs. auto: if installed and nothing is compiled.",
    )
    eval_steps: int = setting(
        0,
        "Steps between evaluations; 0: up to ten over the run, in at most a tenth of its time.",
        ge=0,
        le=10_000_000,
    )
    samples: int = setting(
        3, "Held-out prompts that the model answers at each evaluation, to read its progress; 0: none.", ge=0, le=10
    )
    save_steps: int = setting(0, "Steps between checkpoints; 0: about five over the run.", ge=0, le=10_000_000)
    seed: int = setting(42, "Seed for weights, dropout and data order.", ge=0, le=2**32 - 1)


@dataclass(frozen=True)
class RunConfig:
    """The configuration of one run. See `validation.from_json` and `validation.validate`."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}

    schema: int = field(default=SCHEMA, metadata={"strict": True})
    title: str = setting("", "A display name; the run's id is made by the app.")
    model: ModelConfig = field(default_factory=ModelConfig)
    modules: tuple[Tick, ...] = ()
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        value["modules"] = list(value["modules"])
        value["model"]["new_tokens"] = list(value["model"]["new_tokens"])
        return value


def default_config(model: str = "demo") -> RunConfig:
    """The study's values; for the demo, which is far smaller, values that suit it."""
    if model != "demo":
        return RunConfig(model=ModelConfig(name=model))
    names = {item.name for item in fields(TrainingConfig)}
    settings: dict[str, Any] = {key: value for key, value in demo.SETTINGS.items() if key in names}
    return RunConfig(
        model=ModelConfig(name="demo", quantization="none"),
        training=TrainingConfig(
            **{
                "gradient_accumulation_steps": 1,
                **settings,
            }
        ),
    )


def is_bundled(config: RunConfig) -> bool:
    """Whether it trains the demo on its unmodified bundled data, which need no checking."""
    bundled = default_config()
    fits = config.training.max_length >= bundled.training.max_length
    return config.model.name == bundled.model.name and config.data == bundled.data and fits
