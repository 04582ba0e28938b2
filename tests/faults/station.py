"""python -m tests.faults.station RUNS MODELS: the app without its page, in a process that can be killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from trainer.service.lab import Lab, Settings

if __name__ == "__main__":
    lab = Lab(Settings(runs_dir=Path(sys.argv[1]), models_dir=Path(sys.argv[2])))
    lab.scheduler.start()
    print("ready", flush=True)
    while True:
        time.sleep(60)
