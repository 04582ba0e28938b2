"""Reads, checks, renders, tokenizes and splits training data, and reports on it.

check (each row becomes an example or a reason) -> tokenize (token ids and loss mask) -> prepare (training and
held-out split). Each step is cached by content and settings.
"""

from trainer.data.checking import CheckedData, RejectedRow, check
from trainer.data.preparation import DataSplit, LoadedData, PreparedData, load_data, prepare

__all__ = ["CheckedData", "DataSplit", "LoadedData", "PreparedData", "RejectedRow", "check", "load_data", "prepare"]
