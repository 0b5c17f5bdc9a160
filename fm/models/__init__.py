"""The networks: every one is called `model(x, t, y=None)` and returns a tensor like x; built with `jumps`, it is
called `model(x, t, y=None, h=None)`.

`AnyModel` is the union that a recipe chooses from; its members build the network for the data at hand. The rest of fm
asks of a network nothing but this call and its `classes`.
"""

from typing import Annotated

from pydantic import Field

from fm.models.mlp import MLP, MLPSettings
from fm.models.unet import UNet, UNetSettings

AnyModel = Annotated[UNetSettings | MLPSettings, Field(discriminator="kind")]

__all__ = ["MLP", "AnyModel", "MLPSettings", "UNet", "UNetSettings"]
