"""The one Postgres: how its URL is read, and the session scope in which stores work.

Our tables are always schema-qualified. ``search_path`` names procrastinate's schema so that its functions, which speak
of their tables by bare names, work on our own connection and so inside our own transaction.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from psycopg import errors as postgres_errors
from psycopg.conninfo import make_conninfo
from sqlalchemy import URL, Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from search_service.domain.errors import DatabaseUnavailable

QUEUE_SCHEMA = "procrastinate"
STUDY_SCHEMA = "optuna"

CONNECT_TIMEOUT = 5  # seconds
POOL_TIMEOUT = 10  # seconds that a request waits for a free connection
POOL_SIZE = 5  # connections kept open per process, unless it says otherwise
POOL_OVERFLOW = 10  # connections opened beyond that under load

RESTED_AFTER = 1.0  # seconds in the pool after which a connection is asked whether it lives

KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}  # seconds, seconds, tries
IDLE_IN_TRANSACTION_TIMEOUT = 60  # seconds, after which Postgres frees what a frozen process had locked

_TIMEOUT = f"-cidle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT}s"
_DIALECTS = {"postgres", "postgresql", "postgresql+psycopg"}
_NOT_MIGRATED = (
    postgres_errors.UndefinedTable,
    postgres_errors.UndefinedColumn,
    postgres_errors.UndefinedFunction,
    postgres_errors.InvalidSchemaName,
)


class Database:
    """A Postgres database and the sessions on it. Thread-safe; make one per process, after any fork.

    Args:
        url: ``postgresql://...`` in libpq's or SQLAlchemy's spelling; psycopg 3 is used whatever it says.
        pool_size: connections kept open; opening one takes longer than most transactions.

    Raises:
        DatabaseUnavailable: ``url`` is not the URL of a Postgres database.
    """

    def __init__(self, url: str, pool_size: int = POOL_SIZE) -> None:
        self._url = _read_url(url)
        self.engine: Engine = create_engine(
            _with_search_path(self._url, f"{QUEUE_SCHEMA},public"),
            connect_args=KEEPALIVES,
            pool_size=pool_size,
            max_overflow=POOL_OVERFLOW,
            pool_timeout=POOL_TIMEOUT,
        )
        _check_rested_connections(self.engine)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        unbundled = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._readers = sessionmaker(unbundled, expire_on_commit=False)

    @property
    def place(self) -> str:
        """Host and database for people to read; never the password."""
        url = self._url
        host = url.host or url.query.get("host") or "localhost"
        if not isinstance(host, str):
            host = ",".join(host)
        port = f":{url.port}" if url.port else ""
        return f"database '{url.database or url.username or ''}' on {host}{port}"

    @property
    def conninfo(self) -> str:
        """What libpq connects with, for procrastinate's own connectors; holds the password."""
        _, options = self.engine.dialect.create_connect_args(self.engine.url)
        # SQLAlchemy adds an object of psycopg's that is no option of libpq.
        options.pop("context", None)
        return make_conninfo(**options)

    @property
    def optuna_url(self) -> str:
        """What Optuna's storage connects with, its tables in their own schema; holds the password."""
        return _with_search_path(self._url, STUDY_SCHEMA).render_as_string(hide_password=False)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction: committed when the block ends, rolled back when it raises.

        Raises:
            DatabaseUnavailable: Postgres does not answer, went away, or has not been migrated.
        """
        with self._explained(), self._sessions() as session, session.begin():
            session.connection()
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session whose statements each stand alone, which saves two round trips; nothing in it is taken back.

        Raises:
            DatabaseUnavailable: Postgres does not answer, went away, or has not been migrated.
        """
        with self._explained(), self._readers() as session:
            yield session

    def ping(self) -> None:
        """Ask Postgres for an answer.

        Raises:
            DatabaseUnavailable: there is none.
        """
        with self.session() as session:
            session.execute(text("select 1"))

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except PoolTimeout as error:
            raise DatabaseUnavailable(
                f"{self.place} is busy: no connection became free within {POOL_TIMEOUT} s; try again"
            ) from error
        except DBAPIError as error:
            reason = (str(error.orig).strip().splitlines() or ["connection lost"])[0]
            if isinstance(error.orig, _NOT_MIGRATED):
                raise DatabaseUnavailable(
                    f"{self.place} has another schema than this version needs ({reason}): run `lambda-search migrate`"
                ) from error
            # A statement is missing only where the connection itself could not be made.
            if error.statement is None or error.connection_invalidated:
                raise DatabaseUnavailable(
                    f"{self.place} does not answer ({reason}): start Postgres, or correct LAMBDA_SEARCH_DATABASE_URL"
                ) from error
            raise


def _check_rested_connections(engine: Engine) -> None:
    """Ask a connection that has rested whether it still lives, before it is used; one just used needs no asking."""

    @event.listens_for(engine, "checkin")
    def rest(_: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def wake(connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
        if time.monotonic() - record.info.get("rests_since", math.inf) < RESTED_AFTER:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error  # the pool then takes another one


def server_time(session: Session) -> datetime:
    """The database's clock, the only one that every host agrees on."""
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    return now


def _read_url(text_url: str) -> URL:
    try:
        url = make_url(text_url)
    except (ArgumentError, SQLAlchemyError, ValueError):
        # Not chained and not quoted: the text may hold a password.
        raise DatabaseUnavailable(
            "the database URL cannot be read; give postgresql://user:password@host:port/database"
        ) from None
    if url.drivername not in _DIALECTS:
        raise DatabaseUnavailable(
            f"the database must be Postgres, not '{url.drivername}'; give postgresql://user:password@host:port/database"
        )
    return url.set(drivername="postgresql+psycopg").update_query_dict(
        {"connect_timeout": url.query.get("connect_timeout", str(CONNECT_TIMEOUT))}
    )


def _with_search_path(url: URL, path: str) -> URL:
    given = url.query.get("options", "")
    options = given if isinstance(given, str) else " ".join(given)
    return url.update_query_dict({"options": f"{options} -csearch_path={path} {_TIMEOUT}".strip()})
