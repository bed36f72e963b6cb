"""What the readers of families with attention in every layer have in common.

A `Decoder` reads the sizes of attention, and says for each layer which keys a query sees. A family
states its own keys, the biases and norms of its attention, and its feed-forward part.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from attacc.models.architecture import divisors
from attacc.models.feedforward import AnyFeedForward, Dense
from attacc.models.layers import Draft, Layer, LayeredModel
from attacc.models.mixers import Attention, Size
from attacc.models.readers.base import Family, LayerCount, model, one_for_each
from attacc.units import MAX_SIZE

Count = Annotated[int, Field(ge=0, le=MAX_SIZE)]
Narrow = Annotated[int, Field(gt=0, le=MAX_SIZE // 4)]
"""A hidden size from which a width four times as large follows."""
Flags = tuple[Literal[0, 1], ...]
"""A list that says something of each layer: 1 for yes, 0 for no."""

FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"
CHUNKED: Final = "chunked_attention"
LayerTypes = tuple[Literal["full_attention", "sliding_attention", "chunked_attention"], ...]
Window = int | None


def nearest(number: int, divisor: int) -> str:
    """Return the two divisors of a number that are nearest to another number, in words."""
    return ", ".join(map(str, sorted(divisors(number), key=lambda d: abs(d - divisor))[:2]))


def split_evenly(whole: tuple[str, int], parts: tuple[str, int]) -> int:
    """Return the size of one part.

    Args:
        whole: key and value of the size that is split.
        parts: key and value of the number of parts.

    Raises:
        ValueError: a rest would remain.
    """
    if whole[1] % parts[1]:
        raise ValueError(
            f"{parts[0]} = {parts[1]} does not divide {whole[0]} = {whole[1]}: "
            f"the nearest that do are {nearest(whole[1], parts[1])}"
        )
    return whole[1] // parts[1]


def visits_existing(chosen: tuple[str, int], experts: tuple[str, int]) -> None:
    """Check that a token visits no more experts than there are.

    Args:
        chosen: key and value of the number of experts that a token visits.
        experts: key and value of the number of experts.

    Raises:
        ValueError: there are fewer.
    """
    if chosen[1] > experts[1]:
        raise ValueError(
            f"{chosen[0]} = {chosen[1]} is more than {experts[0]} = {experts[1]}: "
            f"use 1 to {experts[1]}"
        )


def either(first: str, one: int | None, second: str, other: int | None) -> int:
    """Return a size that two keys may state.

    Raises:
        ValueError: neither states it, or they disagree.
    """
    if one is None and other is None:
        raise ValueError(f"missing key '{first}': add it, or {second}")
    if one is not None and other is not None and one != other:
        raise ValueError(f"{first} = {one} and {second} = {other} disagree: remove one of them")
    return one or other or 0


def one_by_type(types: LayerTypes, window: Window, layers: int) -> tuple[Window, ...]:
    """Return the window of each layer from a list of kinds.

    Raises:
        ValueError: a layer has a window of no size, or the list is of another length.
    """
    entries = one_for_each("layer_types", types, layers)
    if SLIDING in entries and window is None:
        raise ValueError(
            f"layer_types names {SLIDING}, and sliding_window is null: give the window, "
            f"or name {FULL} alone"
        )
    return tuple(window if entry == SLIDING else None for entry in entries)


class Decoder(Family):
    """A family whose layers have attention, with the keys that most of these families share.

    Attributes:
        head_dim: elements of a head; the hidden size over the heads where it is absent or null.
        layer_types: what each layer sees; it must agree with the other keys.
    """

    hidden_size: Size
    num_hidden_layers: LayerCount
    num_attention_heads: Size
    # Where the key is absent the library's defaults differ by family, and most of them are those of
    # one model, so that only some families have one. Null means as many as query heads everywhere.
    num_key_value_heads: Size | None
    head_dim: Size | None = None
    max_position_embeddings: Size | None = None
    layer_types: LayerTypes | None = None

    family: ClassVar[str]
    """The name in listings."""
    norms: ClassVar[int] = 2
    """Norms of a layer."""
    parallel: ClassVar[bool] = False
    """Whether attention and feed-forward part read the same input."""
    norm_bias: ClassVar[bool] = False
    """Whether norms have biases."""

    @model_validator(mode="after")
    def _has_whole_heads(self) -> Self:
        heads = self.num_attention_heads
        usual = type(self).model_fields["head_dim"].default
        if self.head_dim is None and usual is not None:
            # The library refuses null where its default is a number.
            raise ValueError(
                f"head_dim is null, and the family's heads have {usual} elements where the key is "
                "absent: give the number, or remove the key"
            )
        if self.head_dim is None:
            split_evenly(("hidden_size", self.hidden_size), ("num_attention_heads", heads))
        if heads % self.kv_heads:
            raise ValueError(
                f"num_key_value_heads = {self.kv_heads} does not divide "
                f"num_attention_heads = {heads}: the nearest that do are "
                f"{nearest(heads, self.kv_heads)}"
            )
        return self

    @model_validator(mode="after")
    def _layer_types_agree(self) -> Self:
        if self.layer_types is None:
            self.windows()  # checks the keys that it reads
            return self
        types = one_for_each("layer_types", self.layer_types, self.num_hidden_layers)
        windows = self.windows()
        stated = [entry == SLIDING for entry in types]
        if CHUNKED in types or stated != [window is not None for window in windows]:
            shown = ", ".join(dict.fromkeys(types))
            used = ", ".join(dict.fromkeys(str(window or "not in use") for window in windows))
            raise ValueError(
                f"layer_types names {shown}, while by the other keys of the family "
                f"{self.family!r} the window is {used}: correct one of the keys, or remove the key"
            )
        return self

    @property
    def kv_heads(self) -> int:
        """Key/value heads."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def dim(self) -> int:
        """Elements of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def windows(self) -> tuple[Window, ...]:
        """Return for each layer how many keys a query sees at most; None for all.

        Raises:
            ValueError: the keys contradict one another.
        """
        return (None,) * self.num_hidden_layers

    def attention(self, window: Window, **more: Any) -> Attention:
        """Return attention of these heads.

        Args:
            window: keys that a query sees at most; None for all.
            more: further fields of `Attention`.
        """
        sizes: dict[str, Any] = {
            "heads": self.num_attention_heads,
            "kv_heads": self.kv_heads,
            "head_dim": self.dim,
            "window": window,
        }
        return Attention(**(sizes | more))

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer with this window, its biases and norms included."""
        return self.attention(window)

    @abstractmethod
    def feed_forward(self, number: int) -> AnyFeedForward:
        """Return the feed-forward part of a layer, by its number from 0."""

    def layer(self, number: int, window: Window) -> Layer:
        """Return a layer, by its number from 0 and its window."""
        return Layer(
            mixer=self.mixer(window),
            feed_forward=self.feed_forward(number),
            norms=self.norms,
            parallel=self.parallel,
        )

    def drafting(self) -> Draft | None:
        """Return the layers for drafting; None where the weights have none."""
        return None

    def remarks(self) -> tuple[str, ...]:
        """Return what the reader of the description should know."""
        return ()

    def outside(self) -> dict[str, Any]:
        """Return further fields of `LayeredModel`."""
        return {}

    def described(self, *, tied: bool) -> LayeredModel:
        """Return the model (`Family.described`)."""
        return model(
            family=self.family,
            hidden=self.hidden_size,
            vocabulary=self.vocab_size,
            tied=tied,
            layers=[self.layer(i, window) for i, window in enumerate(self.windows())],
            norm_bias=self.norm_bias,
            max_context=self.max_position_embeddings,
            draft=self.drafting(),
            notes=self.remarks(),
            **self.outside(),
        )


class Patterned(Decoder):
    """A family in which layers that see a window stand between layers that see everything.

    Attributes:
        layer_types: what each layer sees; without it, the last layer of each period is full.
    """

    sliding_window: Size | None

    @abstractmethod
    def period(self) -> int:
        """Return of how many layers the last one is full; 0 where all are."""

    def default_types(self) -> LayerTypes:
        """Return what each layer sees where the file has no list."""
        every = self.period() if self.sliding_window is not None else 0
        return tuple(
            SLIDING if every and (i + 1) % every else FULL for i in range(self.num_hidden_layers)
        )

    def windows(self) -> tuple[Window, ...]:
        """Return how many keys a query sees in each layer (`Decoder.windows`)."""
        types = self.default_types() if self.layer_types is None else self.layer_types
        return one_by_type(types, self.sliding_window, self.num_hidden_layers)


class GatedDecoder(Decoder):
    """A family with one gated block of SiLU in each layer."""

    intermediate_size: Size
    hidden_act: Literal["silu"] = "silu"

    def feed_forward(self, number: int) -> AnyFeedForward:  # noqa: ARG002 - all are alike
        """Return the feed-forward part (`Decoder.feed_forward`)."""
        return Dense(width=self.intermediate_size)


def agree(key: str, stated: Sequence[object] | None, found: Sequence[object], other: str) -> None:
    """Check that a list says of each layer what another key says.

    Args:
        key: the name of the list.
        stated: the list; None where the file has none.
        found: what the other key says.
        other: its name.

    Raises:
        ValueError: they disagree.
    """
    if stated is None:
        return
    entries = one_for_each(key, stated, len(found))
    for i, (entry, expected) in enumerate(zip(entries, found, strict=True)):
        if entry != expected:
            raise ValueError(
                f"{key} has {entry!r:.40} for layer {i}, where {other} means {expected!r:.40}: "
                "correct one of them, or remove one"
            )
