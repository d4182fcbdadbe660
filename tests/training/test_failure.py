"""Where training breaks: the first operator and tensor, and repairs that were tried and work."""

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from precisionkit.cli import main
from precisionkit.cli.train import train as command
from precisionkit.errors import UsageError
from precisionkit.training import DivergedError, Job, Output, Settings, find_failure, mend_underflow, train
from precisionkit.training.kernels import kernels
from precisionkit.training.network import build_network
from precisionkit.training.repairs import option_of
from precisionkit.training.watch import Watch


def failure(folder, **changes):
    options = {"arch": "digits_cnn", "data": "digits", "batch": 64, "epochs": 1, "precision": "fp16", "limit": 640}
    job = Job.load(Settings(**options | changes))
    with pytest.raises(DivergedError) as caught:
        train(job, Output(folder))
    return find_failure(job, folder, caught.value), job


def test_a_division_by_zero_is_found_in_the_optimizer_and_repaired(tmp_path):
    found, job = failure(tmp_path / "broken", optimizer="adam", epsilon=1e-8)
    assert (found.epoch, found.step) == (1, 1)
    assert (found.event.kind, found.event.phase, found.event.operator) == ("division by zero", "update", "addcdiv_")
    assert found.event.tensor == "conv1.weight"
    assert "is zero in binary16" in found.explanation
    repairs = {repair.kind: repair for repair in found.repairs}
    assert repairs["epsilon"].works
    assert repairs["epsilon"].option == "--epsilon 1e-05"
    assert repairs["epsilon"].tried == 3  # 1e-7 and 1e-6 do not repair it
    assert repairs["layers in fp32"].works
    value = float(repairs["epsilon"].option.split()[1])
    mended = Job.load(
        Settings(**{name: getattr(job.settings, name) for name in Settings.__struct_fields__} | {"epsilon": value, "epochs": 6})
    )
    assert train(mended, Output(tmp_path / "mended")).history[-1].loss < 2.3


def test_an_exploding_step_is_traced_to_the_second_moments(tmp_path):
    found, _ = failure(tmp_path, optimizer="adam", epsilon=1e-7)
    assert (found.event.kind, found.event.phase, found.event.tensor) == ("overflow", "forward", "the output of fc")
    assert found.event.largest > 65504
    assert any(event.tensor.startswith("exp_avg_sq of") and event.kind == "underflow" for event in found.lost)
    assert {repair.kind for repair in found.repairs if repair.works} >= {"epsilon", "loss scale"}


def test_a_failure_long_after_the_start_is_found_from_the_last_checkpoint(tmp_path, monkeypatch):
    """The rate is raised in the middle: the steps before the checkpoint are not done again."""
    monkeypatch.setattr("precisionkit.training.failure._FROM_START", 5)
    common = {"arch": "digits_cnn", "data": "digits", "batch": 64, "epochs": 3, "precision": "fp16", "limit": 640}
    job = Job.load(Settings(**common, rate=400.0))
    run = job.start()
    run.optimizer.param_groups[0]["lr"] = 0.01
    for rows, weight in run.remaining():
        run.step(rows, weight)
    run.end_epoch()
    from precisionkit.training.checkpoint import write_checkpoint

    write_checkpoint(tmp_path, job.conditions(), run.progress, run.states())
    with pytest.raises(DivergedError) as caught:
        train(job, Output(tmp_path, resume=True))
    found = find_failure(job, tmp_path, caught.value)
    assert found.epoch == 2
    assert next(repair for repair in found.repairs if repair.kind == "learning rate").works


class Shrunk(nn.Module):
    """A network whose gradient underflows between its layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.second(self.first(x) * 2.0**-14 * 2.0**-14)


def observed(module, x):
    watch = Watch(module, {})
    with watch.phase("forward"):
        out = module(x).sum()
    with watch.phase("backward"):
        out.backward()
    return watch.events


def test_a_gradient_that_dies_is_named_with_its_place():
    torch.manual_seed(0)
    events = observed(Shrunk().half(), torch.ones(1, 4, dtype=torch.float16))
    assert events[0].kind == "underflow"
    assert events[0].phase == "backward"
    assert events[0].lost == 1.0
    assert "between modules" in events[0].tensor


def test_a_healthy_network_has_no_events():
    torch.manual_seed(0)
    assert observed(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).half(), torch.ones(1, 4, dtype=torch.float16)) == []


def test_an_overflow_is_named_by_its_module_and_not_by_what_follows():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)).half()
    with torch.no_grad():
        net[0].weight.fill_(20000.0)
    events = observed(net, torch.ones(1, 4, dtype=torch.float16))
    assert (events[0].kind, events[0].module, events[0].largest) == ("overflow", "0", 80000.0)
    assert [event for event in events if event.module == "2" and event.phase == "forward"] == []


def test_weights_that_do_not_move_are_told():
    weight = nn.Linear(1, 1, bias=False).bfloat16()
    with torch.no_grad():
        weight.weight.fill_(1.0)
    weight.weight.grad = torch.full_like(weight.weight, 2.0**-10)
    made = torch.optim.SGD(weight.parameters(), lr=1.0)
    watch = Watch(weight, made.state)
    with watch.phase("update"):
        made.step()
    assert [(event.kind, event.tensor, event.lost) for event in watch.events] == [("lost update", "weight", 1.0)]
    assert "moved by less than half an ulp, 100% of the absolute sum of updates" in watch.events[0].describe()


def test_the_command_says_and_writes_it(tmp_path):
    options = ["--data", "digits", "--limit", "320", "--precision", "fp16", "--batch", "64", "--lr", "500", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, ["train", "digits_cnn", *options])
    assert result.exit_code == 1
    assert "overflow in the output of fc (addmm, forward)" in " ".join(result.stdout.split())
    assert "Repaired by --lr" in result.stdout
    assert (tmp_path / "run" / "failure.json").is_file()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "mixed", "strict-fp16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_watching_changes_no_bit(tmp_path, precision, optimizer):
    job = Job.load(Settings(arch="digits_cnn", data="digits", limit=192, epochs=1, precision=precision, optimizer=optimizer, epsilon=1e-3))
    found = []
    for watch in (0, 1):
        train(job, Output(tmp_path / str(watch), watch=watch))
        found.append(torch.load(tmp_path / str(watch) / "model.pt", weights_only=True)["state_dict"])
    assert all(torch.equal(one, other) for one, other in zip(found[0].values(), found[1].values(), strict=True))


def test_a_loss_that_is_scaled_down_kills_gradients_and_a_scale_brings_them_back(tmp_path):
    job = Job.load(Settings(arch="mnist_fc_3layer", data=_noise(tmp_path), test=_noise(tmp_path, first=100), epochs=1,
                              precision="fp16", loss_scale=2.0**-26))  # fmt: skip
    done = train(job, Output(tmp_path / "run", watch=1))
    dead = next(one for one in done.observed if one.event.kind == "underflow")
    assert (dead.epoch, dead.step, dead.event.phase) == (1, 1, "backward")
    repairs = {repair.kind: repair for repair in mend_underflow(job, dead)}
    assert repairs["loss scale"].works
    assert repairs["loss scale"].tried > 1


def _noise(folder, first=0):
    """100 random images of the size of MNIST's."""
    import numpy as np

    rng = np.random.default_rng(first)
    path = folder / f"images{first}.npz"
    np.savez(path, images=rng.integers(0, 256, (100, 28, 28)).astype(np.uint8), labels=rng.integers(0, 10, 100))
    return str(path)


def test_the_command_says_what_was_lost(tmp_path):
    options = ["--data", "digits", "--limit", "128", "--precision", "bf16", "--batch", "64", "--epochs", "1", "--watch", "1"]
    result = CliRunner().invoke(main, ["train", "digits_cnn", *options, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0
    assert "First in step 1 of epoch 1: lost update of conv1.weight" in " ".join(result.stdout.split())
    assert (tmp_path / "run" / "events.json").is_file()


@pytest.mark.parametrize("precision", ["fp32", "mixed"])
def test_watching_other_precisions_tries_no_loss_scale(tmp_path, precision):
    options = ["--data", "digits", "--limit", "128", "--precision", precision, "--batch", "64", "--epochs", "1", "--watch", "1", "-q"]
    result = CliRunner().invoke(main, ["train", "digits_cnn", *options, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.stderr
    assert "loss-scale" not in result.stdout


def test_options_of_repairs_are_exactly_the_changes():
    changes = {"epsilon": 1e-5, "loss_scale": 4.0**10, "rate": 0.01 / 4**7, "keep_fp32": ("fc", "conv1")}
    context = command.make_context("train", ["digits_cnn", "--data", "digits", *option_of(changes).split()])
    assert {name: context.params[name] for name in changes} == changes


def test_mixed_precision_whose_loss_never_is_finite_breaks_at_the_end_of_an_epoch(tmp_path):
    """The scaler skips every step, so that no weight shows it."""
    data, test = _noise(tmp_path), _noise(tmp_path, first=100)
    job = Job.load(Settings(arch="mnist_fc_3layer", data=data, test=test, epochs=1, precision="mixed", normalize="0/1e-7"))
    with pytest.raises(DivergedError, match="the mean loss of the epoch is"):
        train(job, tmp_path / "run")


def test_a_failure_in_a_later_epoch_is_counted_over_all_steps(tmp_path):
    job = Job.load(Settings(arch="digits_cnn", data="digits", batch=64, epochs=3, precision="fp16", limit=640))

    def explode(training):
        if training.number == 15:
            training.optimizer.param_groups[0]["lr"] = 500.0

    with pytest.raises(DivergedError) as caught:
        train(job, tmp_path, on_step=explode)
    assert caught.value.number in (16, 17)
    assert "of epoch 2." in str(caught.value)


def test_watching_a_network_with_dropout_changes_no_bit(tmp_path):
    found = []
    for watch in (0, 1):
        options = {"arch": "tests.training.networks:dropped", "data": "digits", "limit": 192, "epochs": 1, "precision": "fp16"}
        train(Settings(**options), Output(tmp_path / str(watch), watch=watch))
        found.append(torch.load(tmp_path / str(watch) / "model.pt", weights_only=True)["state_dict"])
    assert all(torch.equal(one, other) for one, other in zip(found[0].values(), found[1].values(), strict=True))


def test_a_mask_is_no_event():
    class Masked(nn.Module):
        def forward(self, x):
            return torch.softmax(x.masked_fill(torch.eye(4, dtype=torch.bool), float("-inf")), 1)

    watch = Watch(Masked(), {})
    with watch.phase("forward"):
        Masked()(torch.ones(4, 4, dtype=torch.float16))
    assert watch.events == []


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (lambda x: 1 / x, "division by zero"),
        (torch.rsqrt, "division by zero"),
        (lambda x: (x + 60000) * 2, "overflow"),
        (lambda x: torch.log(x - 1), "invalid"),
    ],
)
def test_what_is_no_longer_finite_is_named(run, kind):
    watch = Watch(nn.Identity(), {})
    with watch.phase("forward"):
        run(torch.zeros(4, dtype=torch.float16))
    assert [event.kind for event in watch.events] == [kind]


def test_an_infinite_statistic_is_traced_to_the_first_step_and_not_repaired_by_what_leaves_it(tmp_path):
    """It is noticed at the end of the epoch; the loss does not show it."""
    job = Job.load(Settings(arch="digits_cnn", data="digits", limit=320, batch=64, epochs=1, precision="strict-fp16", normalize="0/1e-4"))
    with pytest.raises(DivergedError, match="running_var") as caught:
        train(job, tmp_path)
    assert caught.value.number == 4
    found = find_failure(job, tmp_path, caught.value)
    assert (found.epoch, found.step) == (1, 1)
    for repair in found.repairs:
        assert repair.kind != "learning rate" or not repair.works


@pytest.mark.parametrize("names", [("encoder.self_attention",), ("encoder", "encoder.mlp")])
@pytest.mark.parametrize("precision", ["fp16", "mixed"])
def test_attention_can_be_kept_in_fp32(names, precision):
    settings = Settings(arch="tests.training.networks:attending", data="digits", precision=precision, keep_fp32=names)
    train_inputs = torch.rand(4, 1, 8, 8)
    module = build_network(settings, torch.device("cpu"))
    with kernels(settings), torch.autocast("cpu", torch.float16, enabled=precision == "mixed"):
        out = module(train_inputs.to(next(module.parameters()).dtype) if precision == "mixed" else train_inputs.half())
    assert out.shape == (4, 10)


def test_a_part_of_attention_cannot_be_kept_alone():
    settings = Settings(
        arch="tests.training.networks:attending", data="digits", precision="fp16", keep_fp32=("encoder.self_attention.out_proj",)
    )
    with pytest.raises(UsageError, match=r"is computed within encoder\.self_attention: keep that in fp32"):
        build_network(settings, torch.device("cpu"))
