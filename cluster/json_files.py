"""Files written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from leworld.files import replace_file


def write_text(path: Path, text: str) -> None:
    """Replace a file's text; a crash leaves the old one or the new one."""
    replace_file(path, [text.encode()])


def write_json(path: Path, value: Any) -> None:
    """Replace a file by a value in JSON."""
    write_text(path, to_json(value, indent=2) + "\n")


def append_json(path: Path, value: Any) -> None:
    """Add a value to a file that has one a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(to_json(value) + "\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON as the standard knows it: numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def sha256(path: Path) -> str:
    """Checksum of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
