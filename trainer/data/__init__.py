"""Examples: read, checked, told apart, rendered, tokenized, split; and an account of all of it.

check (a row: an example or a reason) -> tokens (what the model reads, and what of it counts) -> prepare (what
trains, what is held out). Each step is made once per content and settings, and kept in the cache.
"""

from trainer.data.checking import Bad, Checked, check
from trainer.data.preparation import Look, Part, Prepared, look, prepare

__all__ = ["Bad", "Checked", "Look", "Part", "Prepared", "check", "look", "prepare"]
