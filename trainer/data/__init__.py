"""Examples: read, checked, told apart, rendered, tokenized, split; and an account of all of it.

check (a row: an example or a reason) -> tokens (what the model reads, and what of it counts) -> prepare (what
trains, what is held out). Each step is made once per content and settings, and kept in the cache.
"""

from trainer.data.checking import CheckedData, RejectedRow, check
from trainer.data.preparation import DataSplit, LoadedData, PreparedData, load_data, prepare

__all__ = ["CheckedData", "DataSplit", "LoadedData", "PreparedData", "RejectedRow", "check", "load_data", "prepare"]
