"""What each module earned in a run: path attribution, each kind switched off and alone, the energy of its output."""
