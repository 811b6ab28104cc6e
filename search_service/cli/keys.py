"""``lambda-search keys``: make, list and revoke API keys; asks the service, with an admin's key."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from search_service.cli.remote import Json, Profile, Url, print_json
from search_service.client import Client
from search_service.domain.keys import Scope

app = typer.Typer(help="API keys: who may do what.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what holds it.")],
    scope: Annotated[Scope, typer.Option(help="What it allows.")] = Scope.SUBMIT,
    expires: Annotated[
        datetime | None, typer.Option(help="From when on it is refused, in UTC; never unless said.")
    ] = None,
    max_queued: Annotated[int | None, typer.Option(help="Most searches of it that may wait.", min=1)] = None,
    max_running: Annotated[int | None, typer.Option(help="Most searches of it that run at once.", min=1)] = None,
    as_json: Json = False,
    url: Url = None,
    profile: Profile = None,
) -> None:
    """Make a key and print it; it is stored nowhere and told this once."""
    allowed: dict[str, Any] = {"scope": scope.value, "max_queued": max_queued, "max_running": max_running}
    if expires is not None:
        allowed["expires_at"] = f"{expires.isoformat()}Z"
    with Client.of_profile(profile, url=url) as client:
        view, secret = client.create_key(name, **allowed)
    if as_json:
        print_json({**view, "key": secret})
    else:
        print(secret)


@app.command("list")
def list_keys(as_json: Json = False, url: Url = None, profile: Profile = None) -> None:
    """List every key, oldest first."""
    from search_service.cli.show import show_keys, stdout_console

    with Client.of_profile(profile, url=url) as client:
        views = client.keys()
    if as_json:
        print_json(views)
    else:
        show_keys(views, stdout_console())


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")],
    as_json: Json = False,
    url: Url = None,
    profile: Profile = None,
) -> None:
    """Refuse a key from now on."""
    with Client.of_profile(profile, url=url) as client:
        view = client.revoke_key(key_id)
    if as_json:
        print_json(view)
    else:
        print(f"{view['id']} revoked")
