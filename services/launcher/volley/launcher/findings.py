"""What an examination finds: one line each, with what to do about it."""

import sys
from collections.abc import Sequence
from enum import StrEnum

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

GIB = 2**30


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    BAD = "bad"


STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.BAD: "bold red"}


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    level: Level
    subject: str
    found: str
    advice: str | None = None
    """What to do; None where all is well."""


def ok(subject: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(Level.OK, subject, found)


def warn(subject: str, found: str, advice: str) -> Finding:
    """A run works, and less well than it could."""
    return Finding(Level.WARN, subject, found, advice)


def bad(subject: str, found: str, advice: str) -> Finding:
    """A run would not work."""
    return Finding(Level.BAD, subject, found, advice)


def gib(num_bytes: float) -> str:
    """`1.5 GiB`, or MiB below a tenth of one."""
    if num_bytes < GIB / 10:
        return f"{num_bytes / 2**20:.0f} MiB"
    return f"{num_bytes / GIB:.1f} GiB"


def show(findings: Sequence[Finding], console: Console) -> None:
    """A table on a terminal, a line a finding elsewhere."""
    if console.is_terminal:
        console.print(_table(findings))
    else:
        sys.stdout.writelines(f"{_line(finding)}\n" for finding in findings)


def show_json(findings: Sequence[Finding]) -> None:
    """One object: the worst level, and all findings."""
    report = {"level": worst(findings), "findings": findings}
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")


def worst(findings: Sequence[Finding]) -> Level:
    """The level that counts."""
    return max((finding.level for finding in findings), key=list(Level).index)


def _line(finding: Finding) -> str:
    advice = f" -> {finding.advice}" if finding.advice else ""
    return f"{finding.level:4}  {finding.subject}: {finding.found}{advice}"


def _table(findings: Sequence[Finding]) -> Table:
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        # As Text: what was found may hold square brackets, which are markup in a plain string.
        words = Text(finding.found)
        if finding.advice:
            words.append(f"\n-> {finding.advice}", style="bold")
        table.add_row(Text(finding.level, style=STYLES[finding.level]), finding.subject, words)
    return table
