"""``python -m workers.runtime.devices``: what a worker could serve on this machine, as JSON, for the doctor."""

from __future__ import annotations

import json
from typing import Any

import torch

from workers.adaptation.device import fingerprint


def devices() -> list[dict[str, Any]]:
    """Each device by PyTorch's name with its fingerprint, or with ``error`` where it cannot be asked."""
    names = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [_described(name) for name in names]


def _described(name: str) -> dict[str, Any]:
    try:
        return {"device": name, **fingerprint(torch.device(name))}
    except RuntimeError as error:
        return {"device": name, "error": str(error).splitlines()[0]}


if __name__ == "__main__":
    print(json.dumps(devices()))
