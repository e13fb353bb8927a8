"""A real PostgreSQL for the tests of sweeps that several commands share."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of an empty database; its password is `secret`."""
    initdb, pg_ctl, psql = _find("initdb"), _find("pg_ctl"), _find("psql")
    if initdb is None or pg_ctl is None or psql is None:
        pytest.skip("PostgreSQL is not installed: initdb, pg_ctl and psql are needed")
    prefix: list[str] = []
    # Not pytest's folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
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
        run(initdb, "-D", folder / "data", "-A", "scram-sha-256", "-U", "me", "--pwfile", password, "-N")
        options = f"-c fsync=off -c listen_addresses= -k {folder}"
        run(pg_ctl, "-D", folder / "data", "-l", folder / "log", "-w", "-o", options, "start")
        try:
            yield f"postgresql://me:secret@/postgres?host={folder}"
        finally:
            run(pg_ctl, "-D", folder / "data", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)
