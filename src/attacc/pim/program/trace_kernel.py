"""Reads the text form of a program, compiled; see `attacc.pim.program.trace` for the format."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attacc.compiled import kernel

U8 = npt.NDArray[np.uint8]
I16 = npt.NDArray[np.int16]
I64 = npt.NDArray[np.int64]

OK = 0
UNKNOWN_KIND = 1
BAD_ADDRESS = 2
ADDRESS_TOO_LARGE = 3
TRAILING_TEXT = 4

SPACE = 32
TAB = 9
RETURN = 13
NEWLINE = 10
ZERO = 48
NINE = 57
LOWER_A = 97
LOWER_F = 102
LOWER_X = 120
LOWER = 32
"""Bit that makes an ASCII letter lower case."""


@kernel
def parse_lines(
    text: U8, names: U8, name_lengths: I64, kinds: U8, channel_bit: int, end_bit: int,
    kind: U8, address: I64, first_channel: I16, channels: I16,
) -> tuple[int, int, int]:  # fmt: skip
    """Parse lines of ``KIND 0xADDRESS`` into steps.

    A line that repeats its predecessor on the next channel extends that step.

    Args:
        text: (bytes,) the file.
        names: (kinds, width) ASCII names, zero-padded.
        name_lengths: (kinds,) lengths of the names.
        kinds: (kinds,) kind that each name stands for.
        channel_bit: position of the channel in an address.
        end_bit: first bit beyond an address.
        kind: output; it and the following outputs have at least as many entries as lines.
        address: output, the column `address` of the program.
        first_channel: output, the column `first_channel`.
        channels: output, the column `channels`.

    Returns:
        Status, number of steps, and the line at which parsing stopped (from 1).
    """
    steps = 0
    line = 0
    i = 0
    size = len(text)
    below_channel = (np.int64(1) << channel_bit) - 1
    limit = np.int64(1) << end_bit
    while i < size:
        line += 1
        while i < size and (text[i] == SPACE or text[i] == TAB or text[i] == RETURN):
            i += 1
        if i == size or text[i] == NEWLINE:
            i += 1
            continue
        start = i
        while i < size and text[i] > SPACE:
            i += 1
        found = -1
        for candidate in range(len(name_lengths)):
            if name_lengths[candidate] == i - start:
                same = True
                for j in range(i - start):
                    if names[candidate, j] != text[start + j]:
                        same = False
                        break
                if same:
                    found = candidate
                    break
        if found < 0:
            return UNKNOWN_KIND, steps, line
        while i < size and (text[i] == SPACE or text[i] == TAB):
            i += 1
        if i + 2 >= size or text[i] != ZERO or (text[i + 1] | LOWER) != LOWER_X:
            return BAD_ADDRESS, steps, line
        i += 2
        value = np.int64(0)
        digits = 0
        while i < size and text[i] > SPACE:
            character = text[i] | LOWER
            if ZERO <= text[i] <= NINE:
                digit = text[i] - ZERO
            elif LOWER_A <= character <= LOWER_F:
                digit = character - LOWER_A + 10
            else:
                return BAD_ADDRESS, steps, line
            value = value * 16 + digit
            digits += 1
            if value >= limit:
                return ADDRESS_TOO_LARGE, steps, line
            i += 1
        if digits == 0:
            return BAD_ADDRESS, steps, line
        while i < size and (text[i] == SPACE or text[i] == TAB or text[i] == RETURN):
            i += 1
        if i < size and text[i] != NEWLINE:
            return TRAILING_TEXT, steps, line
        i += 1

        channel = value >> channel_bit
        local = value & below_channel
        last = steps - 1
        if (
            steps > 0
            and kind[last] == kinds[found]
            and address[last] == local
            and first_channel[last] + channels[last] == channel
        ):
            channels[last] += 1
        else:
            kind[steps] = kinds[found]
            address[steps] = local
            first_channel[steps] = channel
            channels[steps] = 1
            steps += 1
    return OK, steps, line
