"""What the readers of all families have in common.

A `Family` is a closed table: its fields are the keys of a ``config.json`` that it uses, under their
own names and with the defaults of the transformers library, where the library treats a key as
optional. ``harmless`` lists further keys that are known to change nothing for the family. Any other
key whose name tells that it may change the answer is refused
(`attacc.models.contradictions.refuse_foreign_parts`). A family describes itself as a
`LayeredModel`.

Multimodal files hold their language part in ``text_config``. A `Wrapper` lists the keys around it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, TypeVar

from pydantic import ConfigDict, Field

from attacc.documents import Spec
from attacc.models.layers import MAX_LAYERS, Layer, LayeredModel
from attacc.models.mixers import Size

L = TypeVar("L")

LayerCount = Annotated[int, Field(gt=0, le=MAX_LAYERS)]
"""How many layers a model has."""

HARMLESS: Final = frozenset({"num_logits_to_keep", "expert_layer_offset"})
"""Keys that change nothing in any family, and whose names look as if they did."""


class Family(Spec, ABC):
    """The keys of one family that decide what it computes and stores.

    Attributes:
        vocab_size: rows of the embedding table.
    """

    # The files have keys such as model_type, in a namespace that pydantic protects.
    model_config = ConfigDict(extra="ignore", protected_namespaces=(), populate_by_name=True)

    vocab_size: Size

    classes: ClassVar[tuple[str, ...]]
    """What the names of the family's classes begin with, as in "Llama"."""
    harmless: ClassVar[frozenset[str]] = frozenset()
    """Keys that change nothing for this family, and that look as if they did."""
    tied: ClassVar[bool] = False
    """Whether the output head is the embedding table where the file does not say."""

    @abstractmethod
    def described(self, *, tied: bool) -> LayeredModel:
        """Return the model; its name, sources and element types are filled in by the caller.

        Args:
            tied: whether the output head is the embedding table.
        """


class Wrapper(Spec):
    """A multimodal file: the keys around its language part.

    Attributes:
        families: model types that its ``text_config`` may state; the first where it states none.
        classes: what the names of its classes begin with.
        tied: whether the output head is the embedding table where neither the file nor its
            language part says; None for the family's own default.
        harmless: keys around the language part that change nothing, and look as if they did.
        vision_keys: keys that hold what sees pictures.
    """

    families: tuple[str, ...]
    classes: tuple[str, ...]
    tied: bool | None = None
    harmless: frozenset[str] = frozenset()
    vision_keys: tuple[str, ...] = ("vision_config",)


def runs(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Return layers with equal ones in a row stated once.

    Args:
        layers: in order, with any numbers of repeats.
    """
    found: list[Layer] = []
    for layer in layers:
        if found and found[-1].model_copy(update={"repeat": layer.repeat}) == layer:
            together = found[-1].repeat + layer.repeat
            found[-1] = found[-1].model_copy(update={"repeat": together})
        else:
            found.append(layer)
    return tuple(found)


def one_for_each(key: str, entries: Sequence[L], layers: int, *, more: int = 0) -> Sequence[L]:
    """Return a list that has one entry for each layer.

    Args:
        key: its name, for messages.
        entries: of the file.
        layers: how many layers there are.
        more: entries that may follow, as those of draft layers; they are cut off.

    Raises:
        ValueError: there are fewer or more.
    """
    if not layers <= len(entries) <= layers + more:
        raise ValueError(
            f"{key} has {len(entries)} entries, and the model {layers} layers: "
            "give one entry per layer, or remove the key"
        )
    return entries[:layers]


def needed(key: str, value: L | None, why: str) -> L:
    """Return the value of a key that some models of a family need, and others do not.

    Args:
        key: its name, for messages.
        value: of the file; None where it has none.
        why: what needs it, as in "the model has experts".

    Raises:
        ValueError: the file does not state it.
    """
    if value is None:
        raise ValueError(f"{key} is missing, and {why}: add {key}")
    return value


def head_size(hidden: int, heads: int) -> int:
    """Return the elements of a head, which the file leaves to be derived.

    Raises:
        ValueError: the heads do not divide the hidden size.
    """
    if hidden % heads:
        raise ValueError(f"num_attention_heads = {heads} does not divide hidden_size = {hidden}")
    return hidden // heads


def model(
    *, family: str, hidden: int, vocabulary: int, tied: bool, layers: Iterable[Layer], **more: Any
) -> LayeredModel:
    """Return a model whose name the caller fills in.

    Args:
        family: for listings.
        hidden: elements of the residual stream.
        vocabulary: rows of the embedding table.
        tied: whether the output head is the embedding table.
        layers: in order; equal ones in a row are stated once here.
        more: further fields of `LayeredModel`.
    """
    return LayeredModel(
        name=family,
        family=family,
        hidden_size=hidden,
        vocab_size=vocabulary,
        tied_embeddings=tied,
        layers=runs(layers),
        **more,
    )


Document = Mapping[str, object]
"""A ``config.json``, or a table of it."""
