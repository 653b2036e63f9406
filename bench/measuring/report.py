"""What every bench prints: lines for people, then with --json one object of one line, last."""

import json
import os
import platform
import re
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def report(text: str, figures: Mapping[str, object]) -> None:
    """Print the lines, and with --json the figures with where they come from."""
    sys.stdout.write(text)
    if "--json" in sys.argv[1:]:
        sys.stdout.write(json.dumps({**circumstances(), **figures}) + "\n")


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
