"""What a recipe will cost on this machine, said before it is spent: measured steps, then arithmetic."""
