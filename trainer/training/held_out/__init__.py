"""What is measured while a run trains: answers to held-out prompts, their scores, the loss on general text."""
