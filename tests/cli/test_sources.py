"""Where model and data come from on the command line: names, preprocessing, pictures of several sizes, functions."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import precisionkit.certify
from precisionkit.cli import main
from precisionkit.errors import RefutedError
from precisionkit.models import Preprocess, bundled_model, load_model

DIGITS = str(bundled_model("digits_cnn"))


def run(*arguments):
    return CliRunner().invoke(main, ["certify", *map(str, arguments)], catch_exceptions=False)


def refused(message, *arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""


@pytest.fixture
def pictures(tmp_path):
    """Grey pictures of several sizes in two classes."""
    generator = np.random.default_rng(0)
    for number, size in enumerate(((12, 15), (15, 12), (20, 11))):
        path = tmp_path / "set" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(path)
    return tmp_path / "set"


@pytest.fixture
def seen(monkeypatch):
    """Models and data sets that reach the library."""
    found = []

    def record(model, data, *_):
        found.append((model, data))
        raise RefutedError("stop")

    monkeypatch.setattr(precisionkit.certify, "certify", record)
    return found


PLAIN = Preprocess(scale=16.0)
OPTIONS = [
    ((), PLAIN),
    (("--resize", "9", "--crop", "8"), Preprocess(scale=16.0, resize_shorter=9, crop=8)),
    (("--resize", "8x9", "--interpolation", "bicubic"), Preprocess(scale=16.0, resize=(8, 9), interpolation="bicubic")),
    (("--scale", "255", "--normalize", "0.5/0.25"), Preprocess(mean=(0.5,), std=(0.25,))),
    (("--preprocess", "p.json"), Preprocess(mean=(0.5,), std=(1.0,), resize_shorter=9, crop=(8, 8))),
    (("--preprocess", "p.json", "--resize", "none", "--normalize", "none"), Preprocess(crop=(8, 8))),
    (("--preprocess", "p.json", "--crop", "none"), Preprocess(mean=(0.5,), std=(1.0,), resize_shorter=9)),
]


@pytest.mark.parametrize(("options", "expected"), OPTIONS)
def test_options_change_the_preprocessing(tmp_path, monkeypatch, seen, options, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.json").write_text('{"mean": [0.5], "std": [1], "resize_shorter": 9, "crop": [8, 8]}')
    assert run(DIGITS, "--data", "digits", *options).exit_code == 3
    ((model, _),) = seen
    assert model.preprocess == expected


@pytest.mark.parametrize(
    ("option", "asked", "fetched"), [((), None, False), (("--download",), True, True), (("--no-download",), False, False)]
)
def test_fetching_is_asked_for(monkeypatch, option, asked, fetched):
    said = []

    def data(*_, download, **__):
        said.append(download)
        return load_digits("digits")

    def model(*_, download, **__):
        said.append(download)
        raise RefutedError("stop")

    from precisionkit.data import load_dataset as load_digits

    monkeypatch.setattr("precisionkit.data.load_dataset", data)
    monkeypatch.setattr("precisionkit.models.load_model", model)
    run("torchvision:resnet18", "--data", "digits", *option)
    assert said == [asked, fetched]


def test_pictures_of_several_sizes_are_certified(tmp_path, pictures):
    result = run(DIGITS, "--data", pictures, "--resize", 10, "--crop", 8, "--scale", 255, "--json", tmp_path / "r.json")
    assert result.exit_code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert [row["label"] for row in report["inputs"]] == [0, 0, 1]
    said = "shorter side resized to 10 (bilinear, Pillow), middle 8x8, divided by 255"
    assert report["environment"]["flags"]["inputs"] == f"{said}, rounded in binary32"
    assert f"inputs: {said}, rounded in binary32, the same for both programs" in " ".join(result.stdout.split())


def test_a_model_by_name_is_certified(tmp_path, pictures):
    options = ("--weights", "random:4", "--crop", 24, "--resize", "none", "--normalize", "none", "--limit", 1, "--method", "interval")
    for path in pictures.rglob("*.png"):
        Image.open(path).convert("RGB").save(path)
    result = run("torchvision:squeezenet1_1", "--data", pictures, *options, "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["model"]["arch"], report["model"]["path"]) == (
        "torchvision:squeezenet1_1 (random weights, seed 4)",
        "torchvision:squeezenet1_1",
    )
    assert report["summary"]["inputs"] == 1


def test_a_function_gives_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cli_batches_for_test.py").write_text(
        "import numpy as np\ndef f():\n    return [(np.zeros((2, 8, 8), np.uint8), np.array([1, 2]))] * 2\n"
    )
    result = run(DIGITS, "--data", "cli_batches_for_test:f", "--json", tmp_path / "r.json")
    assert result.exit_code == 0
    assert json.loads((tmp_path / "r.json").read_text())["summary"]["inputs"] == 4


def test_unusable_inputs_are_one_sentence(tmp_path, pictures):
    np.save(tmp_path / "tokens.npy", np.ones((2, 8), dtype=np.int64))
    refused("are of several sizes, but the model 'digits_cnn' takes one: give --resize HEIGHTxWIDTH", DIGITS, "--data", pictures)
    refused("are of several sizes", DIGITS, "--data", pictures, "--resize", 10)
    refused("gives integer tokens, but the model 'digits_cnn' takes images or numbers", DIGITS, "--data", tmp_path / "tokens.npy")
    refused("The size '3x' of --resize is not of the form", DIGITS, "--data", "digits", "--resize", "3x")
    refused("Unknown interpolation 'sinc'", DIGITS, "--data", "digits", "--interpolation", "sinc")
    refused("cannot be divided by -1.0", DIGITS, "--data", "digits", "--scale", "-1")
    refused("leave out --weights, which is for models by name", DIGITS, "--data", "digits", "--weights", "random")
    refused("give its weights with --weights FILE, default or random", "torchvision:resnet18", "--data", "digits")


def test_text_models_take_tokens_alone(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    transformers.utils.logging.disable_progress_bar()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
    transformers.BertForSequenceClassification(transformers.BertConfig(**sizes)).save_pretrained(tmp_path / "bert")
    refused("gives images or numbers, but the model 'hf:BertForSequenceClassification' takes integer tokens", f"hf:{tmp_path}/bert",
            "--data", "digits")  # fmt: skip
    assert load_model(f"hf:{tmp_path}/bert").input_dtype == torch.int64


def test_tokens_are_not_rounded_and_have_a_vocabulary(tmp_path, monkeypatch):
    (tmp_path / "tokens_for_test.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ("tokens_for_test:make", "--weights", "random", "--data", "t.npz")
    np.savez("t.npz", images=np.array([[1, 2, 3], [0, 8, 4]]))
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert "inputs: tokens as they are, the same for both programs" in " ".join(result.stdout.split())
    np.savez("t.npz", images=np.array([[1, 2, 3], [0, 9, 4]]))
    refused("An input holds the token 9, but the network has an embedding of 9 rows, for the tokens 0 to 8", *arguments)


def test_weights_of_another_format_are_told_and_nothing_is_written_aloud(tmp_path):
    state = {key: value.half() for key, value in load_model(DIGITS).module.state_dict().items() if value.is_floating_point()}
    torch.save(state, tmp_path / "half.pt")
    options = ("--arch", "digits_cnn", "--data", "digits", "--limit", 2, "-q", "--json", tmp_path / "r.json")
    result = run(tmp_path / "half.pt", *options)
    assert result.exit_code == 0
    assert "weights: float16 in the file, converted to binary32" in result.stdout
    assert result.stderr == ""
    flags = json.loads((tmp_path / "r.json").read_text())["environment"]["flags"]
    assert flags["weights"] == "float16 in the file, converted to binary32"
