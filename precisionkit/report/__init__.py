"""Reports: records, JSON Schema, files, and the summary on the terminal.  Imports no torch."""

from precisionkit.report.inspect import INSPECT_SCHEMA, KINDS, InspectReport, Operation, render_inspection
from precisionkit.report.lemma import LEMMA_SCHEMA, Cells, LemmaReport, Output, Row, Spread, TruthInfo, render_lemma, violations
from precisionkit.report.parts import ArithmeticInfo, DataInfo, ModelInfo
from precisionkit.report.profile import Profile
from precisionkit.report.read import read_report
from precisionkit.report.records import (
    SCHEMA,
    VERDICTS,
    Environment,
    Input,
    Picture,
    Report,
    Summary,
    Timing,
    Verdict,
    with_command,
)
from precisionkit.report.summarise import summarise
from precisionkit.report.summary import MEANINGS, conclusion, figures, percent, render
from precisionkit.report.write import check_outputs, check_writable, write_file, write_json, write_table

__all__ = [
    "INSPECT_SCHEMA",
    "KINDS",
    "LEMMA_SCHEMA",
    "MEANINGS",
    "SCHEMA",
    "VERDICTS",
    "ArithmeticInfo",
    "Cells",
    "DataInfo",
    "Environment",
    "Input",
    "InspectReport",
    "LemmaReport",
    "ModelInfo",
    "Operation",
    "Output",
    "Picture",
    "Profile",
    "Report",
    "Row",
    "Spread",
    "Summary",
    "Timing",
    "TruthInfo",
    "Verdict",
    "check_outputs",
    "check_writable",
    "conclusion",
    "figures",
    "percent",
    "read_report",
    "render",
    "render_inspection",
    "render_lemma",
    "summarise",
    "violations",
    "with_command",
    "write_file",
    "write_json",
    "write_table",
]
