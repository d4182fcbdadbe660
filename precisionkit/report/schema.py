"""The JSON Schema of a report; ``python -m precisionkit.report.schema`` prints it."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import msgspec

from precisionkit.report.records import SCHEMA, Report

FILE = "certify-1.schema.json"


def build_schema() -> dict[str, Any]:
    """Make the schema from the records (JSON Schema, draft 2020-12)."""
    (_,), components = msgspec.json.schema_components([Report], ref_template="#/$defs/{name}")
    top = components.pop("Report")
    # msgspec leaves a field with a default optional, but a report always says which format it has
    required = sorted({*top["required"], "schema"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA, **top, "required": required, "$defs": components}


def schema_text() -> str:
    """Text of the schema file."""
    return json.dumps(build_schema(), indent=2) + "\n"


def published_schema() -> dict[str, Any]:
    """Read the schema that the package carries."""
    schema: dict[str, Any] = json.loads((files("precisionkit.report") / FILE).read_text())
    return schema


if __name__ == "__main__":
    print(schema_text(), end="")
