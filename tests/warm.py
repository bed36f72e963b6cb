"""Compiles the kernels that most tests need, before the first of them.

The processes of a run start at once, and would each compile the same kernels. Here each takes the
next part that none has taken, and later finds on disk what the others compiled.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.mapping.balance import Assignment, Chunk
from attacc.pim.mapping.geometry import HeadLayout, KeyLayout
from attacc.pim.numerics.arithmetic import Arithmetic
from attacc.pim.program.interleaved import interleaved_program
from attacc.pim.program.program import Program
from attacc.pim.program.schedule import attention_program
from tests.campaign import readers
from tests.pim.host import small_case as host
from tests.pim.numerics import small_cases as numerics
from tests.pim.timing import small_cases as timing


def _program(schedule: Schedule) -> Program:
    organization = timing.SHARED.organization
    layout = HeadLayout(organization, Placement.BANK, 32, ElementType.FP16, 20)
    return attention_program(layout, 17, schedule)


def _controllers() -> None:
    for schedule in timing.BARRIERED:
        timing.timed(_program(schedule), timing.DEVICE)


def _numerics() -> None:
    numerics.answer(Placement.BANK, Arithmetic(), 1, Schedule.INTERLEAVED, [20])


def _traffic() -> None:
    timing.timed(_program(Schedule.COMPLETE), timing.SHARED, timing.HOST[0])


def _interleaved_traffic() -> None:
    device = timing.SHARED
    layout = KeyLayout(device.organization, Placement.BANK, 32, ElementType.FP16)
    heads = Assignment.of([[Chunk(0, 0, 20)] for _ in range(device.organization.channels)])
    program = interleaved_program(device, layout, heads, multiply_interval=4)
    timing.timed(program, device, timing.HOST[0])


def _host() -> None:
    for element in (ElementType.FP16, ElementType.INT8, ElementType.FP8):
        host.answer(Placement.BUFFER, element, None)


PARTS: Final[dict[str, Callable[[], None]]] = {
    "controllers": _controllers,
    "numerics": _numerics,
    "traffic": _traffic,
    "traffic beside interleaved programs": _interleaved_traffic,
    "host": _host,
    "GPUs": readers.WARM["GPU document"],
    "comparison": readers.WARM["study document"],
}
"""Most take half a minute; a later one may use kernels of an earlier one."""


def compile_parts(taken: Path) -> None:
    """Compile the parts that no other process has taken, as files in a folder of all tell."""
    for name, compile_part in PARTS.items():
        try:
            (taken / f"kernels of {name}").touch(exist_ok=False)
        except FileExistsError:
            continue
        compile_part()
