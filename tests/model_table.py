"""``make models``: what is supported and shown of torchvision's classifiers and a transformer, one row each, with random weights.

Batch normalisation gets the statistics of random images, as untrained networks have none.  The sizes are the least at which a
network of the kind works, so that a table takes an hour and not a day; ``--size`` takes another.  Every row is a process of its
own, and is printed when it is done.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from precisionkit.arithmetic import REFERENCE, parse_arithmetic
from precisionkit.batch import Worker
from precisionkit.bound import EFFORT, Ladder
from precisionkit.bound.interval import interval
from precisionkit.capture import capture, survey
from precisionkit.devices import find_device
from precisionkit.evaluate import Program, execute
from precisionkit.graph import Graph

from .bench import NETWORKS, loaded, trained

SEED, CLASSES = 0, 10


class Encoder(nn.Module):
    """Patches, a class token, `nn.TransformerEncoder` with layer normalisation and GELU."""

    def __init__(self, size: int, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.randn(1, (size // 8) ** 2 + 1, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, activation="gelu", norm_first=True)
        self.encoder, self.norm = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False), nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.places
        return self.head(self.norm(self.encoder(tokens))[:, 0])


def of_torchvision(name: str, size: int, **options: object) -> nn.Module:
    import torchvision

    module: nn.Module = getattr(torchvision.models, name)(weights=None, num_classes=CLASSES, **options)
    return module


MODELS = {
    "alexnet": (64, of_torchvision),
    "vgg16_bn": (32, of_torchvision),
    "resnet18": (32, of_torchvision),
    "resnet50": (32, of_torchvision),
    "mobilenet_v2": (32, of_torchvision),
    "mobilenet_v3_small": (32, of_torchvision),
    "mobilenet_v3_large": (32, of_torchvision),
    "densenet121": (32, of_torchvision),
    "efficientnet_b0": (32, of_torchvision),
    "convnext_tiny": (32, of_torchvision),
    "vit_b_16": (32, lambda name, size: of_torchvision(name, size, image_size=size)),
    "swin_t": (32, of_torchvision),
    "googlenet": (32, partial(of_torchvision, aux_logits=False, init_weights=True)),
    "transformer_encoder": (32, lambda name, size: Encoder(size)),
}
"""Names, sizes of images, and how they are built."""


@dataclass(frozen=True)
class Verdicts:
    """Of one program.

    Attributes
    ----------
    proved, probable : int
        Out of the images.
    bound, error : float
        Medians, of the gap to the closest class: what is bounded, and what the two runs differed by.
    passes : float
        Time of an image, in forward passes.
    """

    proved: int
    probable: int
    bound: float
    error: float
    passes: float

    def __str__(self) -> str:
        bound = f"{self.bound:.2g}" if self.bound < float("inf") else "-"
        return f"{self.proved} / {self.probable} | {bound} | {self.error:.2g} | {self.passes:.0f}"


@dataclass(frozen=True)
class Row:
    """What is found of one network.

    Attributes
    ----------
    supported : float
        Share of its operators.
    inside : bool
        Runs in binary32 and both half formats, by binary32 kernels and by native ones, are where the interval method says.
    """

    name: str
    shape: tuple[int, ...]
    weights: str
    parameters: int
    operators: int
    kinds: int
    supported: float
    inside: bool
    single: Verdicts
    half: Verdicts

    def __str__(self) -> str:
        return (
            f"| {self.name} | {' x '.join(map(str, self.shape))} | {self.weights} | {self.parameters / 1e6:.2f} M | {self.operators} ({self.kinds}) | {100 * self.supported:.0f} % "
            f"| {'yes' if self.inside else 'no'} | {self.single} | {self.half} |"
        )


HEAD = (
    "| network | input | weights, images | parameters | operators (kinds) | supported | runs inside | fp32: proved / probable | bound | measured | passes "
    "| fp16: proved / probable | bound | measured | passes |\n" + "|---" * 15 + "|"
)


def build(name: str, size: int) -> nn.Module:
    torch.manual_seed(SEED)
    module = MODELS[name][1](name, size)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    module.train()
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.eval()
    with torch.no_grad():
        for _ in range(2 if norms else 0):
            module(torch.rand(16, 3, size, size))
    return module.eval()


def row(name: str, given: Options) -> Row:
    """Measure one network: torchvision's with random weights, or one of the zoo with its own on real images."""
    device = find_device(given.device)
    if name in MODELS:
        size = given.size or MODELS[name][0]
        module, inputs = build(name, size), torch.rand(given.images, 3, size, size)
        weights, method, effort = "random", "adjoint", given.effort
    else:
        trained(name, NETWORKS[name])
        model, data = loaded(name, NETWORKS[name])
        module, inputs = model.module, model.preprocess(data.images)
        weights, method, effort = "trained", "auto", EFFORT
    shape = tuple(inputs.shape[1:])
    seen, graph = survey(module, shape).seen, capture(module, shape)
    inside = True
    for storage in ("fp32", "fp16", "bf16"):
        program = Program.of(graph, parse_arithmetic(storage), device)
        stored = program.inputs(inputs).to(device)
        bounds = interval(program, stored)
        for run in (execute(program, stored), execute(program, stored, native=storage != "fp32")):
            claimed = bounds.overflow < 0
            inside = (
                inside and bool(((run.logits - bounds.centre).abs() <= bounds.radius).cpu()[claimed.cpu()].all()) and bool(run.finite.all())
            )
    reference = Program.of(graph, REFERENCE, device)
    forward = min(seconds(reference, inputs[:1].to(device)) for _ in range(4))
    single, half = (verdicts(graph, storage, inputs, (method, effort), forward, device) for storage in ("fp32", "fp16"))
    return Row(
        name,
        shape,
        f"{weights}, {len(inputs)}",
        sum(p.numel() for p in module.parameters()),
        len(seen),
        len({s.target for s in seen}),
        sum(s.operator is not None for s in seen) / len(seen),
        inside,
        single,
        half,
    )


def seconds(program: Program, inputs: torch.Tensor) -> float:
    """One run."""
    start = time.perf_counter()
    execute(program, inputs).logits.cpu()
    return time.perf_counter() - start


def verdicts(graph: Graph, storage: str, inputs: torch.Tensor, ladder: tuple[str, float], forward: float, device: torch.device) -> Verdicts:
    arithmetic = parse_arithmetic(storage)
    method, effort = ladder
    worker = Worker(graph, arithmetic, Ladder.of(method, arithmetic, effort), device, device, False, None, None)
    start = time.perf_counter()
    found = [worker.batch(one, i, None)[0] for i, one in enumerate(inputs.split(1))]
    taken = time.perf_counter() - start
    bounds = sorted(i.bound if i.bound is not None else float("inf") for i in found)
    errors = sorted(i.measured_error or 0.0 for i in found)
    kinds = [i.verdict for i in found]
    middle = len(found) // 2
    return Verdicts(kinds.count("proved"), kinds.count("probable"), bounds[middle], errors[middle], taken / len(found) / forward)


ABOUT = """# Networks of today

Written by `make models`. Networks of torchvision and a transformer have random weights and random images, as many as the table says, and batch normalisation the statistics of random images; those of the zoo have their own weights
and real images, the first of the test set. Operators are those of the exported program, kinds the different ones. Runs inside: runs in fp32, fp16 and bf16, by binary32 kernels and by the CPU's half kernels, lie where the interval method says,
where it says something. Proved and probable: images, with `--method auto` for the zoo, and `--method adjoint --effort {effort:g}` for the others, against the reference program; bound and measured difference are medians for the gap to the
closest class, `-` where there is no bound (in fp32 both runs are the same one: measured 0; `auto` stops at the first method that decides, so that a bound in fp32 may be that of the interval method); passes is the time of an image in forward passes of one image, one thread. Untrained networks have small gaps and many neurons near zero: in fp16 errors of thousands of them add up in the
worst case, and no method here bounds them.

"""


@dataclass(frozen=True)
class Options:
    """Of the command."""

    size: int | None
    images: int
    effort: float
    device: str

    def __str__(self) -> str:
        size = [f"--size={self.size}"] if self.size else []
        return " ".join([*size, f"--images={self.images}", f"--effort={self.effort}", f"--device={self.device}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[], metavar="NAME", help="torchvision's names, transformer_encoder, or of the zoo")
    parser.add_argument("--size", type=int, help="side of the images")
    parser.add_argument("--images", type=int, default=1, help="with random weights")
    parser.add_argument("--effort", type=float, default=1000.0, help="with random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", action="store_true", help="print the row of one network, in this process")
    parser.add_argument("--write", type=Path, help="write the table to a file as well, row by row")
    given = parser.parse_args()
    options = Options(given.size, given.images, given.effort, given.device)
    if given.one:
        torch.set_num_threads(1)
        print(row(given.names[0], options), flush=True)
        return
    lines = [ABOUT.format(effort=given.effort) + HEAD]
    print(HEAD, flush=True)
    for name in given.names or [*MODELS, *NETWORKS]:
        command = [sys.executable, "-m", "tests.model_table", "--one", name, *str(options).split()]
        made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        lines.append(made.stdout.strip().splitlines()[-1])
        print(lines[-1], flush=True)
        if given.write:
            given.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
