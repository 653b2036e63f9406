"""`volley learner` with one of two tempting mistakes in it, which the audit must find.

    python -m tests.fault.wrong_learner acknowledges|forgets CONFIG ...

acknowledges: a group counts as trained, on the disk, as soon as it is collected
forgets: a start does not ask what has become of the numbers before it
"""

import sys

import typer

from volley.learner import assembly
from volley.learner.__main__ import learner
from volley.learner.ledger import Disposition, Ledger, closing
from volley.learner.loop import Loop
from volley.learner.tasks import Tasks
from volley.schemas.groups import Group
from volley.telemetry.failpoints import reach


class Acknowledges(Loop):
    """Writes down that groups are trained before the groups are written down."""

    def _log(self, groups: list[Group]) -> None:
        numbers, before = [group.number for group in groups], self._tasks.ledger.state()
        self._tasks.ledger.close(closing(numbers, Disposition.TRAINED))
        self._save()
        self._queue.drop(numbers)
        reach("after-collect")
        self._tasks.ledger = Ledger.of(before)
        for number in numbers:
            self._tasks.ledger.take(number)
        super()._log(groups)


class Forgets(Tasks):
    """Begins with an empty ledger, whatever the disk says."""

    def resume(self, ledger: Ledger, *others: object, **more: object) -> None:
        super().resume(Ledger(), {}, (), self._head)


MISTAKES = {"acknowledges": ("Loop", Acknowledges), "forgets": ("Tasks", Forgets)}

if __name__ == "__main__":
    name, wrong = MISTAKES[sys.argv.pop(1)]
    setattr(assembly, name, wrong)
    app = typer.Typer(add_completion=False)
    app.command()(learner)
    app()
