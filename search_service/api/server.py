"""The HTTP server of the API: uvicorn, which ends the event streams before it waits for what is under way."""

from __future__ import annotations

import socket

import uvicorn

from search_service.api.app import create_app
from search_service.api.change_feed import ChangeFeed
from search_service.settings import Settings


def api_server(settings: Settings, *, host: str, port: int, grace_s: int) -> uvicorn.Server:
    """The API's server, not yet running.

    Args:
        settings: of the application.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        grace_s: seconds that requests under way get at the end.

    Raises:
        DatabaseUnavailable: no database is named, or its URL cannot be read.
    """
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,  # search_service.logs has configured them
        access_log=False,  # search_service.api.request_log writes one line per request
        timeout_graceful_shutdown=grace_s,
        server_header=False,
    )
    return _Server(config, app.state.change_feed)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, feed: ChangeFeed) -> None:
        super().__init__(config)
        self._feed = feed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._feed.end()
        await super().shutdown(sockets)
