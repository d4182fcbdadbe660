"""Which order of sums a device is taken to keep."""

import pytest
import torch

from precisionkit.devices import order_of
from precisionkit.errors import UnsupportedArithmeticError
from precisionkit.formats import BFLOAT16, BINARY16, BINARY32

KNOWN = [
    ((7, 0), BINARY16, BINARY32, "gpu:volta"),
    ((7, 0), BFLOAT16, BINARY32, "any"),
    ((7, 5), BFLOAT16, BINARY32, "any"),
    ((6, 0), BINARY16, BINARY32, "any"),
    ((8, 0), BFLOAT16, BINARY32, "gpu:ampere"),
    ((8, 9), BINARY16, BINARY32, "gpu:ada"),
    ((9, 0), BINARY16, BINARY32, "gpu:hopper"),
    ((9, 0), BINARY16, BINARY16, "any"),
    ((9, 0), BINARY32, BINARY32, "any"),
    ((12, 0), BFLOAT16, BINARY32, "gpu:blackwell"),
]


@pytest.mark.parametrize(("capability", "storage", "accumulate", "name"), KNOWN)
def test_a_gpu_with_known_tensor_cores_has_their_order(monkeypatch, capability, storage, accumulate, name):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert order_of(torch.device("cuda"), storage, accumulate).name == name


@pytest.mark.parametrize(("capability", "storage"), [((7, 5), BINARY16), ((8, 8), BFLOAT16), ((13, 0), BINARY16)])
def test_tensor_cores_of_which_nothing_is_known_are_refused(monkeypatch, capability, storage):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Quadro T1000")
    monkeypatch.setattr(torch.version, "hip", None)
    said = rf"tensor cores of Quadro T1000 \(compute capability {capability[0]}\.{capability[1]}\) sum is not known.*name an --order"
    with pytest.raises(UnsupportedArithmeticError, match=said):
        order_of(torch.device("cuda"), storage, BINARY32)


def test_units_of_others_are_not_taken_for_these(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert order_of(torch.device("cuda"), BINARY16, BINARY32).name == "any"


def test_other_devices_sum_in_any_order():
    assert order_of(torch.device("cpu"), BINARY16, BINARY32).name == "any"
    assert order_of(torch.device("mps"), BINARY16, BINARY32).name == "any"
