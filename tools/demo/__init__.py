"""Makes the bundled demo: `python -m tools.demo.build` rebuilds its model and data from scratch."""
