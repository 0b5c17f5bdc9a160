"""The paper's experiments: what is trained, what was published, what our rows say of its claims; makes no number."""
