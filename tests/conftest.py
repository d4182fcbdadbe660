"""One thread, one Hypothesis profile, and where the real data sets and networks lie."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "long",
    deadline=None,
    max_examples=3600,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
settings.load_profile("ci")
torch.set_num_threads(1)
collect_ignore = ["example_project"]


@pytest.fixture(scope="session")
def shared():
    """Folder with the real data sets, trained networks and recorded results."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the folder with real data sets and networks is not beside the checkout")
    return folder
