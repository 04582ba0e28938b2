"""Training behind the page: configuration, module map, plan, runs, worker. Never imports gradio or plotly."""
