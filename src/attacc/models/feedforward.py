"""Feed-forward parts of a layer: one block for every token, or experts that a router chooses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from attacc.documents import Spec
from attacc.models.mixers import Size
from attacc.models.weights import Part, Weight, linear, vector
from attacc.units import MAX_SIZE


class FeedForwardPart(Spec, ABC):
    """What a layer does with each token by itself."""

    @abstractmethod
    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Return the weights, for a residual stream of so many elements."""

    @property
    def visited_share(self) -> float:
        """Share of the experts that one token visits; 1 without experts."""
        return 1.0


def _block(
    name: str, part: Part, inputs: int, width: int, *, gated: bool, bias: bool, count: int = 1
) -> tuple[Weight, ...]:
    """Return the matrices of a block: gate and up, or up alone, and down."""
    widenings = ("gate_proj", "up_proj") if gated else ("up_proj",)
    found = [linear(f"{name}.{one}", part, inputs, width, count=count) for one in widenings]
    found.append(linear(f"{name}.down_proj", part, width, inputs, count=count))
    if bias:
        found.append(vector(f"{name}.bias", part, len(widenings) * width + inputs, count=count))
    return tuple(found)


class Dense(FeedForwardPart):
    """One block for every token.

    Attributes:
        width: elements between the matrices.
        gated: three matrices (gate, up, down) rather than two (up, down).
        activation: name of the non-linear function, for listings.
        bias: the matrices have biases.
    """

    kind: Literal["dense"] = "dense"
    width: Size
    gated: bool = True
    activation: str = "silu"
    bias: bool = False

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Return the weights (`FeedForwardPart.weights`)."""
        return _block(
            "mlp", Part.FEED_FORWARD, hidden, self.width, gated=self.gated, bias=self.bias
        )


class Mixture(FeedForwardPart):
    """Experts, of which a router chooses some for each token.

    Attributes:
        experts: how many there are.
        experts_per_token: how many a token visits, shared ones apart.
        width: elements between the matrices of an expert.
        gated: experts have three matrices rather than two.
        activation: name of the non-linear function, for listings.
        bias: the matrices of experts have biases.
        router_bias: the router has biases.
        shared_width: elements between the matrices of the expert that every token visits, or of
            all such experts together; 0 for none.
        shared_gate: the output of the shared expert is scaled by a number, from a vector.
        dense: a block beside the experts, for every token, whose output is added (Gemma 4).
        latent: elements that tokens are projected to before the experts, and back after them; None
            for the whole residual stream.
        latent_norm: a norm of so many elements stands before the projection back.
        scales: numbers by which the router scales its input, and each expert its output (Gemma 4).
    """

    kind: Literal["experts"] = "experts"
    experts: Size
    experts_per_token: Size
    width: Size
    gated: bool = True
    activation: str = "silu"
    bias: bool = False
    router_bias: bool = False
    shared_width: Annotated[int, Field(ge=0, le=MAX_SIZE)] = 0
    shared_gate: bool = False
    dense: Dense | None = None
    latent: Size | None = None
    latent_norm: bool = False
    scales: bool = False

    @property
    def here(self) -> int:
        """Experts whose weights are here."""
        return self.experts

    @model_validator(mode="after")
    def _visits_existing_ones(self) -> Mixture:
        if self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token = {self.experts_per_token} is more than "
                f"experts = {self.experts}: use 1 to {self.experts}"
            )
        return self

    @property
    def visited_share(self) -> float:
        """Share of the experts that one token visits."""
        return self.experts_per_token / self.experts

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Return the weights (`FeedForwardPart.weights`)."""
        inputs = self.latent or hidden
        found = [linear("mlp.gate", Part.ROUTER, hidden, self.experts)]
        if self.router_bias:
            found.append(vector("mlp.gate.bias", Part.ROUTER, self.experts))
        if self.scales:
            found.append(vector("mlp.gate.scale", Part.ROUTER, hidden + self.experts))
        found += _block(
            "mlp.experts.*", Part.EXPERTS, inputs, self.width,
            gated=self.gated, bias=self.bias, count=self.here,
        )  # fmt: skip
        if self.shared_width:
            found += _block(
                "mlp.shared_experts", Part.SHARED, hidden, self.shared_width,
                gated=self.gated, bias=False,
            )  # fmt: skip
        if self.shared_gate:
            found.append(linear("mlp.shared_expert_gate", Part.ROUTER, hidden, 1))
        if self.dense is not None:
            found += self.dense.weights(hidden)
        if self.latent is not None:
            found += [
                linear("mlp.latent_in", Part.SHARED, hidden, self.latent),
                linear("mlp.latent_out", Part.SHARED, self.latent, hidden),
            ]
            if self.latent_norm:
                found.append(vector("mlp.latent_norm", Part.SHARED, self.latent))
        return tuple(found)


class MixtureShare(Mixture):
    """The share of one device of experts that are dealt out to several; in no document.

    Attributes:
        held: experts whose weights are here.
    """

    held: Size

    @property
    def here(self) -> int:
        """Experts whose weights are here."""
        return self.held


class LinearBlock(FeedForwardPart):
    """A single matrix in place of the block (Llama-Nemotron)."""

    kind: Literal["linear"] = "linear"

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Return the weights (`FeedForwardPart.weights`)."""
        return (linear("mlp.linear_mlp", Part.FEED_FORWARD, hidden, hidden),)


AnyFeedForward = Annotated[Dense | Mixture | LinearBlock, Field(discriminator="kind")]
