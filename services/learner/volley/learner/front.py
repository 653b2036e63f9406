"""The learner's address, from the moment on when there is something to answer."""

import sys
from types import TracebackType
from typing import Self

import msgspec

from volley.learner.api import ApiServer, create_app
from volley.learner.run_folder import RunFolder
from volley.learner.served import Served
from volley.learner.settings import ServerSettings
from volley.learner.token import Tokens
from volley.schemas.status import LearnerState, RunEnd
from volley.telemetry.stops import Stop

MISTAKE = "this is a mistake in Volley: the learner's log has the traceback"


class Front:
    """Where a learner is reached; one line of JSON on standard output says so, once.

    Leaving it tells who listens how the learner has ended, then nobody is answered any more.
    """

    def __init__(self, settings: ServerSettings, folder: RunFolder, tokens: Tokens) -> None:
        self._settings = settings
        self._folder = folder
        self._tokens = tokens
        self._server: ApiServer | None = None
        self._served: Served | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._served is not None:
            self._served.end.set_result(_end_of(self._served, error))
            self._served = None
        if self._server is not None:
            self._server.stop()
            self._server = None

    def show(self, served: Served) -> None:
        """Answer from this learner from now on; raises Stop if the address cannot be had.

        Who listens to the one before is let go, to come again.
        """
        app = create_app(served, self._tokens)
        if self._server is None:
            self._server = ApiServer(app, self._settings.host, self._settings.port)
            self._server.start()
            self._announce(self._server.url)
        else:
            self._server.app = app
        if self._served is not None:
            self._served.end.set_result(None)
        self._served = served

    def _announce(self, url: str) -> None:
        folder = self._folder
        folder.write_server(url, self._tokens.reader, self._tokens.admin)
        place = {"url": url, "run": folder.run, "folder": str(folder.path)}
        sys.stdout.write(msgspec.json.encode(place).decode() + "\n")
        sys.stdout.flush()


def _end_of(served: Served, error: BaseException | None) -> RunEnd:
    if isinstance(error, Stop):
        return RunEnd(LearnerState.STOPPED, error.message, error.code)
    if error is not None:
        return RunEnd(LearnerState.STOPPED, MISTAKE, 1)
    head = served.store.head
    if head is not None and head.finished:
        return RunEnd(LearnerState.FINISHED, "all steps are taken", 0)
    return RunEnd(LearnerState.STOPPED, "told to stop: the same command goes on with the run", 0)
