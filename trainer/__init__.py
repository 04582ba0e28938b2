"""Training behind the page: configuration, module map, plan, runs, worker. Never imports gradio or plotly."""

import logging

# it asks, at its import, for a kernel of the hub that speeds up inference alone
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
