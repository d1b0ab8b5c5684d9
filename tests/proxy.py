"""A TCP proxy that spoils connections as networks do: an outage for one process, while the server itself stays up.

proxy.cut()             every connection is reset, new ones are refused
proxy.hang()            nothing passes in either direction, and nobody is told
proxy.hang(at=b"...")   the same, from the request on that holds these bytes
proxy.swallow(b"...")   a request that holds these bytes arrives; its answer is lost, and the connection with it
proxy.delay(0.5)        each piece of an answer comes half a second later
proxy.trickle(100)      answers come at 100 bytes a second
proxy.restore()         all is well again; what `hang` held back passes
proxy.saw(b"...")       whether a request held these bytes, if the proxy keeps what passes
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from urllib.parse import urlsplit

PIECE = 65536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST, not FIN.


class Proxy:
    def __init__(self, port: int, *, keep: bool = False) -> None:
        self.lost_answers = 0
        self._kept: list[bytes] | None = [] if keep else None
        self._target = ("127.0.0.1", port)
        self._links: set[_Link] = set()
        self._refusing = False
        self._passing = threading.Event()
        self._passing.set()
        self._hanging_at: bytes | None = None
        self._swallowing: bytes | None = None
        self._losses_left: int | None = None
        self._delay = 0.0
        self._bytes_per_second = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._refusing = True
        for link in list(self._links):
            link.reset()

    def hang(self, *, at: bytes | None = None) -> None:
        if at is None:
            self._passing.clear()
        self._hanging_at = at

    @property
    def hanging(self) -> bool:
        return not self._passing.is_set()

    def swallow(self, request: bytes, *, times: int | None = None) -> None:
        self._swallowing, self._losses_left = request, times

    def delay(self, seconds: float) -> None:
        self._delay = seconds

    def trickle(self, bytes_per_second: int) -> None:
        self._bytes_per_second = bytes_per_second

    def restore(self) -> None:
        self._refusing, self._hanging_at, self._swallowing = False, None, None
        self._delay, self._bytes_per_second = 0.0, 0
        self._passing.set()

    def saw(self, request: bytes) -> bool:
        assert self._kept is not None
        return any(request in piece for piece in self._kept)

    def in_place_of(self, url: str) -> str:
        """The URL that leads to the same server through the proxy."""
        parts = urlsplit(url)
        return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{self.port}").geturl()

    def stop(self) -> None:
        self.restore()
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._passing.wait()
        try:
            if self._refusing:
                raise ConnectionRefusedError
            link = _Link(client, socket.create_connection(self._target))
        except OSError:
            _reset(client)
            return
        self._links.add(link)
        answers = threading.Thread(target=self._pass_answers, args=(link,), daemon=True)
        answers.start()
        self._pass_requests(link)
        answers.join()
        link.close()
        self._links.discard(link)

    def _pass_requests(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while data := link.client.recv(PIECE):
                if self._hanging_at is not None and self._hanging_at in data:
                    self.hang()
                self._passing.wait()
                if self._swallowing is not None and self._swallowing in data and self._losses_left != 0:
                    link.answer_lost = True
                    self._losses_left = self._losses_left and self._losses_left - 1
                if self._kept is not None:
                    self._kept.append(data)
                link.server.sendall(data)
            link.server.shutdown(socket.SHUT_WR)

    def _pass_answers(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while data := link.server.recv(self._bytes_per_second // 10 or PIECE):
                self._passing.wait()
                if link.answer_lost:
                    self.lost_answers += 1
                    link.reset()
                    return
                if self._bytes_per_second:
                    time.sleep(0.1)
                time.sleep(self._delay)
                link.client.sendall(data)
            link.client.shutdown(socket.SHUT_WR)


class _Link:
    """A customer's connection and ours to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.answer_lost = False
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def reset(self) -> None:
        _reset(self.client)
        _reset(self.server)

    def close(self) -> None:
        self.client.close()
        self.server.close()


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RD)  # Wakes the thread that reads from it.
    end.close()
