"""Every command and every program of README.md and docs/ runs, prints what is shown there, or is named here with the reason why not."""

import contextlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from precisionkit.arithmetic import REFERENCE
from precisionkit.cli import main
from precisionkit.evaluate import device_flags
from tests.documented import PAGES, ROOT, Example, commands, mentioned, missing, page_name, programs

SHARED = Path(os.environ.get("SHARED", ROOT.parent / "shared"))

# Of commands that are not run: the reason. Their options are parsed, their targets, modules and extras looked up.
NOT_RUN = {
    "precisionkit probe --device cuda --storage fp16 --json gpu.json": "needs a GPU",
    "precisionkit reproduce cifar10 --full --device cuda": "needs a GPU, and days",
    "precisionkit reproduce mnist --full": "takes an hour",
    "precisionkit train paper_resnet20 --data cifar10 --precision fp32 --weight-decay 1e-4 --batch-norm-momentum 0.9 --minutes 60 "
    "--threads 1": "takes an hour",
    "precisionkit train paper_resnet20 --data cifar10 --precision fp16 --weight-decay 1e-4 --batch-norm-momentum 0.9 --minutes 60 "
    "--threads 1": "takes an hour",
    "precisionkit certify runs/resnet20-fp16/model.pt --data cifar10 --limit 100": "takes an hour, and needs a trained network",
    "precisionkit guard model.pt --data cifar10 --limit 5000 --risk 1e-3 --confidence 0.99 --out guard.json": "needs a trained network",
    "precisionkit guard model.pt --data cifar10 --skip 5000 --try guard.json": "needs a trained network",
    "precisionkit reproduce mnist --quick": "takes a quarter of an hour",
    "precisionkit train mnist_dnn --data mnist --precision fp16 --epochs 3 --out runs/dnn-fp16": "takes minutes",
    "precisionkit certify runs/dnn-fp16/model.pt --data mnist": "needs the network that the command before it trains",
    "pip install -e '.[digits,vision]'": "installs",
    "make mutants": "takes half an hour",
    "python -m tests.mutants ops/_dot.py": "takes minutes",
    'python -m tests.mutants "the repaired lemma is the published one"': "copies the checkout; tests/test_mutants.py runs such ones",
    "make proofs": "takes minutes, and Coq",
}

# Run on fewer inputs than is written, which changes the numbers that are shown.
SHORTER = {
    "precisionkit certify mnist_fc_3layer.pth --arch mnist_fc_3layer --data mnist --json report.json --fail-under 98": "--limit 500",
    "precisionkit certify digits_cnn --data digits --certificate digits.cert": "--limit 30",
    "precisionkit lemma mnist_fc_3layer.pth --arch mnist_fc_3layer --data mnist --arb 2000 --mpmath 200 --figure margins.svg": (
        "--limit 40 --arb 4 --mpmath 1"
    ),
}

# Commands whose exit code is not 0, and is said so.
EXIT_CODES = {
    "precisionkit inspect sorting:Net --weights random --input-shape 8": 1,
    "precisionkit certify digits_cnn --data digits --storage bf16 --json report.json --table report.csv": 1,
    "precisionkit train mnist_dnn --data mnist --precision fp16 --optimizer adam --epsilon 1e-8": 1,
}

_NET = """
import copy
import torch
from torch import nn

torch.manual_seed(0)
module = model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
images = 10 * torch.randn(4, 8)


def model_on_the_gpu(x):
    return copy.deepcopy(model).half()(x.half()).float()


"""
# What examples take for granted, by page and first line.
_DIGITS = """
from precisionkit.data import load_dataset
from precisionkit.models import bundled_model, load_model

model = load_model(bundled_model("digits_cnn"))
x = model.preprocess(load_dataset("digits").images[:20])
"""

GIVEN = {
    ("docs/guard.md", "from precisionkit.guard import load_guarded"): _DIGITS,
    ("README.md", "from precisionkit.pytest_plugin import assert_certified, assert_close_proved"): _NET,
    ("README.md", "from precisionkit.reference import forward"): _NET,
}


def make_net_and_data():
    made = importlib.import_module("my_operators").Net()
    torch.save(made.state_dict(), "net.pt")
    np.savez("data.npz", images=np.ones((3, 8), np.float32), labels=np.zeros(3, int))


def make_a_test():
    Path("test_order.py").write_text(
        "def test_order(precisionkit_arithmetic):\n    assert precisionkit_arithmetic.order.name == 'gpu:hopper'\n"
    )


# What commands of a page find in their folder.
def run_first(*words):
    done = CliRunner().invoke(main, [*words, "-q"], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def make_guard():
    run_first("guard", "digits_cnn", "--data", "digits", "--risk", "0.02", "--out", "guard.json")


def make_plan():
    run_first("tune", "digits_cnn", "--data", "digits", "--limit", "20", "--at", "proved", "--json", "plan.json")


FOUND = {
    "docs/guard.md": make_guard,
    "docs/tune.md": make_plan,
    "docs/custom-operators.md": make_net_and_data,
    "docs/pytest.md": make_a_test,
}

BY_PAGE = {page_name(path): commands(path) for path in PAGES}
RUN = {page: kept for page, found in BY_PAGE.items() if (kept := [e for e in found if e.command not in NOT_RUN])}
LEFT_OUT = sorted({e.command for found in BY_PAGE.values() for e in found} & set(NOT_RUN))
# tests/plugin runs those of docs/pytest.md.
PROGRAMS = {page_name(path): found for path in PAGES if (found := programs(path)) and page_name(path) != "docs/pytest.md"}
MODELS = {path.name: path for path in sorted((SHARED / "models").glob("*"))} if SHARED.is_dir() else {}


def option_error(words):
    """What click says of a command's words; the command is not run."""
    name, *rest = words
    if name not in main.commands:
        return f"no command {name}"
    try:
        main.commands[name].make_context(name, rest)
    except click.exceptions.Exit:
        return None
    except click.ClickException as error:
        return error.format_message()
    return None


def target_error(target):
    return None if re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE) else f"no target {target}"


def extras_error(requirement):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.search(r"\[(.*)\]", requirement)
    unknown = set(named[1].split(",")) - set(extras) if named else set()
    return f"no extras {unknown}" if unknown else None


def module_error(module):
    try:
        return None if importlib.util.find_spec(module) else f"no module {module}"
    except ModuleNotFoundError as error:
        return str(error)


def parse_error(words):
    """What is wrong with a command that is not run; None if nothing is."""
    match words:
        case ["precisionkit", *rest]:
            return option_error(rest)
        case ["make", *targets]:
            return next(filter(None, (target_error(t) for t in targets if "=" not in t)), None)
        case ["pip", "install", *rest]:
            return extras_error(rest[-1])
        case ["python", "-m", "precisionkit", *rest]:
            return option_error(rest)
        case ["python", "-m", module, *_]:
            return module_error(module)
        case ["torchrun", *rest] if "-m" in rest:
            return parse_error(["python", *rest[rest.index("-m") :]])
    return f"do not know how to check {words}"


@pytest.mark.parametrize("code", LEFT_OUT)
def test_a_command_that_is_not_run_has_options_that_exist(code):
    assert parse_error(Example("", code).words) is None


def test_every_reason_and_every_exception_belongs_to_a_command_that_is_written():
    written = {e.command for found in BY_PAGE.values() for e in found}
    assert set(NOT_RUN) <= written, set(NOT_RUN) - written
    assert set(SHORTER) | set(EXIT_CODES) <= written
    firsts = {(e.page, e.code.splitlines()[0]) for found in PROGRAMS.values() for e in found}
    assert set(GIVEN) <= firsts


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("precisionkit certify x --data digits --ordr any", "No such option"),
        ("precisionkit certfy", "no command certfy"),
        ("make everything", "no target everything"),
        ("pip install 'precisionkit[magic]'", "no extras"),
        ("python -m tests.nothing", "no module"),
        ("ls", "do not know"),
    ],
)
def test_a_wrong_command_is_found(words, error):
    assert error in parse_error(Example("", words).words)


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_commands_in_running_text_exist(path):
    for example in mentioned(path):
        words = example.code.replace("'", "").split()
        if words[0] == "precisionkit":
            command = main.commands.get(words[1])
            if words[1].isupper() or words[1].startswith("-"):  # COMMAND, --help
                continue
            assert command is not None, example
            known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help", "-h"}
            assert {word.rstrip(",.").split("=")[0] for word in words[2:] if word.startswith("--")} <= known, example
        elif words[0] in ("make", "pip", "python"):
            assert parse_error(words) is None, example


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to run examples in, as in a process of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.setenv("COLUMNS", "200")
    if (SHARED / "data").is_dir():
        monkeypatch.setenv("PRECISIONKIT_DATA", str(SHARED / "data"))
    modules = set(sys.modules)
    with torch.random.fork_rng(devices=[]), device_flags(REFERENCE):
        yield tmp_path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def run_program(example, folder):
    """Run a block of Python as a file, as a test where it has tests; returns what it prints."""
    code = GIVEN.get((example.page, example.code.splitlines()[0]), "") + example.code
    path = folder / (example.file or "test_example.py")
    path.write_text(code)
    if "def test_" in code:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), *plugin(), str(path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if example.file:
            importlib.import_module(path.stem)
        else:
            exec(compile(code, str(path), "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def plugin():
    from importlib.metadata import entry_points

    return [] if any(point.name == "precisionkit" for point in entry_points(group="pytest11")) else ["-p", "precisionkit.pytest_plugin"]


def run_command(example, folder):
    """Run a command in this process where it is ours; returns its exit code and what it prints."""
    match example.words:
        case ["precisionkit", *rest]:
            done = CliRunner().invoke(main, [*rest, *SHORTER.get(example.command, "").split()], catch_exceptions=False)
            return done.exit_code, done.output
        case ["make", target]:
            recipe = subprocess.run(["make", "-n", "-o", ".venv/.installed", target], check=True, capture_output=True, text=True, cwd=ROOT)
            line = re.search(r"precisionkit (.*)", recipe.stdout)
            assert line, recipe.stdout
            (folder / "reports").mkdir()
            shutil.copytree(ROOT / "precisionkit" / "models" / "weights", folder / "precisionkit" / "models" / "weights")
            done = CliRunner().invoke(main, line[1].split(), catch_exceptions=False)
            return done.exit_code, done.output
        case ["python" | "pytest" as first, *rest]:
            program = [sys.executable, *rest] if first == "python" else [sys.executable, "-m", "pytest", *plugin(), *rest]
            done = subprocess.run(program, check=False, capture_output=True, text=True, cwd=folder)
            return done.returncode, done.stdout + done.stderr
    raise AssertionError(f"Name {example.command!r} in NOT_RUN, with the reason, or say here how it is run.")


NEEDED = {"digits": "sklearn", "torchvision:resnet18": "torchvision", "--picture": "fast_sugiyama", "--figure": "matplotlib"}


def lacking(words):
    """Data and packages that a command needs and that are not there, in words; None if they are."""
    words = set(words)
    if words & {"mnist", "cifar10"} and not (SHARED / "data" / "mnist").is_dir():
        return "the folder with real data sets and networks is not beside the checkout"
    absent = {package for word, package in NEEDED.items() if word in words and importlib.util.find_spec(package) is None}
    return f"not installed: {', '.join(sorted(absent))}" if absent else None


@pytest.mark.parametrize("page", sorted(set(RUN) | set(PROGRAMS)))
def test_the_examples_of_a_page_run_and_print_what_is_shown(page, folder, subtests):
    for example in PROGRAMS.get(page, []):
        if example.file:
            run_program(example, folder)
    FOUND.get(page, lambda: None)()
    for example in PROGRAMS.get(page, []):
        if not example.file:
            with subtests.test(example.code.splitlines()[0]):
                assert missing(example.shown, run_program(example, folder)) is None
    for example in RUN.get(page, []):
        with subtests.test(example.code):
            if reason := lacking(example.words):
                pytest.skip(reason)
            for word in set(example.words) & set(MODELS):
                shutil.copyfile(MODELS[word], folder / word)
            status, printed = run_command(example, folder)
            assert status == EXIT_CODES.get(example.command, 0), printed
            shown = () if example.command in SHORTER else example.shown
            assert (line := missing(shown, printed)) is None, f"not printed: {line}\n{printed}"


def test_output_is_compared():
    printed = "proved   358  99.44 %\nbound, median    0.171\ntime 4.2 s\nlong line that is\nwrapped"
    assert missing(("proved 358 99.44 %", "...", "bound, median 0.17", "time 3.9 s", "long ... wrapped"), printed) is None
    assert missing(("proved 359 99.44 %",), printed) == "proved 359 99.44 %"
    assert missing(("bound, median 0.3",), printed) == "bound, median 0.3"
    assert missing(("time 1 s", "proved 358"), printed) == "proved 358"
