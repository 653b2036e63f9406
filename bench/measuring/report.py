"""What every bench prints: its rows of the table, then with --json one object of one line, last.

The object says when and where it was measured, and has whatever was measured beside the rows.
"""

import json
import os
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
from measuring.table import Comparison, Result, as_table
from rich.console import Console

CPU_INFO = Path("/proc/cpuinfo")


def report(comparisons: Sequence[Comparison], figures: Mapping[str, object]) -> None:
    """Print the rows, and with --json everything with where it comes from."""
    bench = Path(sys.argv[0]).stem
    Console().print(as_table([Result(bench, tuple(comparisons))]))
    if "--json" in sys.argv[1:]:
        rows = [msgspec.structs.asdict(one) | {"ratio": one.ratio} for one in comparisons]
        sys.stdout.write(json.dumps({**circumstances(), "comparisons": rows, **figures}) + "\n")


def circumstances() -> dict[str, object]:
    """When, where and how something was measured; none of the benches uses a GPU."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores of {_processor()}, no GPU used",
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def _processor() -> str:
    """The processor's name, where Linux tells it."""
    names = re.findall(r"model name\s*: (.+)", CPU_INFO.read_text()) if CPU_INFO.exists() else []
    return names[0] if names else platform.machine()
