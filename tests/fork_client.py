"""Stands in for the interpreter: has the fork server run `ARGUMENTS`, and ends as that ends.

    python -IS fork_client.py PYTHON ARGUMENTS      (TESTS_FORK_SERVER names the server's socket)

Where the server cannot give the same process, PYTHON itself is run in this process's place: a
variable that is read at an import differs from the server's, a stream is closed, or no server is there.
Imports little, since it is started for each command.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import sys

#: What the server answers: an exit code, or that the client is to run the interpreter.
ANSWER = struct.Struct("!i")
RUN_IT_YOURSELF = 1 << 16
#: Passed on to the forked process. The others either cannot be caught, or a terminal sends them.
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)


def has_streams() -> bool:
    """Whether none of the standard streams is closed: a closed one cannot be sent."""
    try:
        for stream in range(3):
            os.fstat(stream)
    except OSError:
        return False
    return True


def ask(connection: socket.socket, arguments: list[str]) -> int | None:
    """Send the request with the standard streams.

    Returns:
        The exit code, negative for a signal; None where the server cannot run this.
    """
    umask = os.umask(0)
    os.umask(umask)
    request = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109, since pathlib takes half of this program's time
        "umask": umask,
        "ignored": [int(n) for n in FORWARDED if signal.getsignal(n) is signal.SIG_IGN],
    }
    content = json.dumps(request).encode()
    socket.send_fds(connection, [struct.pack("!I", len(content))], [0, 1, 2])
    connection.sendall(content)
    answer = b""
    while len(answer) < ANSWER.size:
        part = connection.recv(ANSWER.size - len(answer))
        if not part:
            sys.exit("The fork server has gone.")
        answer += part
    code: int = ANSWER.unpack(answer)[0]
    return None if code == RUN_IT_YOURSELF else code


def main() -> None:
    """See above."""
    python, *arguments = sys.argv[1:]
    code = None
    if has_streams():
        with (
            socket.socket(socket.AF_UNIX) as connection,
            contextlib.suppress(FileNotFoundError, ConnectionError),
        ):
            connection.connect(os.environ["TESTS_FORK_SERVER"])
            for number in FORWARDED:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
            code = ask(connection, arguments)
    if code is None:
        os.execv(python, [python, *arguments])
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
