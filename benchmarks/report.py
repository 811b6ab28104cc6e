"""What every benchmark prints: one JSON object, or the same as a table and its checks in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def at_least(name: str, value: float, target: float) -> dict[str, Any]:
    """A check that holds where ``value`` reaches ``target``."""
    return {"name": name, "value": value, "target": target, "holds": value >= target}


def at_most(name: str, value: float, target: float) -> dict[str, Any]:
    """A check that holds where ``value`` stays within ``target``."""
    return {"name": name, "value": value, "target": target, "holds": value <= target}


def show(report: Mapping[str, Any], title: str, columns: Mapping[str, str], as_json: bool) -> None:
    """Print a report.

    Args:
        report: ``machine``, ``rows`` and ``checks``.
        title: of the table.
        columns: key of a row -> heading, for the rows' figures that the table shows.
        as_json: print the object instead.
    """
    if as_json:
        print(json.dumps(report))
        return
    console = Console()
    console.print(_table(report["rows"], title, columns))
    for check in report["checks"]:
        console.print(in_words(check))
    console.print(", ".join(f"{key}: {_text(value)}" for key, value in report["machine"].items()))


def in_words(check: Mapping[str, Any]) -> str:
    """One line: what was asked, what came out, whether it holds."""
    verdict = "holds" if check["holds"] else "FAILS"
    return f"{check['name']}: {_text(check['value'])} (asked: {_text(check['target'])}) {verdict}"


def _table(rows: Sequence[Mapping[str, Any]], title: str, columns: Mapping[str, str]) -> Table:
    table = Table(title=title)
    for key, heading in columns.items():
        is_text = any(isinstance(row.get(key), str) for row in rows)
        table.add_column(heading, justify="left" if is_text else "right")
    for row in rows:
        table.add_row(*(_text(row.get(key)) for key in columns))
    return table


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
