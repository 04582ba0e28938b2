"""Reads, checks, renders, tokenizes and splits training data, and reports on it.

check (each row becomes an example or a reason) -> tokenize (token ids and loss mask) -> prepare (training and
held-out split). Each step is cached by content and settings.
"""
