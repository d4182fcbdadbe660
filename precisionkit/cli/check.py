"""``precisionkit check``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from precisionkit.cli.shared import OK, Source, certificate_options, guarded, progress, show, taken
from precisionkit.errors import UnusableDataError, UsageError, shown

if TYPE_CHECKING:
    from precisionkit.checker import Certificate, Verified

REFUSED = 1

_EXIT_CODES = """\b
Exit codes:
  0    accepted
  1    refused; the step is named
  2    wrong use, or no such file
"""


@dataclasses.dataclass(frozen=True)
class _Request:
    file: Path
    sample: int | None
    seed: int
    quiet: bool


@click.command(epilog=_EXIT_CODES)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Check N inputs, drawn at random [default: all].")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the draw.")
@certificate_options
def check(**options: Any) -> None:
    """Derive the claims of a certificate again, which 'precisionkit certify --certificate FILE' wrote.

    The checker is precisionkit.checker: numpy alone, no code of the analysis, short enough to be read. It takes the
    network and the inputs from the certificate; with --model and --data, they are compared with those, bit for bit.
    """
    source, request = taken(Source, options), taken(_Request, options)
    sys.exit(guarded(lambda talk: _check(source, request, talk), less="choose a smaller --sample"))


def _check(source: Source, request: _Request, talk: Console) -> int:
    from precisionkit.checker import CertificateError
    from precisionkit.checker import check as verify

    if source.data is not None and source.model is None:
        raise UsageError("--data alone cannot be compared with the certificate, since a model says how its inputs are made; give --model.")
    if source.model is None and source.given:
        sample = "; to check some inputs only, give --sample" if "--limit" in source.given else ""
        raise UsageError(f"{source.given[0]} is for a model to compare with; give --model as well, or leave it out{sample}.")
    try:
        with progress(talk, "checking", quiet=request.quiet) as advance:
            verified = verify(request.file, request.sample, request.seed, advance)
    except CertificateError as error:
        talk.print(f"{error}", markup=False)
        return REFUSED
    except OSError as error:
        raise UnusableDataError(f"The certificate '{request.file}' cannot be read: {error.strerror or error}.") from error
    found = None if source.model is None else _compared(source, verified.certificate)
    if found is not None:
        talk.print(f"Refused at the step 'comparison': {found}.", markup=False)
        return REFUSED
    show(_rendered(verified))
    for line in _accepted(verified, source):
        show(line)
    return OK


def _compared(source: Source, certificate: Certificate) -> str | None:
    from precisionkit.certificates import differences

    with source.registered():
        if source.data is None:
            return differences(certificate, source.load_model(tuple(certificate.inputs.shape[1:])), None)
        return differences(certificate, *source.load())


def _rendered(verified: Verified) -> Table:
    from precisionkit.checker import METHODS, REFERENCE

    certificate, rows = verified.certificate, verified.rows
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    held = len(certificate.index)
    table.add_row("it says", f"model {shown(certificate.model.name)}, sha256 {certificate.model.sha256}")
    data = f"data {shown(certificate.data.name)}, {shown(certificate.split)}, sha256 {certificate.data.sha256}"
    table.add_row("", data)
    table.add_row(
        "network", f"{len(certificate.network.nodes)} nodes, {sum(v.size for v in certificate.network.constants.values()):,} numbers"
    )
    table.add_row("reference", REFERENCE.name)
    table.add_row("half", certificate.rule.name)
    table.add_row("inputs", f"{held:,} of {certificate.total:,} are in the certificate; {len(rows):,} of them were checked")
    for program, name in enumerate(("reference", "half")):
        counts = [(int((certificate.methods[rows, program] == place).sum()), method) for place, method in enumerate(METHODS)]
        by = ", ".join(f"{method} {count:,}" for count, method in counts if count)
        tightest = int(verified.least[:, program].argmin())
        least, index = verified.least[tightest, program], certificate.index[rows[tightest]]
        table.add_row("", f"{name}: by {by}; least gap {least:.6g}, of input {index}")
    table.add_row("this file", f"sha256 {verified.sha256}")
    return table


def _accepted(verified: Verified, source: Source) -> list[str]:
    from precisionkit.checker import assumptions

    certificate = verified.certificate
    held, checked, other = len(certificate.index), len(verified.rows), certificate.total - len(certificate.index)
    which = f"{checked:,} inputs of the certificate" if checked == held else f"{checked:,} inputs that were checked"
    lines = [f"Accepted: for each of the {which}, every run of both programs predicts the same class."]
    if other:
        lines.append(f"It says nothing of the other {other:,} of {certificate.total:,} inputs of the data.")
    if source.data is not None:
        lines.append(f"The network and the inputs are those of {source.model} and {source.data}.")
    elif source.model is not None:
        lines.append(f"The network is that of {source.model}. Not compared with files of yours: the inputs; give --data.")
    else:
        lines.append("Not compared with files of yours: the network and the inputs; give --model and --data.")
    return [*lines, "Taken for granted:", *(f"  {sentence}" for sentence in assumptions(certificate))]
