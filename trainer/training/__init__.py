"""Training: load, attach, verify, train, save."""

import trainer.models.bitsandbytes_import  # noqa: F401  before PEFT imports bitsandbytes
