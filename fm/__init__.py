"""Flow Matching (Lipman et al. 2023): paths, objectives, solvers, likelihood, exact data order, training, evaluation.

`fm.load(RUN)` is the door: `fm.load("runs/demo").sample(16, seed=0, nfe=32)`.
"""

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Lazily, so that `import fm.errors` costs no torch.
    if name == "load":
        from fm.recipe import load

        return load
    raise AttributeError(f"module 'fm' has no attribute {name!r}")
