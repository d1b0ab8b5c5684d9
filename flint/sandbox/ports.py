"""TCP ports on loopback: the public one that a person chooses, and private ones that are remembered."""

import errno
import random
import re
import socket
from pathlib import Path

from flint.sandbox import files
from flint.sandbox.trouble import Trouble

LOOPBACK = "127.0.0.1"
# Below the ports that Linux and macOS give to outgoing connections, so that a remembered port stays free.
PRIVATE_PORTS = range(20_000, 30_000)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a connection of the last run that lingers in TIME_WAIT does not take the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen()
        except OSError:
            return False
    return True


def remembered(note: Path) -> int:
    """The private port written in the note, or a new one when it is taken by now."""
    try:
        port = int(note.read_text())
    except (OSError, ValueError):
        port = 0
    while port not in PRIVATE_PORTS or not is_free(port):
        port = random.choice(PRIVATE_PORTS)  # noqa: S311  A port is no secret.
    files.write(note, f"{port}\n")
    return port


def public(text: str) -> socket.socket:
    """A listening socket on the port that the person chose. Raises Trouble when it cannot be had."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65_535:
        raise Trouble(f"PORT={text} is not a port.", "Give a number from 1 to 65535: PORT=8001 make run")
    port = int(text)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        another = f"PORT={port + 1 if 1024 <= port < 65_535 else 8001} make run"
        if error.errno == errno.EADDRINUSE:
            raise Trouble(f"Port {port} is taken{holder(port)}.", f"Choose another: {another}") from None
        raise Trouble(f"Port {port} cannot be used: {error.strerror}.", f"Choose another: {another}") from None
    return listener


def holder(port: int) -> str:
    """Who listens on the port, as the end of a sentence; empty where the system does not tell."""
    import psutil

    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        return ""
    return ""
