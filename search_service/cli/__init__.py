"""The command line, ``lambda-search``."""

from search_service.cli.app import main

__all__ = ["main"]
