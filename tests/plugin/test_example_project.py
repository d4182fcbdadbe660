"""A project that uses the plugin, with the package installed from its wheel, away from the checkout; and what the plugin does at start-up."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PROJECT = CHECKOUT / "tests" / "example_project"
SOURCES = ("precisionkit", "pyproject.toml", "README.md", "LICENSE")


def pip(*arguments, cwd):
    """Run pip without a network; the reason why it failed, if it did."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd, env=os.environ | {"PIP_NO_INDEX": "1"})
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder with the package as its wheel installs it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        path = CHECKOUT / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, source / name)
    if reason := pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder):
        pytest.skip(f"no wheel can be built here without a network: {reason}")
    (wheel,) = folder.glob("*.whl")
    reason = pip("install", "--no-deps", "--target", folder / "site", wheel, cwd=folder)
    assert reason is None
    return folder / "site"


@pytest.fixture
def run(installed, tmp_path):
    """Run pytest on a copy of the example project."""
    project = tmp_path / "project"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns("__pycache__", ".*"))

    def run_pytest(*arguments, code=None):
        command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "PYTHON", "COV_"))}
        environment |= {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        return subprocess.run(command, check=False, capture_output=True, text=True, cwd=project, env=environment)

    run_pytest.project = project
    return run_pytest


def test_the_example_project_passes_with_the_wheel_alone(run, installed):
    (run.project / "conftest.py").write_text(
        "import precisionkit, sys\n"
        "def pytest_sessionfinish(session):\n"
        "    places = {m.__file__ for name, m in sys.modules.items() if name.startswith('precisionkit.') and m.__file__}\n"
        "    print('PLACES', len(places), all(p.startswith(sys.argv[0] and SITE) for p in places))\n".replace("SITE", repr(str(installed)))
    )
    done = run("-v")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    count, inside = done.stdout.split("PLACES ")[1].split()[:2]
    assert int(count) > 50
    assert inside == "True"


def test_failures_are_readable(run):
    done = run("tests/failing.py", "--tb=short", "-rN")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "3 failed" in lines[-1]
    shown = [line for line in lines if line.startswith("E ")]
    text = "\n".join(line.removeprefix("E").strip() for line in shown)
    assert (
        "AssertionError: 60 of 60 elements are further from the exact network" in text
        or "elements are further from the exact network" in text
    )
    assert "element [" in text
    assert "overflow" in text
    assert (
        "precisionkit.errors.UsageError: The model is in training mode, where layers such as dropout act at random; call its eval() first."
        in text
    )
    # no frame of the package is shown
    assert not [line for line in lines if "precisionkit/" in line.split(": in ")[0] and ": in " in line]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precisionkit-storage=fp15"], "The options --precisionkit-... name no arithmetic. The storage format 'fp15' is not supported;"),
        (
            ["--precisionkit-storage=fp32", "--precisionkit-order=tensorcore:ada"],
            "name no arithmetic. The order tensorcore:ada needs --storage",
        ),
    ],
)
def test_options_that_name_no_arithmetic_stop_the_run(run, arguments, message):
    done = run(*arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("precisionkit(format='fp16')", "has format; it takes storage, accumulate, order, fuse by name."),
        ("precisionkit('fp16')", "has 'fp16'; it takes storage, accumulate, order, fuse by name."),
        ("precisionkit(order='fastest')", "names no arithmetic. The order 'fastest' is not known;"),
    ],
)
def test_markers_are_checked_before_a_test_runs(run, marker, message):
    (run.project / "tests" / "test_marked.py").write_text(f"import pytest\n\n\n@pytest.mark.{marker}\ndef test_it():\n    print('ran')\n")
    done = run("tests/test_marked.py", "-s")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert message in done.stderr + done.stdout
    assert "test_marked.py::test_it" in done.stderr + done.stdout
    assert "ran" not in done.stdout.splitlines()


MARKED = """
import sys

import pytest

pytestmark = pytest.mark.precisionkit(order="sequential")


@pytest.fixture(scope="module")
def at_setup():
    from precisionkit.pytest_plugin import _arithmetic
    return _arithmetic().name


@pytest.mark.precisionkit(storage="bf16")
def test_closest_first(precisionkit_arithmetic, at_setup):
    assert precisionkit_arithmetic.name == at_setup == "bf16/fp32-sequential"


def test_options_of_the_run(precisionkit_arithmetic):
    assert precisionkit_arithmetic.name == "fp16/fp16-sequential"


def test_no_torch():
    assert "torch" not in sys.modules
    assert "hypothesis.extra.numpy" not in sys.modules
"""


def test_the_closest_option_counts_and_torch_is_not_loaded(run):
    (run.project / "tests" / "test_marked.py").write_text(MARKED.replace('storage="bf16")', 'storage="bf16", accumulate="fp32")'))
    done = run("tests/test_marked.py", "--precisionkit-accumulate=fp16", "--precisionkit-order=pairwise")
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
    assert "precisionkit: fp16/fp16-pairwise" in done.stdout


def test_without_options_nothing_is_printed(run):
    (run.project / "tests" / "test_plain.py").write_text("def test_it():\n    pass\n")
    done = run("tests/test_plain.py")
    assert done.returncode == 0
    assert "precisionkit:" not in done.stdout
    assert "--precisionkit-storage=STORAGE" in run("--help").stdout
    assert "@pytest.mark.precisionkit(storage, accumulate, order, fuse):" in run("--markers").stdout
