"""An example becomes tokens: the text that the chat template makes of it, and which tokens the loss counts."""
