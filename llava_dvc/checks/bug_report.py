"""`llava-dvc doctor --report`: a block to paste into a bug report."""

import os
import re
from pathlib import Path

from llava_dvc.checks.presets import nearest_preset
from llava_dvc.config import load_config
from llava_dvc.errors import UserError, printable_text
from llava_dvc.masking import masked
from llava_dvc.tracking.provenance import git_tags, version_tags
from llava_dvc.tracking.system_metrics import machine_name

HIDDEN = ("publish.repo", "data.exclude")
"""Settings that name the user's own things."""
HOMES = re.compile(r"/(?:home|Users)/[^/\s'\"]+")
VARIABLES = ("CUDA_VISIBLE_DEVICES", "DVC_ROOT", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
"""Variables that change what the pipeline does."""


def bug_report() -> str:
    """Versions, machine and settings as Markdown. Without secrets and paths of home folders."""
    tags = version_tags()
    git = git_tags()
    state = ", with changes" if git.get("dirty") == "true" else ""
    versions = {n.removeprefix("version."): v for n, v in tags.items() if n != "platform"}
    lines = [
        f"git: {git.get('git_revision', 'no repository')}{state}",
        f"platform: {tags['platform']}",
        f"machine: {_machine()}",
        "versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        *(f"{name}: {os.environ[name]}" for name in VARIABLES if name in os.environ),
        *_settings_lines(),
    ]
    return "```\n" + "".join(f"{_safe(line)}\n" for line in lines) + "```\n"


def _machine() -> str:
    """The machine with its GPUs, and the version of CUDA that PyTorch was built for."""
    import torch

    gpu = f"CUDA {torch.version.cuda}" if torch.cuda.is_available() else "no GPU"
    return f"{machine_name()}, {gpu}"


def _settings_lines() -> list[str]:
    try:
        preset, differences = nearest_preset(load_config())
    except UserError as error:
        return [f"settings: {line}" for line in str(error).splitlines()]
    changed = [f"  {d.setting}: {d.value}" for d in differences if d.setting not in HIDDEN]
    return [f"settings: preset {preset}{', except' if changed else ''}", *changed]


def _safe(line: str) -> str:
    """`line` without secrets, control characters, and names of home folders."""
    text = printable_text(masked(line)).replace(str(Path.home()).rstrip("/") or "~", "~")
    return HOMES.sub("~", text)
