"""Bounds on a model's sizes, beyond any published model's: a wrong config.json then costs neither time nor memory.

A config.json is checked before transformers reads it, since config classes make lists as long as the model has
layers. Whatever else it asks for shows while the model is built on the `meta` device, and is stopped there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainer.common.errors import UserError

MAX_PARAMETERS = 10**13
"""Published: 1.6e12 (Switch-C), 1.0e12 (Kimi K2)."""
MAX_DIMENSION = 2**24
"""Of one weight. Published: vocabularies of 1.0e6 tokens, experts side by side of 1.7e5 rows (DBRX)."""
MAX_MODULES = 200_000
"""Published, where every expert is modules of its own: 1e5."""
MAX_COUNTS = {"layer": 1_000, "block": 1_000, "stage": 1_000, "depth": 1_000, "expert": 20_000}
"""Published: 126 layers (Llama 3.1 405B), 2,048 experts (Switch-C)."""
MAX_ITEMS = 50_000
"""Of a list or an object. Published: 21,843 labels of an image tower."""
MAX_QUANTIZATION_ITEMS = 500_000
"""In a `quantization_config`, which may list every expert of every layer by name."""
MAX_TEXT = 200_000
"""Characters. A chat template is the longest text that a config.json holds; some encode a layer in each character."""
_COUNT = re.compile(r"(?:^|_)(layer|block|stage|depth|expert)s?$")
_REQUIRED = ("num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads")
"""What every type calls these settings, besides its own names for them. Some types have no attention heads."""
_FIX = "Correct it, or choose another model."


class TooLarge(UserError):
    """A model is larger than any published one."""

    def __init__(self, name: str, what: str, limit: float) -> None:
        self.what = what
        super().__init__(
            f"The config.json of {name} describes a model with {what}, more than any published one has "
            f"(at most {limit:,} can be read).",
            _FIX,
        )


def check_values(value: dict[str, Any], name: str) -> None:
    """Check a parsed config.json of bounded depth. Raises UserError, with the number, for what no model has."""
    for path, item in _walk(value):
        key = path.rpartition(".")[2]
        if isinstance(item, dict | list):
            limit = MAX_QUANTIZATION_ITEMS if "quantization_config" in path else MAX_ITEMS
            if len(item) > limit:
                raise TooLarge(name, f"{len(item):,} items in “{path[:80]}”", limit)
        elif isinstance(item, str) and len(item) > MAX_TEXT:
            raise TooLarge(name, f"{len(item):,} characters in “{path[:80]}”", MAX_TEXT)
        elif isinstance(item, int | float) and (counted := _COUNT.search(key)):
            limit = MAX_COUNTS[counted[1]]
            if not item <= limit:  # NaN, too
                raise TooLarge(name, f"“{path[:80]}” of {_number(item)}", limit)


def check_config(config: Any, name: str) -> None:
    """Check what the config class made of it. Raises UserError for sizes that are not positive whole numbers."""
    text = config.get_text_config(decoder=True)
    for key in _REQUIRED:
        try:
            value = getattr(text, key, None)
        except (RuntimeError, NotImplementedError):  # it differs from layer to layer
            continue
        if value is None or isinstance(value, list | tuple):
            continue
        own = getattr(text, "attribute_map", {}).get(key, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise _wrong(name, own, value, "a whole number above 0")
        if key == "num_hidden_layers" and value > MAX_COUNTS["layer"]:
            raise TooLarge(name, f"{value:,} layers", MAX_COUNTS["layer"])


@contextmanager
def bounded_build(name: str) -> Iterator[None]:
    """Within the context, a model that grows beyond the bounds while it is built raises TooLarge."""
    from torch.nn import Module, Parameter
    from torch.nn.modules.module import (
        register_module_module_registration_hook,
        register_module_parameter_registration_hook,
    )

    modules = parameters = 0

    def count_module(_owner: Module, _name: str, _module: Module | None) -> None:
        nonlocal modules
        modules += 1
        if modules > MAX_MODULES:
            raise TooLarge(name, f"more than {MAX_MODULES:,} modules", MAX_MODULES)

    def count_parameter(owner: Module, _name: str, parameter: Parameter | None) -> None:
        nonlocal parameters
        if parameter is None:
            return
        parameters += math.prod(parameter.shape)
        if max(parameter.shape, default=0) > MAX_DIMENSION:
            shape = " × ".join(f"{size:,}" for size in parameter.shape)
            raise TooLarge(name, f"a weight of {shape} in {type(owner).__name__}", MAX_DIMENSION)
        if 0 in parameter.shape:
            shape = " × ".join(map(str, parameter.shape))
            raise UserError(f"The config.json of {name} describes a weight of {shape}: {type(owner).__name__}.", _FIX)
        if parameters > MAX_PARAMETERS:
            raise TooLarge(name, f"{parameters:,} parameters or more", MAX_PARAMETERS)

    handles = [
        register_module_module_registration_hook(count_module),
        register_module_parameter_registration_hook(count_parameter),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def overflow(config: Any, name: str) -> TooLarge:
    """The error for a size that torch cannot even express; names the largest number in the config."""
    numbers = [
        (item, path) for path, item in _walk(config.to_dict()) if isinstance(item, int) and not isinstance(item, bool)
    ]
    number, path = max(numbers, key=lambda found: abs(found[0]))
    return TooLarge(name, f"“{path[:80]}” of {_number(number)}", MAX_DIMENSION)


def _wrong(name: str, path: str, value: Any, wanted: str) -> UserError:
    shown = _number(value) if isinstance(value, int | float) else f"“{str(value)[:80]}”"
    return UserError(f"The config.json of {name} is wrong: “{path[:80]}” is {shown}, not {wanted}.", _FIX)


def _number(value: float) -> str:
    if isinstance(value, bool | float):
        return str(value)
    return f"{value:,}" if abs(value) <= 10**30 else f"about 10^{len(str(abs(value))) - 1}"


def _walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in nested JSON with its path; items of a list have the path of the list."""
    waiting = [(path, value)]
    while waiting:
        place, item = waiting.pop()
        yield place, item
        if isinstance(item, dict):
            waiting += [(f"{place}.{key}".lstrip("."), inner) for key, inner in item.items()]
        elif isinstance(item, list):
            waiting += [(place, inner) for inner in item]
