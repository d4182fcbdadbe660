"""Which arithmetic does a device obey?  Constructed inputs through its real kernels; see `ask.probe`."""

from precisionkit.probe.ask import contradiction, judge, probe
from precisionkit.probe.findings import Answer, Findings, Judgement, Witness, render_findings
from precisionkit.probe.kernels import Kernels, torch_kernels

__all__ = ["Answer", "Findings", "Judgement", "Kernels", "Witness", "contradiction", "judge", "probe", "render_findings", "torch_kernels"]
