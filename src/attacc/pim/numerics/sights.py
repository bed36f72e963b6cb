"""Which keys of the chunks of requests the queries of new tokens see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attacc.pim.mapping.ring import NewTokens

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ChunkSights:
    """Which keys of chunks the queries see (`attacc.pim.numerics.execute.Sight`).

    Attributes:
        ages: (chunks, 2) age of each chunk's first key, and number of ages.
        seen: (chunks, queries, 2) least age that each query sees, and one past the greatest.
    """

    ages: I64
    seen: I64

    @classmethod
    def of(
        cls,
        owners: I64,
        starts: I64,
        *,
        heads: int,
        held: Sequence[int],
        oldest: Sequence[int],
        tokens: NewTokens,
        group: int,
    ) -> ChunkSights:
        """Return what the queries of new tokens see.

        Args:
            owners: (chunks,) the head that each chunk belongs to, request by request.
            starts: (chunks,) place of the first key of each chunk.
            heads: key/value heads of a request.
            held: keys that are stored of each request.
            oldest: place of the oldest of them.
            tokens: the new tokens, and the window within which they see.
            group: queries of a token that share a head.
        """
        of_request = owners // heads
        stored = np.array(held, dtype=np.int64)[of_request]
        ages = (starts - np.array(oldest, dtype=np.int64)[of_request]) % stored
        seen = np.array([tokens.seen(keys) for keys in held], dtype=np.int64)
        return cls(np.stack([ages, stored], axis=1), np.repeat(seen, group, axis=1)[of_request])
