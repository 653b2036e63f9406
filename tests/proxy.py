"""A TCP proxy that loses replies: the command arrives, its answer does not."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CHUNK_BYTES = 65536


class ReplyLosingProxy:
    """Stands before the server of `url`; cuts a connection instead of answering.

    `loses` sees every chunk on its way to the server and says whether its reply is lost.
    """

    def __init__(self, url: str, loses: Callable[[bytes], bool]) -> None:
        target = urlsplit(url)
        self._target = (target.hostname or "", target.port or 0)
        self._loses = loses
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        port = self._listener.getsockname()[1]
        self.url = url.replace(f":{target.port}/", f":{port}/")

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for each in list(self._sockets):
            _cut(each)
        for thread in list(self._threads):
            thread.join()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                try:
                    server = socket.create_connection(self._target)
                except OSError:  # the server is down: so is the proxy
                    _cut(client)
                    continue
                self._sockets.append(server)
                lost = threading.Event()
                for pump in (self._forward, self._answer):
                    thread = threading.Thread(target=pump, args=(client, server, lost), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _forward(self, client: socket.socket, server: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while chunk := client.recv(CHUNK_BYTES):
                if self._loses(chunk):
                    lost.set()
                server.sendall(chunk)
        _cut(server)

    def _answer(self, client: socket.socket, server: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while chunk := server.recv(CHUNK_BYTES):
                if lost.is_set():
                    break
                client.sendall(chunk)
        _cut(client)
        _cut(server)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
