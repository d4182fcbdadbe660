"""The networks of the published experiments: their sizes, batch normalisation, and that they can be captured."""

import pytest
import torch

from precisionkit.capture import capture
from precisionkit.models import ZOO

# arXiv 2301.12809 gives no sizes: these are those of the definitions' sources, with ten classes.
PARAMETERS = {
    "mnist_dnn": 669_706,
    "paper_vgg16": 14_728_266,  # features of VGG-16 with batch norm (14,723,136) and 512 x 10 + 10
    "paper_vgg19": 20_040_522,
    "paper_resnet20": 269_722,  # He et al. 2016: 0.27 million
    "paper_resnet32": 464_154,
    "paper_resnet56": 853_018,
    "paper_resnet110": 1_727_962,
    "paper_densenet121": 6_964_106,  # 7,978,856 with 1000 classes, less 990 x 1025
    "paper_densenet169": 12_501_130,
    "paper_mobilenet_v2": 2_236_682,  # 3,504,872 with 1000 classes, less 990 x 1281
    "paper_xception": 20_827_442,  # 22,855,952 with 1000 classes, less 990 x 2049
}


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_the_networks_have_the_sizes_of_their_sources(name, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in ZOO[name].build().parameters()) == parameters


@pytest.mark.parametrize("name", [name for name in ZOO if name.startswith("paper_")])
def test_batch_normalisation_has_the_published_epsilon(name):
    with torch.device("meta"):
        norms = [m for m in ZOO[name].build().modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} <= {1e-3}
    assert bool(norms) == (name not in ("paper_alexnet", "paper_vit8", "paper_vit12"))


@pytest.mark.parametrize("name", ["mnist_dnn", "paper_alexnet", "paper_vgg16", "paper_resnet20", "paper_xception", "paper_vit8"])
def test_they_can_be_captured(name):
    entry = ZOO[name]
    graph = capture(entry.build().eval(), entry.input_shape)
    assert tuple(graph.nodes[-1].shape)[-1] == 10
