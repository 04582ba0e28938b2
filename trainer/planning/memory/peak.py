"""Device memory of a run at its peak, item by item, computed from the module map.

Weights, gradients and the optimizer's state are counted as exactly as bitsandbytes, PEFT and torch hold them;
activations as in `activations.py`, the loss as in TRL's fused loss. docs/memory.md gives the accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from trainer.config.schema import RunConfig
from trainer.models.module_map import ModuleMap
from trainer.planning.memory.activations import (
    FLOAT32,
    ActivationBytes,
    ActivationSetup,
)
from trainer.planning.memory.correction import OVERHEAD
from trainer.planning.memory.weights import (
    WEIGHTS,
)
from trainer.planning.optimizer_choice import OptimizerChoice
from trainer.planning.row_width import widest
from trainer.planning.samples import MAX_PROMPT, MAX_TOKENS
from trainer.planning.schedule import UNREAD

CUBLAS = 32 * 2**20
TILE_TOKENS, TILE_WIDTH = 4096, 32768
"""Tile of logits that TRL's fused loss holds at once."""
TILE_COPIES = 7
"""Float32 copies of that tile, at most, where torch computes it instead of Triton."""
NOT_ALLOCATED_BY_TORCH = ("optimizer, paged", "CUDA context")
"""Items that torch.cuda.max_memory_allocated() does not count. Paged memory may leave the GPU when it is short."""
TOLERANCE = 0.05
"""Relative error of the estimate, kept free when searching for the largest batch."""
SHORTEST = 8
"""The smallest max_length that a configuration allows."""


@dataclass(frozen=True)
class Estimate:
    """The memory needs of a configuration, for any batch size and length."""

    config: RunConfig
    module_map: ModuleMap
    setup: ActivationSetup
    static: dict[str, int]
    """Bytes held during the whole run, without gradients."""
    optimizer: OptimizerChoice
    gradients: int
    head: int
    """The part of the gradients for a fully trained head, which the loss computes."""
    layers: tuple[ActivationBytes, ...]
    masked: tuple[ActivationBytes, ...]
    """Layers whose attention needs a dense mask."""
    whole_logits: bool
    torch_tiles: bool
    """Without Triton, the fused loss computes its tiles of logits with torch, which copies them."""
    widest: int
    """Outputs of the widest linear of attention or MLP with LoRA."""
    mlp_width: float
    """Elements per token inside an MLP, in all experts that a token passes through."""
    cached_width: int
    """Elements per token of the keys and values of all layers."""
    buffers: int
    """Temporary weights for one matrix product: dequantized, transposed, cast, with DoRA's norm."""
    fp8_width: int
    """Elements per token of the largest input or output that is quantized to FP8."""
    experts: int
    """Dequantized experts of one layer, held while it computes."""
    loading_buffers: int
    """Temporary bytes of a weight while it loads, in addition to the final ones."""
    every_n_layers: int
    """Every n-th layer recomputes its activations; 0 means none."""
    accumulates: bool
    """A step accumulates gradients over several micro-batches."""
    correction: float = 1.0
    """Measured bytes over computed ones, at least 1."""

    def with_performance(self, every_n_layers: int, accumulation: int) -> Estimate:
        """The same estimate with other layers recomputing; whether any do at all must not change."""
        assert (every_n_layers > 0) == (self.every_n_layers > 0)
        return replace(self, every_n_layers=every_n_layers, accumulates=accumulation > 1)

    def items(self, batch: int, length: int) -> dict[str, int]:
        """Bytes by item at the peak, for `batch` rows of `length` tokens."""
        peak = max(self.moments(batch, length), key=lambda moment: sum(moment.values()))
        items = self.static | {name: int(value) for name, value in peak.items()}
        overhead = int((self.correction - 1) * seen_by_torch(items))
        return items | {OVERHEAD: overhead} if overhead else items

    @property
    def loading_peak(self) -> int:
        """Peak bytes while loading, if weights change their format on the way; else 0."""
        held = sum(self.static[item] for item in (*WEIGHTS, "CUDA context"))
        return held + self.loading_buffers if self.loading_buffers else 0

    def total(self, batch: int, length: int) -> int:
        return sum(self.items(batch, length).values())

    def largest(self, room: int) -> dict[str, int]:
        """The largest batch at this max_length, and the largest max_length at batch size 1, that fit into `room`.

        0 if not even the smallest fits.
        """
        training = self.config.training
        room = int(room * (1 - TOLERANCE))

        def fits(rows: int, max_length: int) -> bool:
            return (
                self.total(rows, widest(replace(training, max_length=max_length), self.setup.on_gpu, UNREAD)) <= room
            )

        tokens = _largest_fitting(lambda tokens: fits(1, tokens), self.module_map.max_positions or 1_048_576)
        return {
            "per_device_train_batch_size": _largest_fitting(lambda rows: fits(rows, training.max_length), 4096),
            "max_length": tokens if tokens >= SHORTEST else 0,
        }

    def moments(self, batch: int, length: int) -> list[dict[str, float]]:
        """Forward pass, its end; backward pass, beginning and end; optimizer's step; evaluation; samples; loading."""
        tokens, hidden, width = batch * length, self.module_map.hidden_size, self.setup.width
        layers = self.masked if self.setup.masks(self.config, batch) else self.layers
        sizes = [kept.bytes(batch, length) for kept in layers] or [0.0]
        kept, at_once, one = self._kept(sizes, tokens * hidden * width)
        earlier = self.gradients * self.accumulates
        # a temporary weight is freed before the gradients after its product peak
        work = max(self.buffers, self._passing(tokens)) + self.experts + CUBLAS * self.setup.on_gpu
        work += self._quantizing(tokens)
        ends = tokens * hidden * (FLOAT32 + width)  # the last norm and the head's input
        return [
            {
                "gradients": earlier,
                "activations": kept + ends,
                "logits": self._loss(tokens) + self.head,
                "workspace": CUBLAS * self.setup.on_gpu,
            },
            {"gradients": max(earlier, self.head), "activations": at_once, "workspace": work},
            {"gradients": self.gradients, "activations": one, "workspace": work},
            {"gradients": self.gradients},
            self.evaluation(batch, length),
            self.sampling(length),
            {"loading": max(0, self.loading_peak - sum(self.static.values()))},
        ]

    def evaluation(self, batch: int, length: int) -> dict[str, float]:
        """The peak of an evaluation between two steps: no gradients, and nothing saved for a backward pass.

        It is inside an MLP, or in the loss.
        """
        tokens, hidden, width = batch * length, self.module_map.hidden_size, self.setup.width
        inside, work = self._inside(batch, length)
        if self.whole_logits:
            loss = float(tokens * self.module_map.vocab_size * max(3 * width, 2 * FLOAT32))
        else:  # the training loss without the gradient of the head's input
            loss = self._loss(tokens) - tokens * hidden * FLOAT32
        if inside + work > loss:
            return {"activations": inside, "workspace": work}
        return {"activations": float(tokens * hidden * width), "logits": loss}

    def sampling(self, length: int) -> dict[str, float]:
        """The peak while sample prompts of `length` tokens are answered: like an evaluation, with a KV cache.

        Only the last token's logits are computed.
        """
        rows, width, length = self.config.training.samples, self.setup.width, min(length, MAX_PROMPT)
        if not rows:
            return {}
        inside, work = self._inside(rows, length)
        cache = rows * (length + MAX_TOKENS) * self.cached_width * width
        return {"activations": inside, "workspace": work, "KV cache": float(cache)}

    def _inside(self, batch: int, length: int) -> tuple[float, float]:
        """Activations and workspace inside an MLP, without gradients."""
        tokens, hidden, width = batch * length, self.module_map.hidden_size, self.setup.width
        casts = 2 * FLOAT32 * (width < FLOAT32)  # PEFT casts the input of LoRA
        # LoRA's output is scaled and added, each time as a new tensor of the linear's size
        inside = tokens * (hidden * (3 * width + casts) + width * max(4 * self.mlp_width, 3 * self.widest))
        inside += batch * length**2 * (1 + width) * self.setup.masks(self.config, batch)
        work = self.buffers + self.experts + CUBLAS * self.setup.on_gpu + self._quantizing(tokens)
        return float(inside), float(work)

    def _kept(self, sizes: list[float], entering: int) -> tuple[float, float, float]:
        """Bytes of activations after the forward pass, at the later peak, and of the largest layer.

        A layer that recomputes saves its input (a norm saves a float32 input itself) and is held completely while the
        backward pass is in it; later layers are freed by then.
        """
        sofar, most = 0.0, 0.0
        own_input = entering if self.setup.width == FLOAT32 else 0
        for number, size in enumerate(sizes):
            if self.every_n_layers and number % self.every_n_layers == 0:
                sofar += entering
                most = max(most, sofar + size - own_input)
            else:
                sofar += size
        return sofar, max(most, sofar), max(sizes)

    def _passing(self, tokens: int) -> float:
        """Activation gradients while passing a layer: hidden states and the MLP's intermediate."""
        width = self.setup.width
        widened = self.module_map.forward.activation_bytes > 2 * width  # its inside is float32, and so are gradients
        inside = 3 * self.mlp_width * (FLOAT32 if widened else width)
        return float(tokens * (2 * self.module_map.hidden_size * FLOAT32 + inside))

    def _quantizing(self, tokens: int) -> int:
        """Values that FP8 linears quantize: scaled, divided, and in FP8."""
        return tokens * self.fp8_width * (2 * self.setup.width + 1)

    def _loss(self, tokens: int) -> float:
        width, hidden, vocabulary = self.setup.width, self.module_map.hidden_size, self.module_map.vocab_size
        if self.whole_logits:
            return float(tokens * vocabulary * 3 * FLOAT32)
        rows, written = min(tokens, TILE_TOKENS), min(vocabulary, TILE_WIDTH)
        held = TILE_WIDTH if self.setup.on_gpu else written  # on a CPU, memory counts once written to
        tile = rows * (held * width + written * TILE_COPIES * FLOAT32 * self.torch_tiles)
        return float(tile + tokens * hidden * (FLOAT32 + width))


def seen_by_torch(items: dict[str, int]) -> int:
    """The part that torch.cuda.max_memory_allocated() counts, for comparison with a measurement."""
    return sum(value for name, value in items.items() if name not in NOT_ALLOCATED_BY_TORCH)


def _largest_fitting(fits: object, bound: int) -> int:
    """The largest integer up to `bound` that fits; 0 if not even 1 does."""
    assert callable(fits)
    low, high = 0, bound + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
