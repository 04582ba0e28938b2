"""Everything but the page: configuration, module map, plan, runs, training. Never imports gradio or plotly."""

import logging

__version__ = "0.2.0.dev0"

# on import, it asks for a hub kernel that only speeds up inference
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
