"""The database of a sweep: SQLite in its folder for one machine, PostgreSQL for several.

Only the `sweep` commands access the database, never their workers, so SQLite has one writer. Commands that
share a PostgreSQL database take trials under an advisory lock, which ends with its holder's connection.
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

#: Seconds to wait for the server to answer, and for another command to release the lock.
CONNECT_SECONDS, LOCK_SECONDS = 10, 120
#: Missed heartbeats after which other commands take over the trials of a command.
MISSED_HEARTBEATS = 4
_SQLITE_FILE = "optuna.db"


@dataclasses.dataclass(frozen=True)
class Storage:
    """A database, before it is opened.

    Attributes:
        url: for SQLAlchemy. It may contain a password: never print it.
        label: the URL without a password.
        file: SQLite's file; None for a server.
    """

    url: str = dataclasses.field(repr=False)
    label: str
    file: Path | None


def parse_storage(url: str | None, folder: Path) -> Storage:
    """Parse `--storage`; None means a SQLite file in the sweep's folder.

    Raises:
        UsageError: not a URL of SQLite or PostgreSQL. The message contains no password.
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
        # Any part of the URL may be a password, so do not print it.
        raise UsageError(f"--storage is not a database URL. {kinds}") from None
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
def lock_file(storage: Storage) -> Iterator[None]:
    """Lock a SQLite file against other commands; does nothing for a server.

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
    """An open storage, and the context manager that closes it.

    Args:
        storage: the database. For SQLite, call within `lock_file`.
        heartbeat: seconds between heartbeats, if several commands can share the database.

    Attributes:
        optuna: Optuna's storage.
        local: whether it is SQLite, which no other command can use.
        label: the URL without a password.

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
        with self.converting_errors(), self.lock(""):
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
        """Lock the study `name` against other commands."""
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
    def converting_errors(self) -> Iterator[None]:
        """Turn the database's errors into ours.

        Raises:
            RunError: the database failed.
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
        return "Check that the server is running and accepts your login, then repeat the command."


def _silence_optuna() -> None:
    """Silence Optuna's messages, and its warnings about what this package does on purpose.

    This applies to the whole process, because `warnings.catch_warnings` is not thread-safe.
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
