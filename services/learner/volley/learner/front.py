"""The learner's address, from the moment on when there is something to answer."""

import sys

import msgspec
from starlette.types import ASGIApp

from volley.learner.api import ApiServer
from volley.learner.run_folder import RunFolder
from volley.learner.settings import ServerSettings
from volley.learner.token import Tokens


class Front:
    """Where a learner is reached; one line of JSON on standard output says so, once."""

    def __init__(self, settings: ServerSettings, folder: RunFolder, tokens: Tokens) -> None:
        self._settings = settings
        self._folder = folder
        self._tokens = tokens
        self._server: ApiServer | None = None

    def answer_with(self, app: ASGIApp) -> None:
        """Let this app answer from now on; raises Stop if the address cannot be had."""
        if self._server is None:
            self._server = ApiServer(app, self._settings.host, self._settings.port)
            self._server.start()
            self._announce(self._server.url)
        else:
            self._server.app = app

    def close(self) -> None:
        """Answer what is under way, then no more."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _announce(self, url: str) -> None:
        folder = self._folder
        folder.write_server(url, self._tokens.reader, self._tokens.admin)
        place = {"url": url, "run": folder.run, "folder": str(folder.path)}
        sys.stdout.write(msgspec.json.encode(place).decode() + "\n")
        sys.stdout.flush()
