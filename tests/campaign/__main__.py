"""The long form of the campaign.

::

    python -m tests.campaign --results FILE [--count N] [--seed S] [--reader NAME ...]
    python -m tests.campaign --results FILE --page docs/evidence/campaign.md
    python -m tests.campaign --reader NAME --seed S --replay NUMBER

The first plays inputs and adds what became of them to a JSON file, readers that it holds already
left out; the second writes that file as the table of counts into the page; the third plays one
input again, shows it, and what comes out of it.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from tests.campaign.readers import READERS, WARM
from tests.campaign.runner import Outcome, bounded_memory, input_of, play

BEGIN: Final = "<!-- counts -->\n"
END: Final = "<!-- end of counts -->\n"
SHARE: Final = 5000
"""Inputs after which the file of results is written again."""


def main() -> int:
    """Run the command line; return 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", choices=[r.name for r in READERS])
    parser.add_argument("--page", type=Path)
    parser.add_argument("--replay", type=int)
    asked = parser.parse_args()
    chosen = [r for r in READERS if asked.reader is None or r.name in asked.reader]
    held: dict[str, Any] = {}
    if asked.results is not None and asked.results.exists():
        held = json.loads(asked.results.read_text())
    if asked.page is not None:
        page = asked.page.read_text()
        before, _, rest = page.partition(BEGIN)
        asked.page.write_text(before + BEGIN + _table(held) + END + rest.partition(END)[2])
        return 0
    faults = 0
    memory = Path("/dev/shm")  # noqa: S108 - files in memory, where there are such
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        for reader in chosen:
            done = held.get(reader.name, {})
            if asked.replay is not None:
                print(input_of(reader, asked.seed, asked.replay))
            elif done.get("seed") == asked.seed and done["inputs"] >= asked.count:
                print(f"{reader.name}: is in {asked.results} already")
                continue
            if reader.name in WARM:
                WARM[reader.name]()
            total: dict[str, Any] | None = None
            count = 1 if asked.replay is not None else asked.count
            first = asked.replay or 0
            began = time.process_time()
            with bounded_memory():
                for start in range(first, first + count, SHARE):
                    many = min(SHARE, first + count - start)
                    outcome = play(reader, Path(folder), seed=asked.seed, first=start, count=many)
                    total = _added(total, outcome)
                    total["cpu_s"] = time.process_time() - began
                    total["largest_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                    held[reader.name] = total
                    if asked.results is not None:
                        asked.results.write_text(json.dumps(held, indent=1))
            assert total is not None
            faults += len(total["faults"])
            print(_line(total), flush=True)
            for kind, fault in total["faults"].items():
                print(f"   {fault['times']} x {kind}: --replay {fault['number']}", flush=True)
                if asked.replay is not None:
                    print(fault["detail"])
    return int(faults > 0)


def _added(total: dict[str, Any] | None, outcome: Outcome) -> dict[str, Any]:
    counted = ("inputs", "accepted", "refused", "followed", "seconds")
    if total is None:
        total = {"reader": outcome.reader, "seed": outcome.seed, "slowest_s": 0.0, "faults": {}}
        total |= dict.fromkeys(counted, 0)
    for name in counted:
        total[name] += getattr(outcome, name)
    total["slowest_s"] = max(total["slowest_s"], outcome.slowest_s)
    for fault in outcome.faults:
        files = {name: data.decode("latin-1") for name, data in fault.files.items()}
        total["faults"].setdefault(
            fault.kind,
            {"number": fault.number, "times": 0, "detail": fault.detail, "files": files},
        )
    for kind, times in outcome.times.items():
        total["faults"][kind]["times"] += times
    return total


def _line(total: dict[str, Any]) -> str:
    return (
        f"{total['reader']}: {total['inputs']:,} inputs, {total['accepted']:,} read, "
        f"{total['refused']:,} refused, {len(total['faults'])} kinds of fault, "
        f"slowest {total['slowest_s'] * 1e3:.0f} ms, {total['cpu_s']:.0f} s"
    )


def _table(held: dict[str, Any]) -> str:
    """Return the counts as a table of Markdown."""
    lines = [
        "| Reader | Inputs | Read | Refused | Used further | Slowest | Kinds of fault left |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for total in (held[reader.name] for reader in READERS if reader.name in held):
        counts = "".join(
            f" {total[name]:,} |" for name in ("inputs", "accepted", "refused", "followed")
        )
        slowest = f"{total['slowest_s'] * 1e3:,.0f} ms"
        lines += [f"| {total['reader']} |{counts} {slowest} | {len(total['faults'])} |"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
