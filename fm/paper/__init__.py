"""The paper's experiments: what is trained, what it published, and what our rows say of its claims; no number is made here."""
