"""The command line: results on stdout, talk on stderr, documented exit codes.

Heavy modules are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

from typing import Any

import click

from precisionkit.cli.certify import certify
from precisionkit.cli.check import check
from precisionkit.cli.guard import guard
from precisionkit.cli.inspect import inspect
from precisionkit.cli.lemma import lemma
from precisionkit.cli.ops import ops
from precisionkit.cli.probe import probe
from precisionkit.cli.profile import profile
from precisionkit.cli.report import report
from precisionkit.cli.reproduce import reproduce
from precisionkit.cli.shared import INTERRUPTED
from precisionkit.cli.train import train
from precisionkit.cli.tune import tune


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; Ctrl-C while modules are imported exits as it does later."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="precisionkit")
def main() -> None:
    """Tell whether running a trained classifier in half precision can change its predictions."""


main.add_command(certify)
main.add_command(check)
main.add_command(guard)
main.add_command(inspect)
main.add_command(lemma)
main.add_command(ops)
main.add_command(probe)
main.add_command(profile)
main.add_command(report)
main.add_command(reproduce)
main.add_command(train)
main.add_command(tune)

__all__ = ["main"]
