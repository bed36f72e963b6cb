"""Errors of commands name the option that the user gave.

An error of the library names an argument, as in ``slo_ms``. The user of the command line gave an
option, ``--slo-ms``. A `Command` replaces the argument by the option.
"""

from __future__ import annotations

import re
from typing import Any, Final

from typer.core import TyperCommand

from attacc.errors import InputError

_ASKED: Final = ("options: ", "accuracy: ", "compare: ")
"""Names that the library gives to options which it checks together, as one document."""
_PLACE: Final = re.compile(
    r"(?:workload\.|precision\.)?(?P<name>[a-z_]+)(?:\.[0-9]+)*(?P<rest>$|:.*| .*)", re.S
)
"""An argument: the table of a study that holds it, its name, its place in a list, and the rest."""
_OTHER_NAMES: Final = {
    "element": "dtype",
    "synthetic": "workload",
    "power_budget_w": "power_budget",
    "temperature_c": "temperature",
    "window_ns": "power_window",
}
"""Arguments of the library whose option has another name."""


class Command(TyperCommand):
    """A command whose errors name its own options."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            if error.where is not None:
                error.where = in_options(error.where, ctx.command.params, ctx.params)
            raise


def in_options(where: str, params: list[Any], values: dict[str, Any]) -> str:
    """Return the place of an error, with the option in place of the library's argument.

    Args:
        where: the place, as the library names it.
        params: the options and arguments of the command.
        values: the values of the options and arguments, by name.
    """
    place = where
    for asked in _ASKED:
        place = place.removeprefix(asked)
    found = _PLACE.fullmatch(place)
    if found is None:
        return where
    name, rest = found["name"], found["rest"]
    name = _OTHER_NAMES.get(name, name)
    named = {param.name: param for param in params}
    # A list, such as systems, is an option that may be repeated, such as --system.
    param = named.get(name) or named.get(name.removesuffix("s"))
    if param is None:
        return where
    # Text after the name must begin with the value of the option, as in "figure a.gif".
    if rest.startswith(" ") and not rest[1:].startswith(str(values.get(param.name))):
        return where
    written = [option for option in param.opts if option.startswith("--")]
    return (max(written, key=len) if written else param.name.upper()) + rest
