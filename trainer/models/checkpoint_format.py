"""The quantization format of a published checkpoint, read from its config.json, and what it means for a run.

Most checkpoints are not quantized. Of the others, some are trained as they are, some are dequantized while they
load, and some cannot be trained here. Imports neither torch nor transformers: the app's process uses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import Any, Literal

from packaging.requirements import Requirement

from trainer.common.devices import Device
from trainer.common.errors import Issue
from trainer.config.schema import Quantization, RunConfig

Handling = Literal["as it is", "dequantized", "refused"]

HELD_AS = {"nf4": "4-bit NF4", "int8": "8 bits", "fp8": "FP8", "none": "the compute type"}
UNSUPPORTED = {
    "aqlm": "AQLM",
    "auto-round": "AutoRound",
    "bitnet": "BitNet",
    "eetq": "EETQ",
    "fouroversix": "Four Over Six",
    "fp_quant": "FP-Quant",
    "gemma": "Gemma's own quantized",
    "gguf": "GGUF",
    "higgs": "HIGGS",
    "hqq": "HQQ",
    "metal": "Metal",
    "modelopt": "ModelOpt",
    "nvfp4": "NVFP4",
    "quanto": "Quanto",
    "quark": "Quark",
    "sinq": "SINQ",
    "spqr": "SpQR",
    "torchao": "torchao",
    "vptq": "VPTQ",
}
"""Formats that transformers reads or other programs write, but that cannot be trained here."""
DEQUANTIZING_CONFIGS = {
    "mxfp4": "Mxfp4Config",
    "fp8": "FineGrainedFP8Config",
    "mxfp8": "FineGrainedFP8Config",
    "compressed-tensors": "CompressedTensorsConfig",
}
"""transformers config classes that dequantize a checkpoint while it loads."""
QUANTIZED_SIBLING = re.compile(r"(Qwen/.+)-(?:AWQ|GPTQ-Int[48]|FP8)")
"""Publishers whose unquantized model has the same name without the suffix."""


@dataclass(frozen=True)
class CheckpointFormat:
    """How a quantized checkpoint holds its weights, and how a run uses them."""

    method: str
    """`quant_method` of the config.json, such as `bitsandbytes` or `fp8`."""
    title: str
    """Display name, such as `4-bit NF4 (bitsandbytes)`."""
    handling: Handling
    bits: int = 16
    """Bits per quantized weight."""
    group: int = 0
    """Weights that share a scale; 0 means one scale per output row."""
    double_quantized: bool = False
    """The scales are quantized as well."""
    packages: tuple[str, ...] = ()
    """Packages that loading or training needs, as pip requirements."""
    needs_gpu: bool = False
    reason: str = ""
    """Why it is refused, as a clause; empty if the format itself is unsupported."""
    modules: tuple[str, ...] = ()
    """Full names of the modules that stay quantized during training; empty unless it is used as it is."""

    @property
    def used_as_is(self) -> bool:
        """Whether the run trains on the quantized weights as they are."""
        return self.handling == "as it is"

    @property
    def quantization(self) -> Quantization:
        """The `quantization` setting that corresponds to a checkpoint used as it is."""
        if self.method != "bitsandbytes":
            return "none"
        return "nf4" if self.bits == 4 else "int8"

    def describe(self, quantization: str = "") -> str:
        """One sentence: the checkpoint's format, and how a run with this `quantization` holds its weights."""
        if self.used_as_is:
            return f"The checkpoint is {self.title} already and is used as it is."
        if self.handling == "dequantized":
            then = HELD_AS.get(quantization, "what quantization says")
            return f"The checkpoint is {self.title}: dequantized while it loads, then held in {then}."
        return f"The checkpoint is {self.title}, {self.reason or 'which cannot be trained here'}."

    def problem(self, model: str, device: Device) -> Issue | None:
        """Why a run on this checkpoint cannot start on `device`, with what to do."""
        instead = f"choose {unquantized_model(model)}, with quantization nf4."
        if self.handling == "refused":
            reason = self.reason or "which cannot be trained here"
            problem = f"{model} is a checkpoint in {self.title}, {reason}."
            return Issue("model.name", problem, f"C{instead[1:]}")
        if missing := [package for package in self.packages if not _installed(package)]:
            problem = f"{model} is a {self.title} checkpoint, which needs {' and '.join(missing)} for training."
            packages = " ".join(f'"{package}"' for package in missing)
            return Issue("model.name", problem, f"pip install {packages}, or {instead}")
        if self.needs_gpu and not device.is_gpu:
            problem = f"{model} is a {self.title} checkpoint, which trains on an NVIDIA GPU only."
            return Issue("model.name", problem, f"C{instead[1:]}")
        return None

    def to_plan_json(self, quantization: str, usable: bool) -> dict[str, Any]:
        """The `checkpoint` entry of plan.json, also used by the model card."""
        loads = f"{DEQUANTIZING_CONFIGS[self.method]}(dequantize=True)" if self.method in DEQUANTIZING_CONFIGS else ""
        says = self.describe(quantization) if usable else f"The checkpoint is {self.title}."
        return {"format": self.title, "held": self.used_as_is, "loads": loads, "says": says}

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"packages": list(self.packages), "modules": list(self.modules)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CheckpointFormat:
        return cls(**{**value, "packages": tuple(value["packages"]), "modules": tuple(value["modules"])})


def read_format(value: Mapping[str, Any] | None) -> CheckpointFormat | None:
    """The format that the `quantization_config` of a config.json describes; None for plain weights.

    Follows transformers' AutoQuantizationConfig.from_dict in what it takes for bitsandbytes.
    """
    if not value:
        return None
    if value.get("load_in_4bit") or value.get("load_in_8bit"):
        return _bitsandbytes(value)
    method = str(value.get("quant_method") or "")
    if method == "mxfp4":
        return CheckpointFormat(method, "MXFP4", "dequantized", bits=4, group=32)
    if method in ("fp8", "mxfp8"):
        return CheckpointFormat(method, "FP8" if method == "fp8" else "MXFP8", "dequantized", bits=8)
    if method == "fbgemm_fp8":
        return CheckpointFormat(method, "FP8 (FBGEMM)", "dequantized", bits=8)
    if method == "compressed-tensors":
        title = f"compressed-tensors ({str(value.get('format') or 'dense')[:40]})"
        # earlier transformers leave its rounding of activations in the model, through which no gradient flows
        packages = ("compressed-tensors>=0.15.0", "transformers>=5.23.0")
        return CheckpointFormat(method, title, "dequantized", packages=packages)
    if method in ("gptq", "awq"):
        return _by_gptqmodel(method, value)
    unknown = f"the format “{method[:40]}”" if method else "a format that its config.json does not name"
    return CheckpointFormat(method, UNSUPPORTED.get(method, unknown), "refused")


def prequantized(found: CheckpointFormat | None) -> CheckpointFormat | None:
    """The format if the checkpoint is quantized already and used as it is, else None."""
    return found if found is not None and found.used_as_is else None


def with_checkpoint_quantization(config: RunConfig, found: CheckpointFormat | None) -> RunConfig:
    """The configuration with its quantization set to the checkpoint's, if that is used as it is."""
    if found is None or not found.used_as_is:
        return config
    return replace(config, model=replace(config.model, quantization=found.quantization))


def format_issues(
    config: RunConfig, found: CheckpointFormat | None, device: Device
) -> tuple[list[Issue], list[Issue]]:
    """Issues and warnings of a run with `config` on a checkpoint of this format."""
    if found is None:
        return [], []
    model, asked = config.model.name, config.model.quantization
    if obstacle := found.problem(model, device):
        return [obstacle], []
    if not found.used_as_is:
        return [], []
    warnings = []
    if asked != found.quantization:
        problem = f"quantization {asked} has no effect: the checkpoint is {found.title} and is used as it is."
        fix = f"Set quantization to {found.quantization}, or choose {unquantized_model(model)}."
        warnings.append(Issue("model.quantization", problem, fix))
    if found.method != "bitsandbytes":
        problem = f"No {found.title} run has been measured yet: memory and speed are guesses."
        warnings.append(Issue("model.name", problem, f"Choose {unquantized_model(model)}, with quantization nf4."))
    return [], warnings


def unquantized_model(model: str) -> str:
    """The unquantized original of a quantized model: its name if the publisher's naming scheme is known."""
    sibling = QUANTIZED_SIBLING.fullmatch(model.strip())
    return sibling[1] if sibling else "the unquantized model that it was made from"


def _installed(package: str) -> bool:
    wanted = Requirement(package)
    try:
        return wanted.specifier.contains(metadata.version(wanted.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def _bitsandbytes(value: Mapping[str, Any]) -> CheckpointFormat:
    if not value.get("load_in_4bit"):
        return CheckpointFormat("bitsandbytes", "8-bit LLM.int8() (bitsandbytes)", "as it is", bits=8)
    kind = "NF4" if value.get("bnb_4bit_quant_type") == "nf4" else "FP4"  # the default of BitsAndBytesConfig
    return CheckpointFormat(
        method="bitsandbytes",
        title=f"4-bit {kind} (bitsandbytes)",
        handling="as it is",
        bits=4,
        group=64,
        double_quantized=bool(value.get("bnb_4bit_use_double_quant")),
    )


def _by_gptqmodel(method: str, value: Mapping[str, Any]) -> CheckpointFormat:
    bits, group = value.get("bits"), value.get("group_size", value.get("q_group_size"))
    bits = bits if isinstance(bits, int) and 0 < bits <= 8 else 4
    return CheckpointFormat(
        method=method,
        title=f"{bits}-bit {method.upper()}",
        handling="as it is",
        bits=bits,
        group=group if isinstance(group, int) and group > 0 else 0,
        packages=("gptqmodel>=7.0.0", "optimum>=1.24.0"),  # PEFT's minimum versions, for AWQ as well
        needs_gpu=True,
    )
