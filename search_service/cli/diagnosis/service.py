"""Checks of the service as a client sees it: whether it answers where it is looked for, and what the key allows."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx

from search_service.cli.diagnosis.finding import Finding, failure, ok, warning
from search_service.client import ApiProblem
from search_service.domain.errors import LambdaSearchError
from search_service.domain.keys import Scope
from search_service.profile import DEFAULT_URL, Connection, find_connection, is_loopback

TIMEOUT = 5.0  # seconds
ALLOWS = {
    Scope.READ: "to see searches",
    Scope.SUBMIT: "to submit searches and move its own",
    Scope.ADMIN: "everything",
}
NAME_THE_SERVICE = "run `lambda-search up`, or name the service with --url, --profile or LAMBDA_SEARCH_URL"


def check_service(url: str | None, profile: str | None) -> Iterator[Finding]:
    """Whether the service answers, is ready and takes the key.

    Args:
        url: as an option gave it.
        profile: as an option gave it.
    """
    try:
        connection = find_connection(url, None, profile)
        host = httpx.URL(connection.url).host
    except (LambdaSearchError, httpx.InvalidURL) as error:
        yield failure("service", str(error), "correct the profile file, or LAMBDA_SEARCH_URL")
        return
    headers = {} if connection.key is None else {"Authorization": f"Bearer {connection.key}"}
    with httpx.Client(
        base_url=connection.url, timeout=TIMEOUT, trust_env=not is_loopback(host), headers=headers
    ) as client:
        try:
            alive, ready = client.get("/livez"), client.get("/readyz")
            own = client.get("/v1/keys/self")
        except httpx.HTTPError as error:
            yield _unreachable(connection, str(error) or type(error).__name__, named=url or profile)
            return
    if not alive.is_success or not alive.headers.get("content-type", "").startswith("application/json"):
        yield failure("service", f"what answers at {connection.url} is no Lambda Search", NAME_THE_SERVICE)
        return
    if ready.is_success:
        yield ok("service", f"{connection.url} is ready")
    else:
        yield failure("service", f"{connection.url} is not ready: {ApiProblem.of(ready)}", "see the checks above there")
    yield _key(connection, own)


def _unreachable(connection: Connection, reason: str, named: str | None) -> Finding:
    found = f"nothing answers at {connection.url} ({reason})"
    if connection.url == DEFAULT_URL and not named and not os.environ.get("LAMBDA_SEARCH_URL"):
        # Nobody said that there is one.
        return warning("service", found, NAME_THE_SERVICE)
    return failure("service", found, "start the service, or correct where it is: --url, --profile or LAMBDA_SEARCH_URL")


def _key(connection: Connection, own: httpx.Response) -> Finding:
    if connection.key is None:
        return warning(
            "key", "none is set", "set LAMBDA_SEARCH_KEY or a profile; an admin makes keys: `lambda-search keys create`"
        )
    if not own.is_success:
        return failure("key", str(ApiProblem.of(own)), "ask an admin for a key that is in force, and set it")
    told = own.json()
    scope = Scope(told["scope"])
    return ok("key", f"'{told['name']}' has scope '{scope}', which allows {ALLOWS[scope]}")
