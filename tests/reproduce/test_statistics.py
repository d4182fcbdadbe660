"""Means over seeds, differences seed by seed, and what is concluded from them."""

import math

import pytest

from precisionkit.reproduce.claims import cifar10_claims, claims_table, mnist_claims
from precisionkit.reproduce.plan import make_plan
from precisionkit.reproduce.runs import Result
from precisionkit.reproduce.statistics import Mean, difference
from precisionkit.reproduce.study import Pair, Study
from precisionkit.reproduce.tables import batch_table, cost_table, difference_table, epsilon_table, network_table, pair_table, study_table
from precisionkit.training import Settings


def result(accuracy, seed=0, **settings):
    made = Settings(**{"arch": "mnist_dnn", "data": "mnist", "epochs": 3, "seed": seed} | settings)
    if accuracy is None:
        return Result(settings=made, data="-", test="-", broke="the loss is nan", step=2)
    sizes = (
        {"memory": 2_000_000, "optimizer_memory": 100, "disk": 110}
        if made.precision == "fp16"
        else {"memory": 4_000_000, "optimizer_memory": 200, "disk": 210}
    )
    return Result(settings=made, data="-", test="-", accuracy=accuracy, seconds=6.0, **sizes)


def test_a_mean_leaves_out_what_broke_and_says_so():
    mean = Mean.of([result(0.9), result(0.92, 1), result(None, 2)])
    assert (mean.mean, mean.runs, mean.broke) == (pytest.approx(91), 3, 1)
    assert str(mean) == "91.00 ± 1.41 (1 broke)"
    assert str(Mean.of([result(None)])) == "broke (1 of 1)"
    assert str(Mean.of([])) == "-"


def test_a_difference_pairs_equal_settings_alone():
    runs = [result(0.90, 0, precision="fp32"), result(0.92, 1, precision="fp32"), result(0.95, 2, precision="fp32")]
    runs += [result(0.91, 0, precision="fp16"), result(0.91, 1, precision="fp16"), result(None, 2, precision="fp16")]
    made = difference(runs, "fp16", "fp32")
    assert (made.mean, made.pairs) == (pytest.approx(0), 2)
    assert made.half_width == pytest.approx(12.706 * math.sqrt(2) / math.sqrt(2), rel=1e-3)  # t(0.975, 1), deviation sqrt 2
    assert difference(runs, "mixed", "fp32") is None
    assert difference(runs[:1] + runs[3:4], "fp16", "fp32").half_width == math.inf


def grid(drop=0.0, broken=True):
    """Runs of all settings: fp16 loses `drop`, and breaks with small epsilons."""
    runs = []
    for one in make_plan("mnist", full=True).settings:
        gone = broken and one.precision == "fp16" and one.optimizer != "sgd" and one.epsilon < 1e-5
        accuracy = 0.9 + 0.001 * (one.seed % 2) - drop * (one.precision == "fp16")
        runs.append(
            result(None if gone else accuracy, one.seed, **{name: getattr(one, name) for name in one.__struct_fields__ if name != "seed"})
        )
    return runs


STUDY = Study(
    arch="mnist_dnn",
    trained_in="fp16",
    run_in="binary16",
    images=100,
    gamma=5.0,
    delta=0.01,
    premise=99,
    kept=100,
    violations=0,
    proved=98,
    probable=1,
    bound=0.1,
)
PAIR = Pair(arch="mnist_dnn", trained_in="fp16", images=100, delta=0.5, premise=80, agree=99)


def verdicts(claims):
    return {claim.said: claim.verdict for claim in claims}


def test_what_the_paper_says_agrees_with_runs_that_do_as_it_says():
    found = verdicts(mnist_claims(grid(), [STUDY], [PAIR], "cpu"))
    assert found["With SGD, pure half training is as accurate as fp32"] == "agrees"
    assert found["Adam breaks in pure half with the usual epsilons 1e-8 and 1e-7"] == "agrees"
    assert found["With epsilon 0.001 RMSProp works in pure half, as accurately as in fp32"] == "agrees"
    assert found["Pure half needs half the memory"] == "agrees"
    assert found["Pure half trains faster than fp32"].startswith("not decided")
    assert found["Gamma > 2 delta explains why predictions are kept"] == "agrees"
    assert found["(Not published.) Gamma > 2 delta also between a network trained in fp32 and one trained in half"].startswith(
        "holds in part"
    )


def test_and_does_not_with_runs_that_do_not():
    found = verdicts(mnist_claims(grid(drop=0.02, broken=False), [], [], "cuda"))
    assert found["With SGD, pure half training is as accurate as fp32"] == "does not agree: fp16 is worse"
    assert found["Adam breaks in pure half with the usual epsilons 1e-8 and 1e-7"] == "does not agree"
    assert found["With SGD, that holds for every batch size"] == "does not agree: fp16 is worse"
    assert found["Pure half trains faster than fp32"] == "does not agree"


def test_the_precision_that_is_worse_is_named():
    runs = [
        result(0.9 - 0.05 * (precision == "mixed") + 0.001 * s, s, precision=precision)
        for precision in ("fp32", "mixed", "fp16")
        for s in range(3)
    ]
    assert verdicts(mnist_claims(runs, [], [], "cpu"))["So is mixed precision"] == "does not agree: mixed is worse"


def test_runs_that_all_broke_decide_nothing():
    runs = [result(None, s, precision=precision) for precision in ("fp32", "fp16", "mixed") for s in range(2)]
    found = verdicts(mnist_claims(runs, [], [], "cpu"))
    assert found["With SGD, pure half training is as accurate as fp32"] == "does not agree: runs broke"
    assert found["With SGD, that holds for every batch size"] == "does not agree: runs broke"
    assert found["Adam breaks in pure half with the usual epsilons 1e-8 and 1e-7"] == "not decided: no run"


def test_a_wide_interval_decides_nothing():
    runs = [result(0.80 + 0.1 * s, s, arch="paper_vit8", precision="fp32") for s in range(2)]
    runs += [result(0.85, s, arch="paper_vit8", precision="fp16") for s in range(2)]
    found = verdicts(cifar10_claims(runs, [], [], "cuda"))
    assert found["paper_vit8: fp16 - fp32 is -0.3 points"] == "not decided: the interval reaches beyond the tolerance"


def test_the_tables_say_what_was_trained_and_what_broke():
    plan, runs = make_plan("mnist", full=False), grid()
    batches = batch_table(plan, runs)
    assert batches.columns == ("optimizer", "precision", "64", "128", "256", "512", "1024")
    assert len(batches.rows) == 9 * 3
    assert ("Adam, epsilon 1e-08", "fp16", *["broke (5 of 5)"] * 5) in batches.rows
    assert "reduced" in batches.markdown()
    assert {row[0]: row[2] for row in difference_table(plan, runs).rows}["RMSProp, epsilon 1e-07"] == "25 of 25"
    epsilons = {(row[0], row[1]): row for row in epsilon_table(plan, runs).rows}
    assert epsilons["Adam", "1e-08"][2:6] == ("0", "0.00546", "infinite", "0.00546")
    assert epsilons["Adam", "1e-08"][6] == "25 of 25 broke, after step 2 to 2"
    assert epsilons["RMSProp", "0.001"][4] == "0.545"
    assert {row[1]: row[5] for row in cost_table(plan, runs, "cpu").rows if row[2] == "sgd"}["fp16"] == "2.00"
    assert study_table(plan, [STUDY]).rows[0][6:11] == ("99.00%", "100.00%", "0", "98.00%", "99.00%")
    assert pair_table(plan, [PAIR]).rows[0][-2:] == ("80.00%", "99.00%")
    assert claims_table(plan, mnist_claims(runs, [], [], "cpu")).csv().startswith(b"statement,measured here,verdict\r\n")


def test_the_published_figures_stand_beside_the_measured_ones():
    plan = make_plan("cifar10", full=True)
    runs = [result(0.757, s, arch="paper_alexnet", precision=p) for s in range(2) for p in ("fp32", "fp16", "mixed")]
    row = network_table(plan, runs).rows[0]
    assert row == ("paper_alexnet", "75.70 ± 0.00", "75.70 ± 0.00", "75.70 ± 0.00", "+0.00 ± 0.00", "75.8", "76.0", "75.9")
    assert cost_table(plan, runs, "cuda").rows[0][:5] == ("paper_alexnet", "fp32", "sgd", "2.00", "174")
