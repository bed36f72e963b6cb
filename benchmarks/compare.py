"""Times ``attacc compare`` as a whole process: with an empty kernel cache, and with a warm one.

python benchmarks/compare.py [--runs 3] [-- OPTIONS OF attacc compare]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from rich.console import Console
from rich.table import Table


def seconds(options: list[str], cache: str) -> float:
    """Return the wall time of one comparison whose kernels are cached in a folder."""
    command = [sys.executable, "-m", "attacc", "compare", "--json", *options]
    start = time.perf_counter()
    subprocess.run(
        command, check=True, capture_output=True, env=os.environ | {"NUMBA_CACHE_DIR": cache}
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="warm runs, of which the median counts")
    parser.add_argument("options", nargs="*", help="options of attacc compare")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        cold = seconds(arguments.options, cache)
        warm = [seconds(arguments.options, cache) for _ in range(arguments.runs)]
    table = Table(title="attacc compare, wall seconds of the whole process")
    table.add_column("cache")
    table.add_column("seconds", justify="right")
    table.add_row("empty: kernels are compiled", f"{cold:.2f}")
    table.add_row(f"warm: median of {arguments.runs}", f"{statistics.median(warm):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
