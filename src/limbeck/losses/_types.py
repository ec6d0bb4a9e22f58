"""Shapes of the tensors of losses, checked at run time by jaxtyping where it is enabled."""

from typing import TypeAlias

from jaxtyping import Bool, Float, Integer
from torch import Tensor

Logits: TypeAlias = Float[Tensor, "elements classes"]
Labels: TypeAlias = Integer[Tensor, " elements"]
SoftLabels: TypeAlias = Integer[Tensor, " elements"] | Float[Tensor, "elements classes"]
PerElement: TypeAlias = Float[Tensor, " elements"]

Distances: TypeAlias = Float[Tensor, "elements 4"]

Features: TypeAlias = Float[Tensor, "samples ..."]
Maps: TypeAlias = Float[Tensor, "samples _ _ _"]
PerSample: TypeAlias = Float[Tensor, " samples"]

States: TypeAlias = Float[Tensor, "elements *tokens features"]
Mask: TypeAlias = Bool[Tensor, "samples tokens"]

Scalar: TypeAlias = Float[Tensor, ""]
