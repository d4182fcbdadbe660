"""What is trained to repeat the published experiments."""

import pytest

from precisionkit.errors import UsageError
from precisionkit.models import ZOO
from precisionkit.reproduce.plan import CIFAR_NETWORKS, PUBLISHED, make_plan, slug

ALL = [(name, full) for name in ("mnist", "cifar10") for full in (True, False)]


@pytest.mark.parametrize(("name", "full"), ALL)
def test_every_run_has_a_file_and_a_network_of_its_own(name, full):
    plan = make_plan(name, full=full)
    assert len({slug(one) for one in plan.settings}) == len(plan.settings) == len(set(plan.settings))
    assert {one.arch for one in plan.settings} <= set(ZOO)
    assert set(plan.studied) <= set(plan.settings)
    assert plan.full == full
    assert ("reduced" in plan.what) != full


def test_the_full_experiment_with_mnist_is_the_whole_grid():
    plan = make_plan("mnist", full=True)
    published = [one for one in plan.settings if one.precision in ("fp32", "fp16", "mixed")]
    assert {one.batch for one in published} == {64, 128, 256, 512, 1024}
    assert {one.seed for one in published} == set(range(5))
    assert len({(one.optimizer, one.epsilon) for one in published}) == 9  # SGD, Adam and RMSProp with four epsilons each
    assert len(published) == 9 * 5 * 3 * 5
    assert {one.arch for one in published} == {"mnist_dnn"}
    assert {one.limit for one in published} == {None}


def test_the_full_experiment_with_cifar_has_the_published_setting():
    plan = make_plan("cifar10", full=True)
    assert {one.arch for one in plan.settings} == set(CIFAR_NETWORKS) == set(PUBLISHED)
    for one in plan.settings:
        assert (one.optimizer, one.learning_rate, one.momentum, one.batch, one.epochs) == ("sgd", 0.01, 0.9, 256, 100)
        assert one.batch_norm_momentum == 0.99
        assert one.weight_decay == (1e-4 if "resnet" in one.arch else 0.0)


def test_an_unknown_experiment():
    with pytest.raises(UsageError, match="Unknown experiment 'imagenet': give one of mnist, cifar10"):
        make_plan("imagenet", full=False)
