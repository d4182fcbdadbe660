"""``precisionkit probe``."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.cli.shared import OK, deliver, guarded, json_option
from precisionkit.report import check_writable

_EXIT_CODES = """\b
Exit codes:
  0    done, whatever was found
  2    wrong use, or a device that is not there
"""


@click.command(epilog=_EXIT_CODES)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 or mps.")
@click.option("--storage", default="fp16", show_default=True, metavar="FORMAT", help="fp16, bf16 or fp32.")
@json_option("Write the findings as JSON.")
def probe(device: str, storage: str, json_file: Path | None) -> None:
    """Find out which arithmetic a device obeys: constructed inputs through its real kernels, of matrix products, convolutions, attention.

    Says which arithmetics are refuted, with a witness, and which are not; how sums round and in which tree they are added; whether rows
    depend on the batch size or the threads; and warns of flushed subnormal numbers, Winograd convolutions, and reductions,
    normalisations or softmax that compute in less than binary32.
    """
    sys.exit(guarded(lambda talk: _probe(device, storage, json_file, talk), less="free some on the device"))


def _probe(device: str, storage: str, json_file: Path | None, talk: Console) -> int:
    arithmetic = parse_arithmetic(storage)
    if json_file is not None:
        check_writable(json_file)
    from precisionkit.devices import find_device
    from precisionkit.evaluate import device_flags
    from precisionkit.probe import probe as ask
    from precisionkit.probe import render_findings, torch_kernels

    found = find_device(device)
    with device_flags(arithmetic):
        findings = ask(torch_kernels(found, arithmetic.storage))
    deliver(talk, findings, render_findings(findings), json_file)
    return OK
