"""What the miniature of the paper's comparison showed."""
