"""The device that adapts: its class, its fingerprint, and waiting for its work to be done."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import torch


def resolve_device(name: str) -> torch.device:
    """``auto`` is the first GPU if there is one, else the CPU; anything else is PyTorch's own name."""
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def devices_for(name: str) -> list[torch.device]:
    """Devices of which a worker may take any: ``auto`` is every GPU, or the CPU where there is none."""
    if name == "auto" and torch.cuda.is_available():
        return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return [resolve_device(name)]


def device_identity(device: torch.device) -> str:
    """What a device is called on its host: in a container every GPU may be number 0."""
    if device.type == "cpu":
        return "cpu"
    return f"cuda-{torch.cuda.get_device_properties(device).uuid}"


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
        "compiler": compiler(device),
        "fast_bfloat16": has_fast_bfloat16(device),
    }
    if device.type == "cuda":
        figures["gpu"] = torch.cuda.get_device_name(device)
        figures["driver"] = _nvidia_driver()
        figures["cuda"] = torch.version.cuda
        figures["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return figures


def compiler(device: torch.device) -> str | None:
    """What the runtime ``compiled`` would compile with on a device; None where it cannot be offered.

    A GPU needs none: its programs are recorded. A CPU needs a C++ compiler and Python's headers.
    """
    if device.type == "cuda":
        return "cuda graph"
    path = shutil.which(os.environ.get("CXX", "g++"))
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return _version_of(path) if path is not None and headers.exists() else None


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 numbers in hardware; elsewhere they are emulated, and slow."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


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


@cache
def _version_of(program: str) -> str | None:
    """The first line of what a program says of its version; None if it cannot be run."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.splitlines()[0] if said.stdout else program


@cache
def _nvidia_driver() -> str | None:
    """The version of NVIDIA's driver; None where its own tool is missing."""
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.splitlines()[0].strip() if said.stdout else None
