"""Where a sweep keeps its trials: SQLite in its folder for one machine, PostgreSQL for any number.

Only the `sweep` commands talk to the database, never their workers, so SQLite has one writer. What several
commands must not do at the same time, such as taking a trial, they do under an advisory lock of PostgreSQL,
which ends with the connection of its holder.
"""

import contextlib
import dataclasses
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from cifar_trainer import files, locks
from cifar_trainer.errors import RunError, UsageError
from cifar_trainer.extras import check_extra

#: How long to wait for the server to answer, and for another command to release the lock.
CONNECT_SECONDS, LOCK_SECONDS = 10, 120
#: Heartbeats that a command may miss before its trials are given to others.
MISSED_HEARTBEATS = 4
_SQLITE_FILE = "optuna.db"


@dataclasses.dataclass(frozen=True)
class Storage:
    """A database that is not open yet.

    Attributes:
        url: for SQLAlchemy. It may contain a password: never print it.
        label: the URL without a password.
        file: SQLite's file; None for a server.
    """

    url: str = dataclasses.field(repr=False)
    label: str
    file: Path | None


def parse_storage(url: str | None, folder: Path) -> Storage:
    """Parse `--storage`; None is a SQLite file in the sweep's folder.

    Raises:
        UsageError: the URL is not one of SQLite or PostgreSQL. The message contains no password.
        CifarTrainerError: a package is missing.
    """
    import sqlalchemy

    if url is None:
        file = folder / _SQLITE_FILE
        return Storage(f"sqlite:///{file.absolute()}", f"sqlite:///{file}", file)
    scheme, separator, rest = url.partition("://")
    kinds = "Expected postgresql://USER@HOST/DATABASE or sqlite:///FILE."
    if scheme == "postgres":
        url = f"postgresql{separator}{rest}"
    try:
        parsed = sqlalchemy.engine.make_url(url)
        kind = parsed.get_backend_name()
    except (sqlalchemy.exc.ArgumentError, ValueError):
        # Any part of it may be a password, so show nothing of it.
        raise UsageError(f"--storage is not the URL of a database. {kinds}") from None
    secrets = {key: "***" for key in parsed.query if "password" in key.lower()}
    label = parsed.update_query_dict(secrets).render_as_string(hide_password=True)
    if kind == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise UsageError(f"--storage {label} does not name a file. Expected sqlite:///FILE.")
        return Storage(url, label, Path(str(parsed.database)))
    if kind != "postgresql":
        raise UsageError(f"--storage {label} is not supported. {kinds}")
    check_extra(f"--storage {label}", "sweep", ("psycopg",))
    return Storage(
        parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False), label, None
    )


@contextlib.contextmanager
def hold_alone(storage: Storage) -> Iterator[None]:
    """Keep other commands out of a SQLite file until the block ends; does nothing for a server.

    Raises:
        RunError: another command uses the file, or its folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        if storage.file is not None:
            folder = storage.file.parent
            try:
                with files.writing(folder, "Choose another --run-dir or --storage."):
                    folder.mkdir(parents=True, exist_ok=True)
                    held.enter_context(locks.lock(folder / f".{storage.file.name}.lock"))
            except locks.LockedError as error:
                raise RunError(
                    f"{storage.label} is in use by {error.holder or 'another process'}. SQLite takes one "
                    "command at a time: use more --workers, or --storage postgresql://... for several "
                    "commands and machines."
                ) from error
        yield


class Database:
    """An open storage; use it as a context to close it.

    Args:
        storage: if it is SQLite's, the caller holds it (`hold_alone`).
        heartbeat: seconds between the heartbeats of a command, if several can share the database.

    Attributes:
        optuna: Optuna's storage.
        local: whether no other command can use it.
        label: the URL without a password.
        heartbeat: as given.

    Raises:
        RunError: the database cannot be used, or was made by another version of Optuna.
    """

    def __init__(self, storage: Storage, heartbeat: int) -> None:
        import optuna
        import sqlalchemy

        _silence_optuna()
        self.local, self.label, self.heartbeat = storage.file is not None, storage.label, heartbeat
        seconds = {"timeout": LOCK_SECONDS} if self.local else {"connect_timeout": CONNECT_SECONDS}
        options: dict[str, Any] = {"pool_pre_ping": True, "connect_args": seconds}
        self._engine = sqlalchemy.create_engine(storage.url, **options)
        with self.telling_errors(), self.lock(""):
            self.optuna = optuna.storages.RDBStorage(
                storage.url,
                engine_kwargs=options,
                heartbeat_interval=None if self.local else heartbeat,
                grace_period=None if self.local else MISSED_HEARTBEATS * heartbeat,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.optuna.engine.dispose()
        self._engine.dispose()

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Keep other commands from the study `name` until the block ends."""
        import sqlalchemy

        if self.local:
            yield
            return
        key = zlib.crc32(f"cifar-trainer sweep {name}".encode())
        with self._engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            yield

    @contextlib.contextmanager
    def telling_errors(self) -> Iterator[None]:
        """Turn an error of the database into one message.

        Raises:
            RunError: there was one.
        """
        import optuna
        import sqlalchemy

        try:
            yield
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            raise RunError(f"{self.label} cannot be used: {_reason(error)} {self._remedy()}") from error
        except RuntimeError as error:
            if "table schema" not in str(error):
                raise
            raise RunError(
                f"{self.label} was written by another version of Optuna: {error} Or choose another --storage."
            ) from error

    def _remedy(self) -> str:
        if self.local:
            return "Choose another --run-dir or --storage."
        return "Check that the server runs and lets you in; then run the same command again."


def _silence_optuna() -> None:
    """Turn off Optuna's messages, and its warnings about what this package does on purpose.

    For the whole process: `warnings.catch_warnings` around the calls is not thread-safe.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with Study.optimize")


def _reason(error: BaseException) -> str:
    """The driver's own message, without SQLAlchemy's; it contains no password."""
    cause: BaseException = error.__cause__ or error
    original = getattr(cause, "orig", None) or cause
    words = " ".join(str(original).split()).rstrip(".")
    return f"{words or type(original).__name__}."
