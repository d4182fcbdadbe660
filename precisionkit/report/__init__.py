"""Reports: records, JSON Schema, files, and the summary on the terminal.  Imports no torch."""

from precisionkit.report.guard import GuardPlan, GuardReport, render_guard
from precisionkit.report.inspect import InspectReport, render_inspection
from precisionkit.report.lemma import Cells, LemmaReport, Output, Row, Spread, TruthInfo, render_lemma, violations
from precisionkit.report.parts import ArithmeticInfo, DataInfo, ModelInfo
from precisionkit.report.profile import Profile
from precisionkit.report.profile_text import profile_conclusion, render_profile
from precisionkit.report.read import read_report
from precisionkit.report.records import (
    CERTIFIED,
    VERDICTS,
    WORST_FIRST,
    Environment,
    Input,
    Picture,
    Report,
    Timing,
    Verdict,
    with_command,
)
from precisionkit.report.summarise import summarise
from precisionkit.report.summary import MEANINGS, conclusion, figures, percent, render
from precisionkit.report.write import check_outputs, check_writable, write_file, write_json, write_table

__all__ = [
    "CERTIFIED",
    "MEANINGS",
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
    "Output",
    "Picture",
    "Profile",
    "Report",
    "Row",
    "Spread",
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
