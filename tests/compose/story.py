"""What happened to a stack, for the table at the end."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, fields

from rich import box
from rich.console import Console
from rich.table import Table

from tests.compose.stack import Stack
from volley.schemas.status import LedgerCounts, StatusReport

WIDTH = 110


class Story:
    """Rows of figures, in the order in which they came."""

    def __init__(self) -> None:
        self._events = Table(
            "what happened", "seconds", "steps before", "steps after", "workers", box=box.SIMPLE
        )
        self._ledgers = Table(
            "prompt numbers",
            *(field.name for field in fields(LedgerCounts)),
            "duplicates",
            box=box.SIMPLE,
        )

    def tell(self, what: str, seconds: float | None = None, *cells: object) -> None:
        """Add a row of events."""
        duration = "" if seconds is None else f"{seconds:.1f}"
        self._events.add_row(what, duration, *map(str, cells))

    @contextmanager
    def chapter(self, what: str, stack: Stack) -> Iterator[None]:
        """The run goes on while this happens, and every prompt number has its place."""
        before, started = stack.status(), time.monotonic()
        yield
        seconds, after = time.monotonic() - started, stack.status()
        steps = before.version.step, after.version.step
        self.tell(what, seconds, *steps, len(after.workers))
        self._count(what, after)
        assert steps[0] < steps[1]

    def _count(self, what: str, status: StatusReport) -> None:
        counts = astuple(status.ledger)
        self._ledgers.add_row(what, *map(str, counts), str(status.deliveries.duplicate))
        assert status.ledger.issued == sum(counts) - status.ledger.issued

    def __str__(self) -> str:
        text = io.StringIO()
        console = Console(file=text, width=WIDTH)
        for table in (self._events, self._ledgers):
            if table.row_count:
                console.print(table)
        return text.getvalue()
