"""Which service is asked, with which key."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_service.profile import DEFAULT_URL, Connection, UnusableProfile, find_connection

TEAM = """
default = "team"
[team]
url = "https://search.example"
key = "lsk_team"
[other]
url = "http://127.0.0.1:9000"
"""


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("URL", "KEY", "PROFILE"):
        monkeypatch.delenv(f"LAMBDA_SEARCH_{name}", raising=False)
    monkeypatch.setenv("LAMBDA_SEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LAMBDA_SEARCH_CONFIG", str(tmp_path / "config.toml"))
    return tmp_path / "config.toml"


def test_nothing_said_is_this_machine(config: Path, tmp_path: Path) -> None:
    assert find_connection() == Connection(DEFAULT_URL, None)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "key").write_text("lsk_local\n")
    assert find_connection() == Connection(DEFAULT_URL, "lsk_local")
    assert find_connection("http://localhost:9000").key == "lsk_local"
    assert find_connection("https://search.example").key is None


def test_options_go_before_the_environment_and_that_before_a_profile(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(TEAM)
    assert find_connection() == Connection("https://search.example", "lsk_team")
    assert find_connection(profile="other").url == "http://127.0.0.1:9000"
    monkeypatch.setenv("LAMBDA_SEARCH_PROFILE", "other")
    assert find_connection().url == "http://127.0.0.1:9000"
    monkeypatch.setenv("LAMBDA_SEARCH_URL", "https://env.example")
    monkeypatch.setenv("LAMBDA_SEARCH_KEY", "lsk_env")
    assert find_connection() == Connection("https://env.example", "lsk_env")
    assert find_connection("https://said.example", "lsk_said") == Connection("https://said.example", "lsk_said")


def test_a_profiles_key_goes_to_its_own_service_only(config: Path) -> None:
    config.write_text(TEAM)
    assert find_connection("https://elsewhere.example").key is None
    assert find_connection("https://search.example").key == "lsk_team"


@pytest.mark.parametrize(
    ("written", "said"), [("default = ", "cannot be read"), ('default = "mine"', "no profile 'mine'"), (TEAM, "")]
)
def test_a_profile_that_cannot_be_used(config: Path, written: str, said: str) -> None:
    config.write_text(written)
    if said:
        with pytest.raises(UnusableProfile, match=said):
            find_connection()
    with pytest.raises(UnusableProfile):
        find_connection(profile="absent")
