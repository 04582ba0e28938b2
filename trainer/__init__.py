"""Training behind the page: configuration, module map, plan, runs, worker. Never imports gradio or plotly."""

import logging

__version__ = "0.2.0.dev0"

# it asks, at its import, for a kernel of the hub that speeds up inference alone
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
