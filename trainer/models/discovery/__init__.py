"""Model discovery: a config → its modules, by kind."""

import trainer.models.bitsandbytes_import  # noqa: F401  before PEFT imports bitsandbytes
