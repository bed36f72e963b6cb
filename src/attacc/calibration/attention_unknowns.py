"""Unknown coefficients of attention over heads of keys and values, with all keys or in a window."""

from __future__ import annotations

from typing import Final

from attacc.calibration.problems import Unknown, around

DECODE_UNKNOWNS: Final = (
    around(7000.0, 5.0),
    around(1500.0),
    around(500.0),
    around(60.0),
    around(1.0, 50.0),
    Unknown(0.5, 0.05, 1.0),
    around(50.0, 20.0),
    Unknown(0.9, 0.6, 1.0),
    Unknown(0.8, 0.2, 2.5),
    around(15000.0, 20.0),
    around(60e6, 8.0),
    around(40.0, 4.0),
    around(2000.0),
    around(15.0),
    around(64.0, 5.0),
    Unknown(1.0, 1.0, 2.0),
    around(2000.0, 20.0),
    Unknown(1.0, 0.5, 1.5),
    Unknown(3.0, 1.2, 8.0),
)
"""Unknowns in the order of `DecodeCoefficients`."""
PREFILL_UNKNOWNS: Final = (
    around(8000.0, 5.0),
    around(1500.0),
    Unknown(128.0, 127.9, 128.1),
    around(5.0, 20.0),
    around(5.0, 20.0),
    around(5.0, 20.0),
    Unknown(0.5, 0.1, 1.0),
    Unknown(0.6, 0.1, 1.0),
    Unknown(0.6, 0.1, 1.0),
    Unknown(0.6, 0.1, 1.0),
    Unknown(0.7, 0.2, 2.5),
    Unknown(1.0, 0.3, 4.5),
    Unknown(0.7, 0.1, 5.0),
    Unknown(0.9, 0.5, 1.0),
    around(1e6),
)
"""Unknowns in the order of `PrefillCoefficients`."""
WIDENED_KV_PASSES: Final = Unknown(2.0, 0.3, 12.0)
"""How often keys and values cross the memory interface, where they are first widened."""
SCALAR_SHARE: Final = Unknown(0.03, 0.003, 1.0)
"""Share of the peak rate of small tiles, which are not computed by whole tensor cores."""
