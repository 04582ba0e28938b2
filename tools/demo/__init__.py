"""How the bundled demo is made: `python -m tools.demo.build` makes its model and data again from nothing."""
