"""Reports: records, JSON Schema, files, and the summary on the terminal.  Imports no torch."""

from precisionkit.report.guard import GUARD_SCHEMA, GuardPlan, GuardReport, render_guard
from precisionkit.report.inspect import INSPECT_SCHEMA, KINDS, InspectReport, Operation, render_inspection
from precisionkit.report.lemma import LEMMA_SCHEMA, Cells, LemmaReport, Output, Row, Spread, TruthInfo, render_lemma, violations
from precisionkit.report.parts import ArithmeticInfo, DataInfo, ModelInfo
from precisionkit.report.profile import Ladder as NodeLadder
from precisionkit.report.profile import NodeProfile, Profile
from precisionkit.report.profile_text import profile_conclusion, render_profile
from precisionkit.report.read import read_report
from precisionkit.report.records import (
    CERTIFIED,
    SCHEMA,
    VERDICTS,
    WORST_FIRST,
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
    "CERTIFIED",
    "GUARD_SCHEMA",
    "INSPECT_SCHEMA",
    "KINDS",
    "LEMMA_SCHEMA",
    "MEANINGS",
    "SCHEMA",
    "VERDICTS",
    "WORST_FIRST",
    "ArithmeticInfo",
    "Cells",
    "DataInfo",
    "Environment",
    "GuardPlan",
    "GuardReport",
    "Input",
    "InspectReport",
    "LemmaReport",
    "ModelInfo",
    "NodeLadder",
    "NodeProfile",
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
    "profile_conclusion",
    "read_report",
    "render",
    "render_guard",
    "render_inspection",
    "render_lemma",
    "render_profile",
    "summarise",
    "violations",
    "with_command",
    "write_file",
    "write_json",
    "write_table",
]
