"""The examples of docs/pytest.md are tests that pass."""

import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_examples_of_the_documentation_pass(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (CHECKOUT / "docs" / "pytest.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    for place, block in enumerate(blocks):
        (tmp_path / f"test_example_{place}.py").write_text(block)
    registered = "import importlib.metadata, sys; sys.exit(not [e for e in importlib.metadata.entry_points(group='pytest11') if e.name == 'precisionkit'])"
    installed = subprocess.run([sys.executable, "-c", registered], check=False, cwd=CHECKOUT).returncode == 0
    plugin = [] if installed else ["-p", "precisionkit.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, *plugin, tmp_path]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
