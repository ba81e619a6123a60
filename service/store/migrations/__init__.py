"""The schema's history, run by Alembic from within the service: no ini file, no command line."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

__all__ = ["config", "upgrade"]


def config(connection: sa.Connection) -> Config:
    """Alembic's settings, for a connection whose transaction the caller ends."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    settings.attributes["connection"] = connection
    return settings


def upgrade(connection: sa.Connection) -> None:
    """Run the revisions that are missing, within the caller's transaction."""
    command.upgrade(config(connection), "head")
