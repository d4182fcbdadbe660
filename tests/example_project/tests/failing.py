"""Tests that fail, to see how; not collected by default."""

from shop.classifier import classifier, deployed, measurements

from precisionkit.pytest_plugin import assert_certified, assert_close_proved


def test_result_of_another_input():
    model, x = classifier(), measurements()
    assert_close_proved(deployed(model, x.roll(1, 0)), model, x)


def test_everything_overflows():
    model = classifier()
    model[0].weight.data *= 1e4
    assert_certified(model, 100 * measurements())


def test_model_in_training_mode():
    assert_certified(classifier().train(), measurements())
