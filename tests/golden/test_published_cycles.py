"""The golden cycles from the published schedule, without the trace files."""

import csv
from importlib.resources import files

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.schedule import attention_program
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing

DEVICE = DRAMS.load("hbm3-5.2-asplos24")
ELEMENTS = {"1": ElementType.INT8, "2": ElementType.FP16}


def test_the_published_schedule_takes_the_golden_cycles() -> None:
    """Catches any change of schedule, addresses, timing tables or controller, in all 220 cases."""
    table = files("attacc.study.claims") / "data" / "reference_cycles.csv"
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 220

    deviating: list[tuple[dict[str, str], int]] = []
    for row in rows:
        placement = Placement(row["placement"])
        layout = HeadLayout(
            DEVICE.organization,
            placement,
            int(row["head_dim"]),
            ELEMENTS[row["element_bytes"]],
            int(row["length"]),
        )
        program = attention_program(layout, int(row["heads"]), Schedule.PUBLISHED)
        tables = resolve_timing(DEVICE, placement, power_limited=row["power_limited"] == "1")
        cycles = run(program, tables).cycles
        if cycles != int(row["cycles"]):
            deviating.append((row, cycles))
    assert deviating == []
