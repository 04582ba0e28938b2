"""Reads, checks, renders, tokenizes and splits training data, and reports on it.

check (each row becomes an example or a reason) -> tokenize (token ids and loss mask) -> prepare (training and
held-out split). Each step is cached by content and settings.
"""

import os

# mimalloc, Arrow's default, reserves 1 GiB of addresses at once: no limit could tell what a file really takes
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
