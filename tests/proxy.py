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
        self._clients: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self.url = url.replace(f":{target.port}/", f":{self._listener.getsockname()[1]}/")

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _cut(self._listener)
        self._threads[0].join()
        self._listener.close()
        for client in list(self._clients):
            _cut(client)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._clients.add(client)
                thread = threading.Thread(target=self._serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        # A server that is down refuses, and the client is cut off in turn.
        with client, suppress(OSError), socket.create_connection(self._target) as server:
            lost = threading.Event()
            answering = threading.Thread(target=_answer, args=(client, server, lost))
            answering.start()
            with suppress(OSError):
                while chunk := client.recv(CHUNK_BYTES):
                    if self._loses(chunk):
                        lost.set()
                    server.sendall(chunk)
            _cut(server)
            answering.join()
        self._clients.discard(client)


def _answer(client: socket.socket, server: socket.socket, lost: threading.Event) -> None:
    with suppress(OSError):
        while (chunk := server.recv(CHUNK_BYTES)) and not lost.is_set():
            client.sendall(chunk)
    _cut(client)
    _cut(server)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
