"""The JSON Schemas of the reports; ``python -m precisionkit.report.schema certify|inspect|lemma`` prints one."""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from typing import Any, Literal

import msgspec

from precisionkit.report.inspect import INSPECT_SCHEMA, InspectReport
from precisionkit.report.lemma import LEMMA_SCHEMA, LemmaReport
from precisionkit.report.records import SCHEMA, Report

Kind = Literal["certify", "inspect", "lemma"]
_RECORDS: dict[Kind, tuple[type[msgspec.Struct], str]] = {
    "certify": (Report, SCHEMA),
    "inspect": (InspectReport, INSPECT_SCHEMA),
    "lemma": (LemmaReport, LEMMA_SCHEMA),
}


def build_schema(kind: Kind = "certify") -> dict[str, Any]:
    """Make the schema of a command's report from its records (JSON Schema, draft 2020-12)."""
    record, name = _RECORDS[kind]
    (_,), components = msgspec.json.schema_components([record], ref_template="#/$defs/{name}")
    top = components.pop(record.__name__)
    # msgspec leaves a field with a default optional, but a report always says which format it has
    required = sorted({*top["required"], "schema"})
    draft = "https://json-schema.org/draft/2020-12/schema"
    whole = {"$schema": draft, "$id": name, **top, "required": required, "$defs": components}
    schema: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(whole))  # defaults become JSON's kinds
    return schema


def schema_text(kind: Kind = "certify") -> str:
    """Text of a schema file."""
    return json.dumps(build_schema(kind), indent=2) + "\n"


def published_schema(kind: Kind = "certify") -> dict[str, Any]:
    """Read a schema that the package carries."""
    schema: dict[str, Any] = json.loads((files("precisionkit.report") / f"{kind}-1.schema.json").read_text())
    return schema


if __name__ == "__main__":
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    print(schema_text(next((kind for kind in _RECORDS if kind == asked), "certify")), end="")
