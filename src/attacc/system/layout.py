"""How a model is laid out over the GPUs of a system.

The GPUs of a system are dealt out to replicas, each with a whole copy of the model. Within a
replica all GPUs share every product. Attention may instead be shared by groups of them, each with
requests of its own, and experts may be kept whole, each on one part of the GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

from attacc.errors import InputError
from attacc.hardware.system import MAX_DEVICES
from attacc.models.sharding import Split
from attacc.units import whole


@dataclass(frozen=True, slots=True, order=True)
class Layout:
    """A layout of a model over GPUs.

    Attributes:
        tp: GPUs of one replica, which share every layer of it (tensor parallelism).
        replicas: copies of the model, with requests of their own.
        ep: parts into which the GPUs of a replica are dealt out for experts: each part keeps its
            own experts, and its GPUs split each of them (expert parallelism); 1 splits all experts
            over all GPUs.
        dp: groups into which the GPUs of a replica are dealt out for the mixers: each group has the
            requests of its own, and its GPUs split the heads (attention data parallelism).
    """

    tp: int
    replicas: int = 1
    ep: int = 1
    dp: int = 1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: a number is out of range, or a part does not divide the GPUs of a replica.
        """
        for field in fields(self):
            where = f"layout: {field.name}"
            value = whole(getattr(self, field.name), where=where)
            if value > MAX_DEVICES:
                raise InputError(
                    f"{value:,} is out of range", where=where, hint=f"use 1 to {MAX_DEVICES:,}"
                )
            if field.name in ("ep", "dp") and self.tp % value:
                raise InputError(
                    f"{value} parts do not divide the {self.tp} GPUs of a replica",
                    where=where,
                    hint="use a divisor of tp",
                )

    @property
    def gpus(self) -> int:
        """GPUs of all replicas."""
        return self.tp * self.replicas

    @property
    def split(self) -> Split:
        """How the GPUs of a replica share its layers."""
        return Split(self.tp, mixer_groups=self.dp, expert_parts=self.ep)

    def __str__(self) -> str:
        """Return the text that `parse` reads: "tp=4,replicas=2"."""
        more = [f"{name}={getattr(self, name)}" for name in ("ep", "dp") if getattr(self, name) > 1]
        return ",".join([f"tp={self.tp}", f"replicas={self.replicas}", *more])

    @classmethod
    def parse(cls, text: str, *, where: str = "layout") -> Self:
        """Return the layout that a text names.

        Args:
            text: as in "tp=4,replicas=2" or "tp=8,ep=8,dp=8"; what is not named is 1.
            where: the option or field that the text came from, for messages.

        Raises:
            InputError: the text is malformed, or as in `Layout`.
        """
        found = cls.stated(text, where=where)
        if "tp" not in found:
            raise InputError(
                f"{text!r:.80} does not say how many GPUs a replica has",
                where=where,
                hint="write tp=4,replicas=2, say",
            )
        return cls(**found)

    @classmethod
    def stated(cls, text: str, *, where: str = "layout") -> dict[str, int]:
        """Return the numbers that a text states, by name.

        Args:
            text: as in `parse`.
            where: as in `parse`.

        Raises:
            InputError: the text is malformed.
        """
        names = [field.name for field in fields(cls)]
        found: dict[str, int] = {}
        for item in text.split(","):
            name, _, value = (part.strip() for part in item.partition("="))
            known = name in names and name not in found
            if not known or not value.isdecimal() or not 1 <= int(value) <= MAX_DEVICES:
                raise InputError(
                    f"{text!r:.80} is no layout",
                    where=where,
                    hint=f"write tp=4,replicas=2; the names are {', '.join(names)}, each once, "
                    f"with numbers from 1 to {MAX_DEVICES:,}",
                )
            found[name] = int(value)
        return found
