"""Reports: records, JSON Schema, files, and the summary on the terminal.  Imports no torch."""

from precisionkit.report.records import (
    SCHEMA,
    VERDICTS,
    ArithmeticInfo,
    DataInfo,
    Environment,
    Input,
    ModelInfo,
    Report,
    Summary,
    Timing,
    Verdict,
)
from precisionkit.report.summarise import summarise
from precisionkit.report.summary import conclusion, render
from precisionkit.report.write import check_writable, write_json, write_table

__all__ = [
    "SCHEMA",
    "VERDICTS",
    "ArithmeticInfo",
    "DataInfo",
    "Environment",
    "Input",
    "ModelInfo",
    "Report",
    "Summary",
    "Timing",
    "Verdict",
    "check_writable",
    "conclusion",
    "render",
    "summarise",
    "write_json",
    "write_table",
]
