"""The guarded model: which rows are whose, what is refused, what is counted and told, and that it compiles."""

import copy
import pickle
import re
import shutil
import threading
import warnings

import pytest
import torch
from torch import nn

from precisionkit.errors import PrecisionKitError, UnusableDataError, UnusableModelError, UsageError
from precisionkit.guard import DriftWarning, GuardedHalf, identity
from precisionkit.guard.half import half_of, margins
from precisionkit.guard.observe import disagreements, scores
from tests.guard.nets import inputs, net, plan_for


class Given(nn.Module):
    """Its input is its logits."""

    def forward(self, x):
        return x * 1.0


def shapes_seen(module):
    seen = []
    module.register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape)))
    return seen


@pytest.mark.parametrize("storage", ["fp16", "bf16"])
@pytest.mark.parametrize("kernels", ["native", "rounded"])
def test_accepted_rows_are_the_half_runs_and_the_others_those_of_fp32(storage, kernels):
    model, x = net(), inputs()
    guarded = GuardedHalf(model, plan_for(model, storage=storage, kernels=kernels))
    half = guarded.half_run(x).float()
    top = half.sort(1).values
    falls_back = top[:, -1] - top[:, -2] <= 0.1
    assert 0 < falls_back.sum() < len(x)
    seen = shapes_seen(model)
    result = guarded(x)
    assert seen == [(int(falls_back.sum()), 4)]
    assert result.dtype == torch.float32
    assert torch.equal(result[~falls_back], half[~falls_back])
    assert torch.equal(result[falls_back], model(x[falls_back]))
    assert not torch.equal(half, model(x))
    assert (guarded.statistics.rows, guarded.statistics.fallen_back) == (64, int(falls_back.sum()))
    if kernels == "native":
        dtype = torch.float16 if storage == "fp16" else torch.bfloat16
        assert torch.equal(half, copy.deepcopy(model).to(dtype)(x.to(dtype)).float())


@pytest.mark.parametrize("rows", [0, 1])
def test_batches_of_none_and_one(rows):
    model = net()
    assert GuardedHalf(model, plan_for(model))(inputs(rows)).shape == (rows, 3)


LOGITS = {
    "tie": [1.0, 1.0, 0.0],
    "tie in half": [1.0, 1.0 + 2.0**-13, 0.0],
    "infinite": [torch.inf, 1.0, 0.0],
    "beyond half": [70000.0, 1.0, 0.0],
    "not a number": [torch.nan, 1.0, 0.0],
    "lowest": [1.0, -torch.inf, 0.0],
}


@pytest.mark.parametrize("kind", LOGITS)
def test_ties_and_what_is_not_finite_always_fall_back(kind):
    model = Given().eval()
    guarded = GuardedHalf(model, plan_for(model, threshold=0.0, input_shape=(3,)))
    seen = shapes_seen(model)
    x = torch.tensor([[5.0, 1.0, 0.0], LOGITS[kind]])
    result = guarded(x)
    assert seen == [(1, 3)]
    assert torch.equal(result.nan_to_num(7.0), x.nan_to_num(7.0))


def test_every_row_that_a_threshold_accepts_and_that_disagrees_has_a_larger_score():
    random = torch.Generator().manual_seed(0)
    r = torch.randn(20_000, 4, generator=random)
    h = (r + 0.5 * torch.randn(20_000, 4, generator=random)).half()
    h[:5, 0] = torch.inf
    margin, disagree = margins(h).double(), h.argmax(1) != r.argmax(1)
    assert disagree.sum() > 1000
    for score in ("error", "disagreement"):
        found = scores(h, r, score)
        assert bool((found[disagree] >= margin[disagree]).all())
        assert bool((found[:5] == 0).all())
    assert bool((scores(h, r, "disagreement")[~disagree] == 0).all())
    e = scores(h, r, "error")[5]
    c = int(h[5].argmax())
    assert float(e) == max((h[5, c].double() - h[5, j].double()) - (r[5, c].double() - r[5, j].double()) for j in range(4))


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_reference_logits_that_are_not_finite_agree_with_none(wrong):
    h = torch.tensor([[3.0, 1.0, 0.0]] * 3 + [[torch.inf, 1.0, 0.0]]).half()
    r = torch.tensor([[wrong, 1.0, 0.0], [3.0, wrong, 0.0], [3.0, 1.0, 0.0], [wrong, 1.0, 0.0]])
    assert disagreements(h, r).tolist()[:3] == [True, True, False]
    assert scores(h, r, "disagreement").tolist() == [2.0, 2.0, 0.0, 0.0]
    assert scores(h, r, "error").tolist() == [torch.inf, torch.inf, 0.0, 0.0]


def test_a_softmax_at_the_end_is_rounded_like_the_rest():
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)).eval().requires_grad_(False)
    rounded, native = (half_of(model, "fp16", kernels, (4,), tokens=False)(inputs()).float() for kernels in ("rounded", "native"))
    assert float((rounded - native).abs().max()) < 2.0**-10
    assert torch.equal(rounded, rounded.half().float())


def test_tokens_are_not_rounded():
    model = nn.Sequential(nn.Embedding(5000, 4), nn.Flatten(), nn.Linear(8, 3)).eval().requires_grad_(False)
    tokens = torch.tensor([[4097, 2], [1, 4099]])  # no numbers of binary16
    for kernels in ("native", "rounded"):
        guarded = GuardedHalf(model, plan_for(model, kernels=kernels, tokens=True, input_shape=(2,)))
        assert float((guarded(tokens) - model(tokens)).abs().max()) < 0.01


REFUSED = {
    "training": (
        lambda m: m.train(),
        {},
        "The model is in training mode, in which dropout and batch normalisation act otherwise: call model.eval() first.",
    ),
    "float64": (
        lambda m: m.double(),
        {},
        "The tensor '0.weight' is torch.float64, but a guard compares with a float32 model: give model.float().",
    ),
    "too large": (
        lambda m: m[0].weight.fill_(1e6),
        {},
        "The tensor '0.weight' holds the value 1e+06, beyond 65504, the largest number of binary16; the half program cannot",
    ),
    "other weights": (lambda m: m, {"weights": "c" * 64}, "The plan belongs to a network with the hash cccccccccccc, but this one has "),
    "other device": (lambda m: m, {"device": "cuda (NVIDIA H100)"}, "The plan was made on cuda (NVIDIA H100), but the model is on cpu ("),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_plan_was_not_made_for_is_refused(case):
    change, fields, said = REFUSED[case]
    model = net()
    change(model)
    with pytest.raises(PrecisionKitError) as error:
        GuardedHalf(model, plan_for(model, **fields))
    assert str(error.value).startswith(said)


def test_one_changed_weight_or_activation_is_another_network():
    plan = plan_for(net())
    changed, other = net(), net()
    changed[0].weight[0, 0] += 2.0**-20
    other[1] = nn.GELU()
    for model in (changed, other, net(seed=1)):
        with pytest.raises(UsageError, match=r"calibrated on, so calibrate again with 'precisionkit guard'\.$"):
            GuardedHalf(model.eval(), plan)


def test_other_inputs_and_training_are_refused():
    model = net()
    guarded = GuardedHalf(model, plan_for(model))
    with pytest.raises(UnusableDataError, match=r"^The inputs have the shape \(5,\) and the type torch\.float32 on cpu, but"):
        guarded(torch.zeros(2, 5))
    with pytest.raises(UsageError, match=r"^A guarded model only predicts"):
        guarded.train()
    assert guarded.eval() is guarded
    one = nn.Linear(4, 1).eval()
    with pytest.raises(
        UnusableModelError, match=r"shape \(64, 1\), but a guard compares logits: it must return \(batch, classes\) with at"
    ):
        GuardedHalf(one, plan_for(one))(inputs())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_it_compiles_and_predicts_the_same(backend):
    torch._dynamo.reset()
    model, x = net(), inputs()
    guarded = GuardedHalf(model, plan_for(model))
    expected = guarded(x)
    guarded.reset()
    compiled = torch.compile(guarded, backend=backend)
    found = compiled(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert guarded.statistics.rows == 64
    assert 0 < guarded.statistics.fallen_back < 64


class Scaled(nn.Module):
    """Its last operators are pointwise, so inductor fuses them with what follows."""

    def __init__(self):
        super().__init__()
        self.body, self.scale = net(), nn.Parameter(torch.tensor([3.3, 3.2997, 3.3003]), requires_grad=False)

    def forward(self, x):
        return torch.tanh(40 * self.body(x)) * self.scale


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_torch_compile_around_a_guard_leaves_the_half_run_the_one_that_was_calibrated():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model, x = Scaled().eval(), inputs(4000)
    guarded = GuardedHalf(model, plan_for(model, kernels="compiled", threshold=0.0, expected=(0, 1000)))
    with torch.no_grad():
        half = guarded.half_run(x)
        assert not torch.equal(half, half_of(model, "fp16", "native", (4,), tokens=False)(x))
    ties = margins(half) == 0
    assert half.dtype == torch.float16
    assert ties.sum() > 5
    for run in (guarded, torch.compile(guarded), copy.deepcopy(guarded)):
        found = run(x)
        assert torch.equal(found[~ties], half[~ties].float())
        assert torch.equal(found[ties], model(x[ties]))
    assert guarded.statistics.fallen_back == 2 * int(ties.sum())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_a_plan_can_be_for_the_compiled_half_run():
    """By inductor, which leaves out roundings between fused operators, inside of a compiled model as well."""
    torch._dynamo.reset()
    model, x = net(), inputs()
    expected = GuardedHalf(model, plan_for(model))(x)
    guarded = GuardedHalf(model, plan_for(model, kernels="compiled"))
    for run in (guarded, torch.compile(guarded)):
        found = run(x)
        assert float((found - expected).abs().max()) < 0.01
        assert torch.equal(found.argmax(1), expected.argmax(1))
    assert 0 < guarded.statistics.fallen_back < guarded.statistics.rows == 128


@pytest.mark.parametrize("kernels", ["native", "rounded"])
def test_torch_compile_changes_no_number_of_a_guard(kernels):
    torch._dynamo.reset()
    graphs = []

    def backend(module, _):
        graphs.append(module)
        return module.forward

    model, x = net(), inputs()
    guarded = GuardedHalf(model, plan_for(model, kernels=kernels))
    assert torch.equal(torch.compile(guarded, backend=backend)(x), guarded(x))
    assert graphs == []


@pytest.mark.parametrize("kernels", ["native", "rounded"])
@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_changes_neither_run(kernels, compiled):
    torch._dynamo.reset()
    model, x = net(), inputs()
    guarded = GuardedHalf(model, plan_for(model, kernels=kernels))
    expected = guarded(x)
    run = torch.compile(guarded, backend="eager") if compiled else guarded
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(model(x).float(), expected)
        found = run(x)
    assert torch.equal(found, expected)
    fallen_back = guarded.statistics.fallen_back
    assert fallen_back > 0
    assert fallen_back % 2 == 0


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="this torch has no such switch")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_switch_that_is_set_later_is_refused(compiled):
    torch._dynamo.reset()
    model = net()
    guarded = GuardedHalf(model, plan_for(model))
    run = torch.compile(guarded, backend="eager") if compiled else guarded
    run(inputs())
    said = (
        r"^The plan was made with torch\.backends\.mkldnn\.matmul\.fp32_precision = ieee, but here it is bf16: set it as it was, or calib"
    )
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        with pytest.raises(UsageError, match=said):
            run(inputs())
        with pytest.raises(UsageError, match=said):
            GuardedHalf(model, guarded.plan)
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
    run(inputs())


def test_a_flag_that_a_plan_lacks_is_refused(monkeypatch):
    model = net()
    monkeypatch.setitem(identity._SWITCHES, "cpu", (("cudnn", "allow_tf32"),))
    with pytest.raises(
        UsageError, match=r"^The plan was made with torch\.backends\.cudnn\.allow_tf32 = unset, but here it is (True|False): set"
    ):
        GuardedHalf(model, plan_for(model, flags={}))


def watched(low, high, window=10):
    model = Given().eval()
    return GuardedHalf(model, plan_for(model, threshold=0.5, input_shape=(2,), window=window, expected=(low, high)))


def batch(fall_back, accepted):
    return torch.tensor([[0.0, 0.0]] * fall_back + [[1.0, 0.0]] * accepted)


def test_a_window_is_told_once_when_its_state_changes():
    guarded = watched(1, 3)
    told = []
    for fall_back in (2, 4, 5, 3, 0, 0, 9):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            guarded(batch(fall_back, 10 - fall_back))
        told.append([str(w.message) for w in caught if w.category is DriftWarning])
    assert [len(t) for t in told] == [0, 1, 0, 1, 1, 0, 1]
    assert told[1][0] == (
        "4 of the last 10 rows fell back to fp32, more than the 1 to 3 that the calibration predicts (false alarms: 1e-06 a window): the inputs "
        "have another distribution, so the risk of 0.001 is not known to hold; calibrate again on inputs of today."
    )
    assert told[3][0] == "3 of the last 10 rows fell back to fp32, as many as the calibration predicts again."
    assert "0 of the last 10 rows fell back to fp32, fewer than" in told[4][0]
    found = guarded.statistics
    assert (found.rows, found.fallen_back, found.windows, found.unexpected, found.state) == (70, 23, 7, 5, "more")
    assert found.share == 23 / 70
    guarded.reset()
    assert (guarded.statistics.rows, guarded.statistics.share, guarded.statistics.state) == (0, 0.0, "expected")


def test_windows_do_not_depend_on_batches():
    rows = [True] * 4 + [False] * 10 + [True] * 11
    for size in (1, 3, 10, 25):
        guarded = watched(0, 10)
        for first in range(0, 25, size):
            part = rows[first : first + size]
            guarded(torch.cat([batch(1, 0) if falls else batch(0, 1) for falls in part]))
        found = guarded.statistics
        assert (found.rows, found.fallen_back, found.windows, found.unexpected) == (25, 15, 2, 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watched(5, 10)(torch.cat([batch(4, 10), batch(11, 0)]))
    assert [str(w.message)[:22] for w in caught] == ["4 of the last 10 rows ", "6 of the last 10 rows "]


def test_threads_share_the_counts_and_a_copy_has_its_own():
    guarded = watched(0, 10)
    threads = [threading.Thread(target=lambda: [guarded(batch(1, 2)) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = guarded.statistics
    assert (found.rows, found.fallen_back, found.windows) == (600, 200, 60)
    other = copy.deepcopy(guarded)
    other(batch(1, 0))
    assert (other.statistics.rows, guarded.statistics.rows) == (1, 600)


def test_bfloat16_holds_what_binary16_cannot():
    model = net()
    model[0].weight.fill_(1e6)
    half_of(model, "bf16", "native", (4,), tokens=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_inputs_of_another_type_are_refused(dtype):
    model = net()
    said = rf"^The inputs have the shape \(4,\) and the type {dtype} on cpu, but the plan is for \(4,\) and torch\.float32 on cpu: give such inp"
    with pytest.raises(UnusableDataError, match=said):
        GuardedHalf(model, plan_for(model))(inputs().to(dtype))


class Constant(nn.Module):
    """A tensor that is no buffer, one that is computed again at every run, and one that only keeps what was."""

    def __init__(self):
        super().__init__()
        self.body, self.scale, self._last, self.twice = net(), torch.ones(3), torch.zeros(1), torch.full((3,), 2.0)

    def forward(self, x):
        self._last, self.twice = x, self.scale * 2
        return self.body(x) * self.scale.to(x.dtype)


CHANGES = {
    "a weight of the network": lambda g: g.reference.body[0].weight.mul_(-1),
    "a weight of the half copy": lambda g: g.half_run.model.body[0].weight.mul_(-1),
    "a plain tensor": lambda g: g.reference.scale.mul_(2),
    "another plain tensor": lambda g: setattr(g.reference, "scale", torch.zeros(3)),
    "other memory": lambda g: setattr(g.reference.body[0].weight, "data", torch.zeros(8, 4)),
    "another parameter": lambda g: setattr(g.reference.body[0], "bias", nn.Parameter(torch.zeros(8), requires_grad=False)),
    "another part": lambda g: g.reference.body.__setitem__(1, nn.GELU().eval()),
    "one part more": lambda g: g.reference.body.append(nn.Identity().eval()),
    "training": lambda g: g.reference.train(),
    "training of a part": lambda g: g.reference.body[1].train(),
    "a state": lambda g: g.load_state_dict({name: torch.zeros_like(value) for name, value in g.state_dict().items()}),
    "an assigned state": lambda g: g.load_state_dict({n: torch.zeros_like(v) for n, v in g.state_dict().items()}, assign=True),
    "formats of a part": lambda g: g.reference.double(),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_guarded_model_that_was_changed_refuses_to_run_and_to_be_copied(change, compiled):
    torch._dynamo.reset()
    model = Constant().eval()
    guarded = GuardedHalf(model, plan_for(model))
    run = torch.compile(guarded, backend="eager") if compiled else guarded
    for _ in range(2):
        run(inputs())
    CHANGES[change](guarded)
    said = r"^The guarded model was changed after it was made \(weights, parts or mode\), but its threshold holds for what was calibrated: load"
    for use in (lambda: run(inputs()), lambda: copy.deepcopy(guarded), lambda: guarded.to("cpu")):
        with pytest.raises(UsageError, match=said):
            use()


@pytest.mark.parametrize("kernels", ["native", "rounded"])
@pytest.mark.parametrize("move", ["half", "bfloat16", "double"])
def test_formats_stay(kernels, move):
    model = net()
    guarded = GuardedHalf(model, plan_for(model, kernels=kernels))
    expected = guarded(inputs())
    said = r"^A guarded model keeps its formats and stays on cpu \(.*\), but a tensor of torch\.float\d+ would become one of torch\.b?float\d+ on"
    with pytest.raises(UsageError, match=said):
        getattr(guarded, move)()
    assert torch.equal(guarded(inputs()), expected)


def test_devices_stay_and_moving_to_the_same_one_is_nothing():
    model = net()
    guarded = GuardedHalf(model, plan_for(model))
    with pytest.raises(
        UsageError, match=r"^A guarded model keeps its formats and stays on cpu \(.*\), but .* on meta \(.*\): calibrate for that"
    ):
        guarded.to("meta")
    expected = guarded(inputs())
    assert torch.equal(guarded.cpu()(inputs()), expected)
    assert torch.equal(guarded.share_memory()(inputs()), expected)


def test_a_function_of_the_weights_is_another_network():
    model = net()
    guarded = GuardedHalf(model, plan_for(model))
    with pytest.raises(UsageError, match=r"^The plan belongs to a network with the hash"):
        guarded._apply(lambda t: t + 1)


@pytest.mark.parametrize("kernels", ["native", "rounded"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda guarded: pickle.loads(pickle.dumps(guarded))])
def test_copies_run_alike_and_refuse_changes_of_their_own(kernels, copied):
    model = net()
    guarded = GuardedHalf(model, plan_for(model, kernels=kernels))
    other = copied(guarded)
    assert torch.equal(other(inputs()), guarded(inputs()))
    other.reference[0].weight.mul_(-1)
    with pytest.raises(UsageError, match=r"^The guarded model was changed"):
        other(inputs())
    guarded(inputs())


def test_a_model_that_was_made_in_inference_mode_runs():
    with torch.inference_mode():
        model = net()
    guarded = GuardedHalf(model, plan_for(model))
    assert torch.equal(guarded(inputs()), GuardedHalf(net(), plan_for(net()))(inputs()))


def test_other_kernels_are_warned_of():
    model = net()
    plan = plan_for(model, built={"torch": "2.0", "instructions": torch.backends.cpu.get_cpu_capability()})
    said = rf"^The plan was calibrated with torch 2\.0, not {re.escape(torch.__version__.split('+')[0])}, whose kernels may sum in another order: the risk of 0\.001 is"
    with pytest.warns(UserWarning, match=said):
        GuardedHalf(model, plan)
    with pytest.warns(
        UserWarning, match=r"^The plan was calibrated with torch 2\.0, not .* and instructions unknown, not [A-Z0-9]+, whose ker"
    ):
        GuardedHalf(model, plan_for(model, built={"torch": "2.0"}))
