"""Training: load, attach, verify, train, save."""
