"""``precisionkit certify``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from precisionkit.cli.shared import (
    INTERRUPTED,
    NOT_CERTIFIED,
    OK,
    Asked,
    Kept,
    Source,
    access_options,
    command_line,
    confidence_option,
    device_arithmetic_options,
    effort_option,
    guarded,
    json_option,
    keep_options,
    memory_errors,
    progress,
    show,
    source_options,
    taken,
    tell_written,
)
from precisionkit.errors import UsageError
from precisionkit.formats import BINARY32
from precisionkit.report import Report, check_outputs, render, with_command, write_file, write_json, write_table

if TYPE_CHECKING:
    from precisionkit.data import Dataset
    from precisionkit.models import LoadedModel
    from precisionkit.processes import Processes

_NO_MATTER = ("resume", "progress", "json_file", "table_file", "html_file", "certificate_file", "fail_under", "download", "quiet")
"""Options that change nothing in a report."""

_NEXT = (
    "Next: 'precisionkit profile' with the same MODEL and --data says which node adds the errors; 'precisionkit tune' finds what to keep "
    "in fp32; 'precisionkit guard' makes a model that falls back to fp32 for inputs that may flip."
)
"""For a person whose inputs are not all certified."""

_EXIT_CODES = """\b
Exit codes:
  0    done
  1    a prediction flipped, fewer than --fail-under percent are certified, or nothing could be written into --certificate
  2    wrong use, or an unusable model, data set or report path
  3    a run left its proved enclosure: nothing can be relied on, please report it
  130  interrupted; partial results are kept and marked incomplete
"""


@dataclasses.dataclass(frozen=True)
class _Request:
    """What the options ask for beside model, data and arithmetic, before anything is loaded."""

    method: str
    effort: float
    confidence: float
    device: str
    batch_size: int | None
    json_file: Path | None
    table_file: Path | None
    html_file: Path | None
    certificate_file: Path | None
    fail_under: float | None
    native: bool
    linearised: bool
    probe: bool
    kept: Kept
    profile: bool
    resume: bool
    progress: str
    quiet: bool


@click.command(epilog=_EXIT_CODES)
@source_options
@device_arithmetic_options
@click.option(
    "--method",
    type=click.Choice(["auto", "interval", "zonotope", "adjoint"]),
    default="auto",
    show_default=True,
    help="interval: fast, for one or two layers. zonotope: correlations kept, for deep networks. auto: the cheapest that decides each "
    "input. adjoint: probabilities under a model of random rounding.",
)
@effort_option
@confidence_option
@click.option("--device", default="cpu", show_default=True, help="Where both programs run: cpu, cuda, cuda:1 or mps.")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="[default: by the size of the network]")
@json_option("Write the whole report as JSON.")
@click.option("--table", "table_file", type=click.Path(path_type=Path), metavar="FILE", help="Write one row an input, .csv or .parquet.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the report to be read in a browser.")
@click.option(
    "--certificate",
    "certificate_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write what is needed to derive the 'proved' verdicts again, for 'precisionkit check FILE'.",
)
@click.option("--fail-under", type=click.FloatRange(0, 100), metavar="PERCENT", help="Exit with 1 if fewer are certified.")
@click.option("--native", is_flag=True, help="On a CPU, run the real half kernels (slow) instead of fp32 kernels with one rounding each.")
@click.option("--linearised", is_flag=True, help="Report first-order numbers as well: how far a sharper method could get. Never a verdict.")
@click.option(
    "--probe/--no-probe",
    default=True,
    show_default=True,
    help="Try first whether the kernels that make the runs obey the arithmetic, and refuse if they do not.",
)
@keep_options
@click.option("--profile", is_flag=True, help="Put errors and shares node by node into the report, as 'precisionkit profile' finds them.")
@click.option("--resume", is_flag=True, help="Go on with a run with the same --json that was killed or interrupted.")
@click.option(
    "--progress",
    type=click.Choice(["bar", "json"]),
    default="bar",
    show_default=True,
    help="On stderr: a bar, or lines where it is no terminal; or lines of JSON, for machines.",
)
@access_options
def certify(**options: Any) -> None:
    """Certify every input of a data set: whether running MODEL in half precision can change its prediction.

    MODEL is a state dict (.pt, .pth, .th), a .safetensors or .onnx file, an exported program (.pt2), a file of this project that names
    its architecture, or a model by name: torchvision:NAME, timm:NAME, hf:FOLDER, a name of the zoo, or package.module:factory.

    With --json, results are kept on disk while it runs, beside that file. With torchrun --nproc-per-node N -m precisionkit certify ...,
    N processes share the inputs.
    """
    options["kept"] = taken(Kept, options)
    source, asked, request = taken(Source, options), taken(Asked, options), taken(_Request, options)
    command = command_line(click.get_current_context(), leave_out=_NO_MATTER)
    from precisionkit.processes import leave

    leave(guarded(lambda talk: _joined(source, asked, request, command, talk), less="choose a smaller --batch-size"))


def _joined(source: Source, asked: Asked, request: _Request, command: str, talk: Console) -> int:
    """Certify alone, or together with the processes that torchrun started."""
    from precisionkit.processes import join_processes

    kind = "cuda" if request.device.startswith("cuda") else "cpu"
    with join_processes(kind) as members:
        if members.world > 1:
            if request.json_file is None:
                raise UsageError("Several processes need --json FILE, beside which their results meet.")
            request = dataclasses.replace(request, device=str(members.device), quiet=request.quiet or not members.leads)
        elif request.resume and request.json_file is None:
            raise UsageError("--resume goes on with what is kept beside --json FILE; name that file.")
        return _certify(source, asked, request, command, members, talk)


def _certify(source: Source, asked: Asked, request: _Request, command: str, members: Processes, talk: Console) -> int:
    outputs = {
        "--json": request.json_file,
        "--table": request.table_file,
        "--html": request.html_file,
        "--certificate": request.certificate_file,
    }
    check_outputs(outputs, (*source.files, request.kept.plan))
    _ = request.kept.planned  # before anything that takes time
    with source.registered():
        model, data = source.load()
        report = with_command(_run(model, data, asked, request, members, talk), command)
        if not members.leads:
            return OK
        if request.profile and report.complete:
            try:
                report = _profiled(model, data, asked, report, request, talk)
            except KeyboardInterrupt:
                _without_profile(report, request, talk, "Interrupted: the report has no profile.")
                return INTERRUPTED
            except Exception:  # whatever it is, what was certified is written before it is told
                _without_profile(report, request, talk, "The report has no profile.")
                raise
        code = _told(report, request, talk)
        if request.certificate_file is None:
            return code
        return _certified(model, data, report, request, talk) or code


def _told(report: Report, request: _Request, talk: Console) -> int:
    """Show and write a report; the exit code."""
    show(render(report))
    if talk.is_terminal and not request.quiet and _has_more_to_do(report):
        talk.print(_NEXT, markup=False)
    _write(report, request, talk)
    return _verdict(report, request, talk)


def _has_more_to_do(report: Report) -> bool:
    """Whether inputs are left that profile, tune and guard may help with; not where all is in fp32 already."""
    return report.complete and report.summary.certified < report.summary.inputs and report.arithmetic.storage != BINARY32.name


def _without_profile(report: Report, request: _Request, talk: Console, said: str) -> None:
    """Tell what was certified, which is whole without a profile."""
    talk.print(said)
    _told(report, request, talk)
    if request.certificate_file is not None:
        talk.print("No certificate was written.")


def _run(model: LoadedModel, data: Dataset, asked: Asked, request: _Request, members: Processes, talk: Console) -> Report:
    """Certify; a certificate that cannot be written is refused before."""
    from precisionkit.certificates import check_certifiable
    from precisionkit.certify import Settings
    from precisionkit.certify import certify as certify_data
    from precisionkit.stream import Keeping

    arithmetic = asked.arithmetic(request.device)
    request.kept.check(model, arithmetic)
    if request.certificate_file is not None:
        check_certifiable(model, data, arithmetic, request.kept.keep)
    settings = Settings(
        method=request.method,
        effort=request.effort,
        confidence=request.confidence,
        device=request.device,
        batch_size=request.batch_size,
        native=request.native,
        linearised=request.linearised,
        emulate=asked.emulate,
        probe=request.probe,
        keep=request.kept.keep,
        pictures=request.json_file is not None or request.html_file is not None,
    )
    keeping = None if request.json_file is None else Keeping(request.json_file, request.resume, members)
    with memory_errors(), progress(talk, "certifying", quiet=request.quiet, as_json=request.progress == "json") as advance:
        return certify_data(model, data, arithmetic, settings, advance, keeping)


def _profiled(model: LoadedModel, data: Dataset, asked: Asked, report: Report, request: _Request, talk: Console) -> Report:
    """Add a profile to a whole report."""
    from msgspec.structs import replace

    from precisionkit.profile import Settings, make_profile

    settings = Settings(confidence=request.confidence, emulate=asked.emulate, keep=request.kept.keep)
    with memory_errors(), progress(talk, "profiling", quiet=request.quiet, as_json=request.progress == "json") as advance:
        return replace(report, profile=make_profile(model, data, asked.arithmetic(request.device), settings, advance))


def _certified(model: LoadedModel, data: Dataset, report: Report, request: _Request, talk: Console) -> int:
    """Write the certificate of a whole run; say why not."""
    if not report.complete:
        talk.print("No certificate was written.")
        return INTERRUPTED
    try:
        _write_certificate(model, data, report, request, talk)
    except KeyboardInterrupt:
        talk.print("Interrupted: no certificate was written.")
        return INTERRUPTED
    except UsageError as error:
        talk.print(f"No certificate was written: {error}", markup=False)
        return NOT_CERTIFIED
    return OK


def _write_certificate(model: LoadedModel, data: Dataset, report: Report, request: _Request, talk: Console) -> None:
    """Have the checker prove what was proved, and write it down."""
    from precisionkit.certificates import make_certificate
    from precisionkit.checker import encode

    assert request.certificate_file is not None
    with progress(talk, "deriving", quiet=request.quiet) as advance:
        made = make_certificate(model, data, report, advance)
    write_file(request.certificate_file, encode(made.certificate))
    if made.beyond:
        order = report.arithmetic.order
        harder = "" if order == "any" else f", and hold for sums in any order, not in {order} order alone"
        talk.print(
            f"{made.beyond} of {report.summary.proved} proved inputs are not in the certificate: the checker's bounds, which are simpler"
            f"{harder}, do not suffice for them."
        )
    tell_written(talk, request.certificate_file, quiet=request.quiet)


def _write(report: Report, request: _Request, talk: Console) -> None:
    if request.json_file is not None:
        from precisionkit.stream import forget

        write_json(report, request.json_file)
        if report.complete:
            forget(request.json_file)
    if request.table_file is not None:
        write_table(report, request.table_file)
    if request.html_file is not None:
        from precisionkit.html import page

        write_file(request.html_file, page(report).encode())
    tell_written(talk, request.json_file, request.table_file, request.html_file, quiet=request.quiet)


def _verdict(report: Report, request: _Request, talk: Console) -> int:
    """Exit code of a report, and a sentence for each that is not 0."""
    if not report.complete:
        talk.print(f"Interrupted: partial results are kept and marked incomplete ({report.summary.inputs} of {report.data.inputs} inputs).")
        return INTERRUPTED
    code = OK
    if report.summary.flipped:
        flipped = report.summary.flipped
        talk.print(f"Not certified: {flipped} prediction{'s' * (flipped > 1)} flipped.")
        code = NOT_CERTIFIED
    if request.fail_under is not None and report.certified_percent < request.fail_under:
        talk.print(f"Not certified: {report.certified_percent:.2f} % are certified, less than --fail-under {request.fail_under:g}.")
        code = NOT_CERTIFIED
    return code
