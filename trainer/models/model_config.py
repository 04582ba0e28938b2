"""Turns a config.json into the model's transformers config and Auto class, without running any code of the model.

transformers reads a sanitized copy, without keys that name code (`auto_map`) or choose an attention or experts
implementation, which this program chooses itself.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.common.errors import UserError, first_line
from trainer.models import size_limits

MAX_DEPTH = 64
TIED = "tie_word_embeddings"
_IMPLEMENTATION = re.compile(r"(attn|experts)_implementation")
_PACKAGES = {"PIL": "pillow", "cv2": "opencv-python", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Modules whose package has a different name."""
_CHOOSE = "Choose a model of a type that transformers supports natively."

NATIVE_SIBLINGS: dict[str, str] = {
    "RefinedWeb": "Use the newest revision of tiiuae/falcon-40b, which is native.",
    "RefinedWebModel": "Use the newest revision of tiiuae/falcon-7b, which is native.",
    "Yi": "Use 01-ai/Yi-1.5-6B-Chat or another Yi-1.5 model, which are native.",
    "chatglm": "Use the -hf variant, such as zai-org/glm-4-9b-chat-hf, which is native.",
    "deepseek": "Use deepseek-ai/DeepSeek-V2-Lite-Chat, which is native.",
    "exaone": "Use LGAI-EXAONE/EXAONE-4.0-1.2B or another EXAONE 4.0 model, which are native.",
    "hf_olmo": "Use the -hf variant, such as allenai/OLMo-7B-hf, which is native.",
    "internlm": "Use internlm/internlm3-8b-instruct, which is native.",
    "internlm2": "Use internlm/internlm3-8b-instruct, which is native.",
    "internvl_chat": "Use the -hf variant, such as OpenGVLab/InternVL3-8B-hf, which is native.",
    "kimi_k2": "Its architecture is DeepSeek-V3's: deepseek-ai/DeepSeek-V3-0324 is native, and so is Kimi-K2.5.",
    "llava_llama": "Use llava-hf/llava-1.5-7b-hf, which is native.",
    "llava_mistral": "Use llava-hf/llava-v1.6-mistral-7b-hf, which is native.",
    "llava_qwen": "Use llava-hf/llava-onevision-qwen2-7b-ov-hf, which is native.",
    "minicpm": "Use openbmb/MiniCPM3-4B, which is native.",
    "minimax_text_01": "Use MiniMaxAI/MiniMax-Text-01-hf, which is native.",
    "mixformer-sequential": "Use the newest revision of microsoft/phi-1_5 or phi-2, which are native.",
    "molmo": "Use allenai/Molmo2-8B, which is native.",
    "nemotron-nas": "Use nvidia/Llama-3.1-Nemotron-Nano-8B-v1, which is native.",
    "phi-msft": "Use the newest revision of microsoft/phi-1_5 or phi-2, which are native.",
    "phi3_v": "Use microsoft/Phi-3.5-mini-instruct, the language model inside, which is native.",
    "phi3small": "Use microsoft/Phi-3-medium-128k-instruct or Phi-3.5-mini-instruct, which are native.",
    "phi4mm": "Use microsoft/Phi-4-mini-instruct, the language model inside, which is native.",
    "qwen": "Use the Qwen1.5 or Qwen2.5 model of that size, such as Qwen/Qwen1.5-7B-Chat, which are native.",
    "stablelm_epoch": "Use the newest revision of stabilityai/stablelm-3b-4e1t, which is native.",
}
"""Model types that need custom code → what to use instead. Never used for types that transformers supports."""


def make_config(value: dict[str, Any], name: str, source: str) -> Any:
    """The transformers config described by `value`, the content of a config.json; `source` is the model's location.

    Raises UserError if it needs custom code, is not a native language model, or transformers rejects it.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForImageTextToText

    _refuse_kernels(value, name)
    size_limits.check_values(value, name)
    _refuse_type(value, name)
    _refuse_quantization(value, name)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(_clean(value)), encoding="utf-8")
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except ImportError as error:
            raise missing_package(error, name) from error
        except StrictDataclassError as error:
            problem = f"The config.json of {name} is wrong: {_strict(error)}."
            raise UserError(problem, "Correct that value.") from error
        except Exception as error:
            raise UserError(f"The config.json of {name} cannot be used: {first_line(error)}") from error
    size_limits.check_config(config, name)
    config.name_or_path = source
    _tie_as_published(config, value)
    if config.is_encoder_decoder and (auto_class(config) is AutoModelForImageTextToText or _has_encoder(value)):
        raise UserError(f"{name} is an encoder-decoder model, not a causal LM.", "Choose a causal LM.")
    return config


def auto_class(config: Any) -> Any:
    """The Auto class that builds and loads the model as published; the only place that decides this.

    AutoModelForCausalLM, or for multimodal wrappers (Mistral3, Qwen2.5-VL) AutoModelForImageTextToText, which keeps
    the module names of the published checkpoint.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    known = type(config) in AutoModelForCausalLM._model_mapping
    return AutoModelForCausalLM if known else AutoModelForImageTextToText


def missing_package(error: ImportError, name: str) -> UserError:
    """The error for a model that transformers only builds with another package installed."""
    text = str(error)
    package = re.search(r"pip install (?:-U |--upgrade )?['\"]?([A-Za-z0-9][\w.-]*)(?![\w.+-])", text)
    module = str(getattr(error, "name", None) or "").partition(".")[0]
    found = package[1] if package else _PACKAGES.get(module, module)
    if not found:
        return UserError(f"{name} needs a package that is not installed: {first_line(error).rstrip('.')}.")
    return UserError(f"{name} needs {found}: pip install {found}.", "Then start the app again.")


def _strict(error: Exception) -> str:
    """The field and the cause from an error that transformers raises for an invalid config value."""
    field = re.search(r"for field '([^']+)'", str(error))
    cause = first_line(error.__cause__ or error).rstrip(".")
    return cause if field is None or f"'{field[1]}'" in cause else f"“{field[1]}”: {cause}"


def _refuse_kernels(value: dict[str, Any], name: str) -> None:
    """Raise UserError if an attention or experts implementation is a hub kernel, which is code."""
    for key, item, depth in _walk(value):
        if depth > MAX_DEPTH:
            raise UserError(f"The config.json of {name} is nested too deeply.", "Choose another model.")
        if _IMPLEMENTATION.search(key) and "/" in json.dumps(item):
            raise UserError(
                f"The config.json of {name} sets {key[:80]} to a hub kernel, which would run code from the model.",
                "Remove that key from its config.json, or choose another model.",
            )


def _refuse_type(value: dict[str, Any], name: str) -> None:
    """Raise UserError unless transformers has the type natively and it generates text."""
    from transformers import CONFIG_MAPPING, __version__

    model_type = value.get("model_type")
    if not isinstance(model_type, str):
        hint = "Choose its transformers variant (often -hf)"
        raise UserError(f"The config.json of {name} names no model_type.", f"{hint}, or another model.")
    shown = f"{name} is of the type “{model_type[:100]}”"
    if model_type not in CONFIG_MAPPING:
        fix = NATIVE_SIBLINGS.get(model_type) or _same_architecture(value) or _CHOOSE
        if "auto_map" in value or model_type in NATIVE_SIBLINGS:
            raise UserError(f"{shown}, which needs custom code, and code from a model is never run.", fix)
        raise UserError(f"{shown}, which transformers {__version__} does not know.", fix)
    if model_type not in _text_types():
        raise UserError(f"{shown}, which transformers does not know as a causal LM.", "Choose a causal LM.")


def _refuse_quantization(value: dict[str, Any], name: str) -> None:
    """Raise UserError if a quantization_config is not an object that names a method."""
    for key, item, _ in _walk(value):
        if key != "quantization_config" or item is None:
            continue
        method = item.get("quant_method") if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(method, str | None):
            wrong = ".quant_method” is not text" if isinstance(item, dict) else "” is not an object"
            raise UserError(
                f"The config.json of {name} is wrong: “quantization_config{wrong}.",
                "Take it from the published model, or remove it if the weights are not quantized.",
            )


def _has_encoder(value: dict[str, Any]) -> bool:
    """Whether the saved class is a full encoder-decoder (Whisper, BART) rather than its decoder alone."""
    named = value.get("architectures")
    return isinstance(named, list) and bool(named) and not any(str(item).endswith("ForCausalLM") for item in named)


def _text_types() -> set[str]:
    from transformers.models.auto import modeling_auto

    return {
        *modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    }


def _same_architecture(value: dict[str, Any]) -> str:
    """A hint if transformers has the model's class under another type (Kimi-K2 is a DeepseekV3ForCausalLM)."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    named = value.get("architectures")
    types = [key for key, native in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if [native] == named]
    if not types:
        return ""
    first = min(types, key=lambda key: not str(named[0]).lower().startswith(key.replace("_", "")))  # type: ignore[index]
    return f"Its class, {named[0]}, is native as the type {first}: choose a model of that type."  # type: ignore[index]


def _clean(value: Any) -> Any:
    """The JSON without the keys that name code or choose an implementation; “su” is the old name of longrope."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key != "auto_map" and not _IMPLEMENTATION.search(key)}
        return {
            key: "longrope" if item == "su" and key in ("type", "rope_type") else _clean(item)
            for key, item in kept.items()
        }
    return [_clean(item) for item in value] if isinstance(value, list) else value


def _tie_as_published(config: Any, value: dict[str, Any]) -> None:
    """Set a wrapper's `tie_word_embeddings` as in the checkpoint, if `value` does not set it at the top level.

    transformers 4, which saved most checkpoints, used the text config's value; 5 uses the wrapper's own, whose
    default may differ (Mistral3), which would only show when the weights load.
    """
    text = config.get_text_config(decoder=True)
    if text is config or value.get(TIED) is not None:
        return
    inner = value.get("text_config")
    stated = isinstance(inner, dict) and inner.get(TIED) is not None
    if stated or str(value.get("transformers_version") or "5") < "5":
        config.tie_word_embeddings = text.tie_word_embeddings


def _walk(value: Any) -> Iterator[tuple[str, Any, int]]:
    """Every value in nested JSON with its key, empty for an item of a list, and its depth."""
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, dict | list):
            inside = list(item.items()) if isinstance(item, dict) else [("", inner) for inner in item]
            yield from ((key, inner, depth) for key, inner in inside)
            waiting += [(inner, depth + 1) for _, inner in inside]
