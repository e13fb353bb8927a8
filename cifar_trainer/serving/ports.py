"""The port that a server listens on, and who has it where it is taken."""

import errno
import re
import socket
from pathlib import Path

from cifar_trainer.errors import CifarTrainerError, UsageError, printable

_LISTENS = "0A"


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket; port 0 takes a free one. It takes connections once the server listens.

    Raises:
        UsageError: the host is none of this machine.
        CifarTrainerError: the port is taken, and by whom; or it may not be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(
            f"--host {host} is not known: {error.strerror}. Expected a name or an address."
        ) from error
    bound = socket.socket(family, kind, protocol)
    try:
        # A server that has just ended leaves connections that would hold the port for a minute.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise CifarTrainerError(
                f"Port {port} on {host} is taken{_by_whom(port)}. Stop that, or choose another --port "
                "(0 takes a free one)."
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"--host {host} is no address of this machine.") from error
        raise CifarTrainerError(
            f"Port {port} on {host} cannot be used: {error.strerror}. Choose another --port."
        ) from error
    return bound


def _by_whom(port: int) -> str:
    holder = find_holder(port)
    return f" by {holder}" if holder else f"; who has it: lsof -i :{port}"


def find_holder(port: int) -> str | None:
    """The process that listens on a port, such as `process 123 (python3 -m http.server)`.

    None where that cannot be found out: another user's process, or no Linux.
    """
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, rows):
            if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for descriptor in (process / "fd").iterdir():
                found = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
                if found and found[1] in inodes:
                    words = (process / "cmdline").read_bytes().split(b"\0")
                    command = printable(b" ".join(words).decode("utf-8", "replace").strip())
                    return f"process {process.name} ({command[:80]})"
        except OSError:
            continue
    return None
