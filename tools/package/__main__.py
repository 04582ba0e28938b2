"""`python -m lora_module_lab`: the same as `lora-lab`."""

import sys

from lora_module_lab import main

if __name__ == "__main__":
    sys.exit(main())
