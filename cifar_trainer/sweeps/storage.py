"""Where a sweep's trials are kept: SQLite in its folder for one machine, PostgreSQL for any number.

Only the `sweep` commands talk to the database, never their workers, so SQLite has one writer. What
several commands must not do at once, such as taking the next trial, they do in turns: under a lock
of PostgreSQL's, which ends with the connection of whoever held it.
"""

import contextlib
import dataclasses
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cifar_trainer import locks
from cifar_trainer.errors import RunError, UsageError
from cifar_trainer.extras import check_extra

if TYPE_CHECKING:
    import optuna

#: Seconds to wait for a server that does not answer, and for another command's turn.
CONNECT_SECONDS, TURN_SECONDS = 10, 120
_SQLITE_FILE = "optuna.db"


@dataclasses.dataclass(frozen=True)
class Storage:
    """A database, not yet opened.

    Attributes:
        url: for SQLAlchemy. It may hold a password: never print it.
        label: the same without a password.
        file: SQLite's; None for a server.
    """

    url: str = dataclasses.field(repr=False)
    label: str
    file: Path | None


def check_installed() -> None:
    """Raise CifarTrainerError where Optuna is missing."""
    check_extra("sweep", "sweep", ["optuna"])


def parse_storage(url: str | None, folder: Path) -> Storage:
    """Understand `--storage`; None is a SQLite file in the sweep's folder.

    Raises:
        UsageError: it is no address of a database that can be used. The message holds no password.
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
        # What it is cannot be told, so neither what of it is a password.
        raise UsageError(f"--storage is not the address of a database. {kinds}") from None
    secrets = {key: "***" for key in parsed.query if "password" in key.lower()}
    label = parsed.update_query_dict(secrets).render_as_string(hide_password=True)
    if kind == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise UsageError(f"--storage {label} names no file. Expected sqlite:///FILE.")
        return Storage(url, label, Path(str(parsed.database)))
    if kind != "postgresql":
        raise UsageError(f"--storage {label} is of another kind. {kinds}")
    check_extra(f"--storage {label}", "sweep", ["psycopg"])
    return Storage(
        parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False), label, None
    )


@contextlib.contextmanager
def hold_alone(storage: Storage) -> Iterator[None]:
    """Keep other commands from a SQLite file until the block ends; nothing to do for a server.

    Raises:
        RunError: another command uses it, or the folder cannot be written.
    """
    if storage.file is None:
        yield
        return
    path = storage.file.with_name(f".{storage.file.name}.lock")
    try:
        storage.file.parent.mkdir(parents=True, exist_ok=True)
        with locks.lock(path):
            yield
    except locks.LockedError as error:
        by = error.holder or "another process"
        raise RunError(
            f"{storage.label} is in use by {by}. SQLite takes one command at a time: use more --workers, or "
            "--storage postgresql://... for several commands and machines."
        ) from error
    except OSError as error:
        raise RunError(f"{storage.file.parent} cannot be written: {error.strerror}.") from error


class Database:
    """An opened storage; a context that closes it.

    Args:
        storage: SQLite's is held by the caller (`hold_alone`).
        heartbeat: seconds between signs of life of a running trial.
        grace: seconds without one after which its command counts as dead.

    Attributes:
        optuna: Optuna's storage.
        alone: whether no other command can be using it.

    Raises:
        RunError: it cannot be reached, or was made by another version of Optuna.
    """

    def __init__(self, storage: Storage, heartbeat: int, grace: int) -> None:
        import sqlalchemy

        self.alone, self.label = storage.file is not None, storage.label
        seconds: dict[str, Any] = (
            {"timeout": TURN_SECONDS} if self.alone else {"connect_timeout": CONNECT_SECONDS}
        )
        options: dict[str, Any] = {"pool_pre_ping": True, "connect_args": seconds}
        self._engine = sqlalchemy.create_engine(storage.url, **options)
        with self.telling_errors(), self.turn(""):
            self.optuna = _rdb_storage(
                storage.url, options, None if self.alone else heartbeat, None if self.alone else grace
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.optuna.engine.dispose()
        self._engine.dispose()

    @contextlib.contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Keep other commands from doing the same with the study `name` until the block ends."""
        import sqlalchemy

        if self.alone:
            yield
            return
        key = zlib.crc32(f"cifar-trainer sweep {name}".encode())
        with self._engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{TURN_SECONDS}s'"))
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            yield

    @contextlib.contextmanager
    def telling_errors(self) -> Iterator[None]:
        """Turn a database's error into one message.

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
        if self.alone:
            return "Choose another --run-dir or --storage."
        return "Check that the server runs and lets you in; then run the same command again."


def _rdb_storage(
    url: str, options: dict[str, Any], heartbeat: int | None, grace: int | None
) -> "optuna.storages.RDBStorage":
    import optuna

    with warnings.catch_warnings():
        # Heartbeats are experimental: extra `sweep` names the versions for which the tests saw them work.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.RDBStorage(
            url, engine_kwargs=options, heartbeat_interval=heartbeat, grace_period=grace
        )


def _reason(error: BaseException) -> str:
    """The driver's own words, without SQLAlchemy's around them; they hold no password."""
    cause: BaseException = error.__cause__ or error
    original = getattr(cause, "orig", None) or cause
    words = " ".join(str(original).split()).rstrip(".")
    return f"{words or type(original).__name__}."
