"""A real PostgreSQL, started for tests."""

import contextlib
import dataclasses
import functools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def _find(name: str) -> str | None:
    """A program of PostgreSQL's; Debian puts only some of them on the PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name, path=os.pathsep.join([*map(str, places), os.environ.get("PATH", "")]))


def _account() -> str | None:
    """Another account than root, which PostgreSQL refuses; None where there is none."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    return None


@dataclasses.dataclass(frozen=True)
class Server:
    """A PostgreSQL.

    Attributes:
        url: of an empty database, with the password `secret`.
        control: calls pg_ctl with these words, and waits.
    """

    url: str
    control: Callable[..., None]


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """A server in a temporary folder; skips the test where PostgreSQL is not installed."""
    initdb, pg_ctl = _find("initdb"), _find("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL is not installed: initdb and pg_ctl are needed")
    prefix: list[str] = []
    # Not below pytest's folder, which only its owner may enter, and short: it holds the socket.
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    if os.geteuid() == 0:
        account, runuser = _account(), shutil.which("runuser")
        if account is None or runuser is None:
            pytest.skip("PostgreSQL does not run as root, and runuser or another account is missing")
        shutil.chown(folder, account)
        prefix = [runuser, "-u", account, "--"]
    password = folder / "password"
    password.write_text("secret")
    password.chmod(0o644)

    def run(*words: object) -> None:
        subprocess.run(
            [*prefix, *map(str, words)], check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=120
        )

    try:
        run(
            initdb, "-D", folder / "data", "-A", "scram-sha-256", "-U", "me", "--pwfile", password, "-N",
            "--locale=C", "-E", "UTF8",
        )  # fmt: skip
        options = f"-c fsync=off -c listen_addresses= -k {folder}"
        control = functools.partial(
            run, pg_ctl, "-D", folder / "data", "-l", folder / "log", "-w", "-o", options
        )
        control("start")
        try:
            yield Server(f"postgresql://me:secret@/postgres?host={folder}", control)
        finally:
            control("-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
