"""``attacc attention``: decode attention of one stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacc.cli import options
from attacc.cli.options import (
    REFERENCE_DEVICE,
    Device,
    DType,
    HeadDim,
    Heads,
    Json,
    Length,
    PlacementName,
    PowerLimit,
    ScheduleName,
)
from attacc.cli.output import print_answer

if TYPE_CHECKING:
    from attacc.mapping.head import HeadLayout
    from attacc.report.attention import AttentionReport
    from attacc.system.stack import StackAttention


def attention(
    heads: Heads,
    length: Length,
    head_dim: HeadDim = 128,
    dtype: DType = "fp16",
    placement: PlacementName = "bank",
    device: Device = REFERENCE_DEVICE,
    power_limit: PowerLimit = True,
    schedule: ScheduleName = "complete",
    json: Json = False,
) -> None:
    """Tell time, bandwidth and energy of decode attention on one stack.

    One new query for each head; every query head has keys and values of its own.
    """
    from attacc.hardware.placement import Placement
    from attacc.hardware.system import Schedule
    from attacc.report.attention import attention_renderable
    from attacc.system.stack import Stack

    stack = Stack(
        options.load_device(device),
        options.choice(Placement, placement, "--placement"),
        power_limited=power_limit,
        schedule=options.choice(Schedule, schedule, "--schedule"),
    )
    element = options.kv_element(dtype)
    check_fit(stack.layout(length, head_dim, element), heads)
    report = _report(stack.attend(heads=heads, length=length, head_dim=head_dim, element=element))
    print_answer(report, attention_renderable, as_json=json)


def check_fit(layout: HeadLayout, heads: int) -> None:
    """Refuse heads that do not fit into a stack, whatever the schedule.

    Raises:
        InputError: the rows of a bank do not suffice; says how many heads would fit.
    """
    from attacc.mapping.head import allocate_heads

    allocate_heads(layout, -(-heads // layout.organization.channels))


def _report(result: StackAttention) -> AttentionReport:
    from attacc.report.attention import AttentionReport, EnergyReport
    from attacc.units import NS_PER_S, PJ_PER_J

    energy = result.energy
    return AttentionReport(
        device=result.device,
        placement=result.placement,
        power_limited=result.power_limited,
        schedule=result.schedule,
        heads=result.heads,
        length=result.length,
        head_dim=result.head_dim,
        dtype=result.element,
        cycles=result.cycles,
        time_ns=result.time_ns,
        kv_bytes=result.kv_bytes,
        read_bytes=result.read_bytes,
        achieved_bytes_per_s=result.achieved_bytes_per_s,
        internal_peak_bytes_per_s=result.internal_bytes_per_s,
        external_peak_bytes_per_s=result.external_bytes_per_s,
        achieved_over_internal_peak=result.achieved_bytes_per_s / result.internal_bytes_per_s,
        achieved_over_external_peak=result.achieved_bytes_per_s / result.external_bytes_per_s,
        commands={entry.command: entry.count for entry in result.commands},
        energy=EnergyReport(
            activate_pj=energy.activate_pj,
            cell_pj=energy.cell_pj,
            read_path_pj=energy.read_path_pj,
            multiply_pj=energy.multiply_pj,
            move_pj=energy.move_pj,
            softmax_pj=energy.softmax_pj,
            total_pj=energy.total_pj,
        ),
        average_power_w=energy.total_pj / PJ_PER_J / (result.time_ns / NS_PER_S),
    )
