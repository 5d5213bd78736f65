"""Databases that Optuna and MLflow keep their tables in: drivers, and whose tables, of which version, lie there.

Both libraries make missing tables in whatever they open, and MLflow changes those of an older version at once: it is
looked at before they open it.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import sqlalchemy
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

__all__ = ["Tables", "driver_package", "tables_in", "with_driver"]

Tables = Literal["none", "current", "older", "newer", "foreign"]
"""None yet, of the installed version, of an older one, of a newer one, of another program."""
_DRIVERS = {"postgresql": "psycopg2-binary", "mysql": "PyMySQL"}


def with_driver(url: str) -> str:
    """Name the PostgreSQL driver that is installed: SQLAlchemy 2.1's default is not that of 2.0."""
    drivers = [name for name in ("psycopg2", "psycopg") if find_spec(name) is not None]
    return url.replace("postgresql:", f"postgresql+{drivers[0]}:", 1) if drivers else url


def driver_package(url: str) -> str:
    """Return what to install for the databases of such a URL."""
    return _DRIVERS.get(url.partition(":")[0].partition("+")[0], "its driver")


def tables_in(engine: sqlalchemy.Engine, migrations: Path, table: str) -> Tables:
    """Say whose tables lie in a database, without a change to it.

    Args:
        engine: of the database.
        migrations: the installed library's folder of schema versions, as alembic keeps them.
        table: one of the library's own, by which a version that is not among them is told from another program's.
    """
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_heads()
        own = sqlalchemy.inspect(connection).has_table(table)
    if not found:
        return "none"
    scripts = ScriptDirectory(migrations)
    if set(found) == set(scripts.get_heads()):
        return "current"
    if set(found) <= {script.revision for script in scripts.walk_revisions()}:
        return "older"
    return "newer" if own else "foreign"
