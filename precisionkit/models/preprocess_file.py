"""Read a preprocessing from a JSON or YAML file whose keys are the fields of `Preprocess`."""

from __future__ import annotations

import json
from pathlib import Path

from precisionkit.errors import UsageError
from precisionkit.models.preprocess import FIELDS, Preprocess, from_fields

_LARGEST = 1 << 16  # bytes; a preprocessing has eight fields


def read_preprocess(path: str | Path) -> Preprocess:
    """Read a file such as ``{"resize_shorter": 256, "crop": 224, "mean": [0.5], "std": [0.25]}``; fields left out keep their defaults."""
    where = f"The preprocessing file {path}"
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{where} cannot be read ({error.strerror}): check the path.") from None
    if len(data) > _LARGEST:
        raise UsageError(f"{where} is longer than {_LARGEST} bytes: give only the fields {', '.join(FIELDS)}.")
    found = _parsed_yaml(data, where) if Path(path).suffix in (".yaml", ".yml") else _parsed_json(data, where)
    if not isinstance(found, dict):
        raise UsageError(f"{where} holds no fields: give some of {', '.join(FIELDS)}.")
    try:
        return from_fields(found)
    except UsageError as error:
        raise UsageError(f"{where} cannot be used. {error}") from None


def _parsed_json(data: bytes, where: str) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise UsageError(f"{where} is not JSON: correct it, or call it .yaml if it is YAML.") from None


def _parsed_yaml(data: bytes, where: str) -> object:
    try:
        import yaml
    except ImportError:
        raise UsageError(f"{where} is YAML, which needs PyYAML: pip install 'precisionkit[yaml]', or write it as JSON.") from None
    try:
        return yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UsageError(f"{where} is not YAML: correct it.") from None
