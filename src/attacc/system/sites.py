"""Where the mixers of a model run: on the GPUs, or on the devices of a system's attention.

Layers are told apart by kind (`attacc.models.layers.Layer.site_kind`): full attention, windows,
chunks, latents, states. A kind whose mixer runs elsewhere also keeps its keys and values there, and
a kind that stays keeps them in GPU memory. Feed-forward parts and projections run on the GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from itertools import product
from typing import Final

from attacc.errors import InputError, UnknownNameError, member
from attacc.hardware.system import AttentionSite, ResolvedSystem, Schedule
from attacc.models.mixers import Attention
from attacc.models.served import ServedModel
from attacc.system.layer_attention import LayerHeads


class Site(StrEnum):
    """Where the mixers of one kind of layers run."""

    GPU = "gpu"
    ATTACC = "attacc"
    """The devices of the system's attention: AttAccs, or the CPUs of a system without them."""
    AUTO = "auto"
    """Wherever a step is shortest, with the batch that fits then."""


STAYS: Final = ("latent", "sparse")
"""Kinds of layers that stay on the GPUs unless asked otherwise, although AttAccs can run them: one
record for all heads is read once for each set of queries, which is a loss (docs/model/sites.md)."""
Sites = Mapping[str, Site]
"""Kind of layers -> site."""


def kinds_of(model: ServedModel) -> tuple[str, ...]:
    """Return the kinds of layers that a model has, in the order in which they first occur.

    Args:
        model: the model.
    """
    kinds = (group.layer.site_kind for group in model.groups)
    return tuple(dict.fromkeys(kind for kind in kinds if kind))


_REASONS: Final = {
    "state": "a state is written at every token, and units do not write back",
    "blocks": "each head of keys chooses blocks of its own, and reads of blocks are not modelled",
    "compressed": "a token attends to a window and to compressed records in one softmax, and a "
    "layout of both in the banks is not modelled",
}
"""Why AttAccs cannot run the mixers of a kind."""
_BORROWED: Final = "layers borrow the keys and values of earlier ones"
_UNSCHEDULED: Final = "reads of chosen tokens need the interleaved schedule"


def why_not(model: ServedModel, system: ResolvedSystem, kind: str) -> str | None:
    """Return why the mixers of a kind cannot run on the AttAccs of a system; None where they can.

    Args:
        model: the model.
        system: a system with AttAccs.
        kind: of layers.
    """
    mixers = [g.layer.mixer for g in model.groups if g.layer.site_kind == kind]
    found = [None if mixer is None else LayerHeads.of(mixer, model.kv) for mixer in mixers]
    if not all(found):
        return _REASONS.get(kind, _BORROWED)
    chooses = any(heads is not None and heads.selection is not None for heads in found)
    table = system.spec.attacc
    if chooses and table is not None and table.schedule is not Schedule.INTERLEAVED:
        return _UNSCHEDULED
    return None


def can_leave(model: ServedModel, system: ResolvedSystem, kind: str) -> bool:
    """Say whether the mixers of a kind can run on the devices of a system's attention.

    Args:
        model: the model.
        system: the system.
        kind: of layers.
    """
    match system.spec.attention:
        case AttentionSite.GPU:
            return False
        case AttentionSite.CPU:
            mixers = [g.layer.mixer for g in model.groups if g.layer.site_kind == kind]
            return all(isinstance(mixer, Attention) for mixer in mixers)
        case AttentionSite.ATTACC:
            return why_not(model, system, kind) is None


def checked_sites(
    model: ServedModel, system: ResolvedSystem, asked: Mapping[str, Site | str]
) -> dict[str, Site]:
    """Return the site of every kind of layers; those that are not named leave where they can.

    Args:
        model: the model.
        system: the system.
        asked: sites by kind.

    Raises:
        UnknownNameError: the model has no such layers, or there is no such site.
        InputError: the system has no AttAccs, or they cannot run the mixers of a kind.
    """
    kinds = kinds_of(model)
    for kind in asked:
        if kind not in kinds:
            raise UnknownNameError("kind of layers", kind, kinds, where="sites")
    found: dict[str, Site] = {}
    for kind in kinds:
        site = member(Site, asked.get(kind, Site.AUTO), where=f"sites: {kind}")
        leaves = can_leave(model, system, kind)
        if kind not in asked:
            site = Site.ATTACC if leaves and kind not in STAYS else Site.GPU
        elif site is Site.ATTACC and not leaves:
            raise InputError(
                f"{kind} layers of {model.name} do not run on the AttAccs of {system.spec.name}: "
                f"{why_not(model, system, kind)}"
                if system.attacc is not None
                else f"system {system.spec.name} has no AttAccs",
                where=f"sites: {kind}",
                hint="use gpu or auto",
            )
        found[kind] = site
    return found


def assignments(
    model: ServedModel, system: ResolvedSystem, asked: Mapping[str, Site | str]
) -> list[dict[str, Site]]:
    """Return every assignment of sites that agrees with what is asked, without ``auto``.

    Args:
        model: the model.
        system: the system.
        asked: as in `checked_sites`.

    Raises:
        UnknownNameError: as in `checked_sites`, likewise the others.
    """
    sites = checked_sites(model, system, asked)
    choices = [
        (Site.ATTACC, Site.GPU)
        if site is Site.AUTO and can_leave(model, system, kind)
        else ((Site.GPU,) if site is Site.AUTO else (site,))
        for kind, site in sites.items()
    ]
    return [dict(zip(sites, chosen, strict=True)) for chosen in product(*choices)]
