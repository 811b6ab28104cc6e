"""The device that adapts: its class, its fingerprint, and waiting for its work to be done."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch


def resolve_device(name: str) -> torch.device:
    """``auto`` is the first GPU if there is one, else the CPU; anything else is PyTorch's own name."""
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def device_class(device: torch.device) -> str:
    """``cpu`` or ``cuda:<name>``: what a search names and what the queue is called."""
    if device.type == "cpu":
        return "cpu"
    return f"cuda:{torch.cuda.get_device_name(device).replace(' ', '-')}"


def fingerprint(device: torch.device) -> dict[str, Any]:
    """Everything about the machine that a latency depends on; goes with every figure."""
    figures: dict[str, Any] = {
        "class": device_class(device),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        figures["gpu"] = torch.cuda.get_device_name(device)
        figures["cuda"] = torch.version.cuda
        figures["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return figures


def synchronize(device: torch.device) -> None:
    """Return when everything queued on ``device`` has run."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def exact_float32() -> None:
    """Switch TF32 off: float32 means float32 in judging and timing (DESIGN, "At-least-once work")."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
