"""Models by name: torchvision, timm, folders of transformers; small ones with random weights."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn
from torchvision import models

from precisionkit.errors import PrecisionKitError, UnusableModelError, UsageError
from precisionkit.models import Preprocess, bundled_model, load_model

Build = Callable[[], nn.Module]


def _state(module: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """A state in which batch normalisations do something as well."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(value.shape, generator=generator) * 0.1 + 0.05 if value.is_floating_point() else value
        for key, value in module.state_dict().items()
    }


def _write(path: Path, state: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


def _refused(model: str, message: str, error: type[PrecisionKitError] = UsageError, **options: Any) -> None:
    with pytest.raises(error, match=message) as caught:
        load_model(model, **options)
    assert "\n" not in str(caught.value)


class TestTorchvision:
    @pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "regnet_y_400mf", "shufflenet_v2_x0_5"])
    @pytest.mark.parametrize(("classes", "file"), [(1000, "net.pth"), (7, "net.safetensors")])
    def test_weights_from_a_file(self, tmp_path: Path, name: str, classes: int, file: str) -> None:
        theirs = models.get_model(name, weights=None, num_classes=classes).eval()
        theirs.load_state_dict(_state(theirs))
        path = _write(tmp_path / file, theirs.state_dict())
        model = load_model(f"torchvision:{name}", weights=path)
        x = torch.rand(2, 3, 64, 64)
        assert torch.equal(model.module(x), theirs(x))
        assert (model.arch, model.classes, model.input_shape) == (f"torchvision:{name}", classes, (3, 224, 224))
        assert (model.path, model.sha256) == (str(path), hashlib.sha256(path.read_bytes()).hexdigest())
        assert (model.input_dtype, model.module.training) == (torch.float32, False)

    def test_the_preprocessing_is_that_of_the_published_weights(self, tmp_path: Path) -> None:
        model = load_model("torchvision:squeezenet1_1", weights="random")
        image = np.random.default_rng(0).integers(0, 256, (1, 300, 280, 3), dtype=np.uint8)
        theirs = models.SqueezeNet1_1_Weights.DEFAULT.transforms()(Image.fromarray(image[0]))
        assert torch.equal(model.preprocess(image)[0], theirs)
        mine = Preprocess(crop=32)
        assert load_model("torchvision:squeezenet1_1", weights="random", preprocess=mine).preprocess == mine
        transform = models.Swin_T_Weights.DEFAULT.transforms()
        assert load_model("torchvision:squeezenet1_1", weights="random", preprocess=transform).preprocess.resize_shorter == 232

    def test_random_weights_are_seeded_and_named_so(self) -> None:
        first, again, other = (load_model("torchvision:squeezenet1_1", weights=f"random{seed}") for seed in ("", ":0", ":7"))
        assert first.arch == again.arch == "torchvision:squeezenet1_1 (random weights, seed 0)"
        assert other.arch == "torchvision:squeezenet1_1 (random weights, seed 7)"
        assert first.sha256 == again.sha256 != other.sha256
        torch.manual_seed(3)
        before = torch.random.get_rng_state()
        load_model("torchvision:squeezenet1_1", weights="random")
        assert torch.equal(before, torch.random.get_rng_state())

    @pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
    def test_auxiliary_heads_are_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        theirs = models.get_model(name, weights=None, aux_logits=True, transform_input=True, init_weights=False).eval()
        theirs.load_state_dict(_state(theirs))
        path = _write(tmp_path / "net.pth", theirs.state_dict())
        _refused(f"torchvision:{name}", r"which only the published ones tell: give the file as MODEL, with --arch", weights=path)
        digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        monkeypatch.setattr("precisionkit.models.torchvision_models._hash_start", lambda _: digits)
        model = load_model(f"torchvision:{name}", weights=path)
        x = torch.rand(1, 3, 96, 96)
        assert torch.equal(model.module(x), theirs(x))
        assert (model.arch, model.module.transform_input) == (f"torchvision:{name} (IMAGENET1K_V1)", True)
        assert not load_model(f"torchvision:{name}", weights="random").module.transform_input

    @pytest.mark.parametrize(
        ("name", "new", "old"),
        [
            ("densenet121", r"denselayer1.norm1.", "denselayer1.norm.1."),
            ("densenet121", r"denselayer16.conv2.", "denselayer16.conv.2."),
            ("vit_b_32", "encoder_layer_3.mlp.0.", "encoder_layer_3.mlp.linear_1."),
            ("vit_b_32", "encoder_layer_3.mlp.3.", "encoder_layer_3.mlp.linear_2."),
        ],
    )
    def test_old_names_in_published_files(self, name: str, new: str, old: str) -> None:
        from precisionkit.models.torchvision_models import find

        with torch.device("meta"):
            state = models.get_model(name, weights=None).state_dict()
        written = {key.replace(new, old): value for key, value in state.items()}
        assert written.keys() != state.keys()
        assert find(name).adapt(written).keys() == state.keys()

    def test_default_weights_come_from_the_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        entry = models.SqueezeNet1_1_Weights.DEFAULT
        name = "torchvision:squeezenet1_1"
        _refused(name, "are not in torch's cache .*: --download fetches them", UnusableModelError, weights="default")
        theirs = models.squeezenet1_1(weights=None)
        place = tmp_path / "checkpoints" / entry.url.rpartition("/")[2]

        def fetch(url: str, path: str, hash_prefix: str, progress: bool) -> None:
            assert (url, path, hash_prefix, progress) == (entry.url, str(place), "b8a52dc0", False)
            _write(place, theirs.state_dict())

        monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
        _refused(name, "are not those that .* was published with: remove the file", UnusableModelError, weights="default", download=True)
        digits = hashlib.sha256(place.read_bytes()).hexdigest()[:8]
        monkeypatch.setattr("precisionkit.models.torchvision_models._hash_start", lambda _: digits)
        assert load_model(name, weights="default").arch == "torchvision:squeezenet1_1 (IMAGENET1K_V1)"

    def test_a_closed_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def closed(*_: object, **__: object) -> None:
            raise OSError("closed")

        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        monkeypatch.setattr(torch.hub, "download_url_to_file", closed)
        _refused("torchvision:resnet18", r"cannot be fetched from https.* \(closed\)", UnusableModelError, weights="default", download=True)

    def test_weights_that_do_not_fit(self, tmp_path: Path) -> None:
        state = models.squeezenet1_1(weights=None).state_dict()
        state.pop("classifier.1.bias")
        path = _write(tmp_path / "net.pth", state)
        message = (
            r"does not fit the architecture torchvision:squeezenet1_1: 1 tensor missing \(classifier.1.bias\); give the weights of this"
        )
        _refused("torchvision:squeezenet1_1", message, UnusableModelError, weights=path)
        _refused("torchvision:squeezenet1_0", "of another shape", UnusableModelError, weights=path)
        _refused(
            "torchvision:squeezenet1_0",
            "of torchvision:squeezenet1_0 do not exist as a file",
            UnusableModelError,
            weights=tmp_path / "no.pth",
        )

    def test_weights_are_read_safely(self, tmp_path: Path) -> None:
        torch.save(models.squeezenet1_1(weights=None), tmp_path / "net.pt")
        with pytest.raises(UnusableModelError, match="holds pickled Python objects"):
            load_model("torchvision:squeezenet1_1", weights=tmp_path / "net.pt")

    @pytest.mark.parametrize(
        ("model", "options", "message"),
        [
            ("torchvision:nope", {"weights": "random"}, "torchvision has no classification model 'nope'"),
            ("torchvision:fcn_resnet50", {"weights": "random"}, "has no classification model 'fcn_resnet50'"),
            ("torchvision:", {"weights": "random"}, "has no classification model ''"),
            ("torchvision:resnet18", {}, "names an architecture: give its weights with --weights FILE, default or random"),
            ("torchvision:resnet18", {"weights": "random:x"}, "The seed of --weights random:x is no number"),
            ("torchvision:resnet18", {"weights": "random", "arch": "lenet5"}, "names its architecture: leave out --arch"),
            (str(bundled_model("digits_cnn")), {"weights": "random"}, "is a file with weights of its own: leave out --weights"),
            ("lenet5", {}, "lenet5 names an architecture: give its weights with --weights FILE, or --weights random"),
            ("lenet5", {"weights": "random", "arch": "lenet5"}, "names its architecture: leave out --arch"),
        ],
    )
    def test_wrong_use(self, model: str, options: dict[str, Any], message: str) -> None:
        _refused(model, message, **options)

    def test_without_torchvision(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torchvision.models", None)
        monkeypatch.delattr("torchvision.models")
        _refused("torchvision:resnet18", r"pip install 'precisionkit\[vision\]'", weights="random")


class TestTimm:
    @pytest.fixture(autouse=True)
    def timm(self) -> Any:
        return pytest.importorskip("timm", reason="timm is not installed")

    @pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "mixer_s32_224", "deit_tiny_distilled_patch16_224"])
    def test_weights_from_a_file(self, tmp_path: Path, timm: Any, name: str) -> None:
        theirs = timm.create_model(name, pretrained=False, num_classes=5).eval()
        theirs.load_state_dict(_state(theirs))
        model = load_model(f"timm:{name}", weights=_write(tmp_path / "net.safetensors", theirs.state_dict()))
        x = torch.rand(1, 3, 224, 224)
        assert torch.equal(model.module(x), theirs(x))
        assert (model.arch, model.classes, model.input_dtype) == (f"timm:{name}", 5, torch.float32)

    @pytest.mark.parametrize("name", ["resnet10t.c3_in1k", "vit_tiny_patch16_224", "levit_128s", "convnext_atto"])
    def test_the_preprocessing_is_timms(self, timm: Any, name: str) -> None:
        model = load_model(f"timm:{name}", weights="random")
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(timm.create_model(name)))
        image = np.random.default_rng(0).integers(0, 256, (1, 300, 280, 3), dtype=np.uint8)
        assert torch.equal(model.preprocess(image)[0], transform(Image.fromarray(image[0])))
        assert model.input_shape == tuple(model.preprocess(image).shape[1:])
        assert model.arch == f"timm:{name} (random weights, seed 0)"

    def test_crop_modes(self, timm: Any) -> None:
        from precisionkit.models.timm_models import _preprocess

        given = {"input_size": (3, 24, 24), "crop_pct": 0.9, "interpolation": "bilinear", "mean": (0.5,), "std": (0.5,)}
        squash = _preprocess("x", given | {"crop_mode": "squash"})
        assert (squash.resize, squash.crop) == ((26, 26), (24, 24))
        for change in ({"crop_mode": "border"}, {"crop_mode": "center", "input_size": (3, 24, 32)}):
            with pytest.raises(UsageError, match="which is not known here: give its preprocessing with --preprocess FILE"):
                _preprocess("x", given | change)

    def test_default_weights(self, tmp_path: Path, timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def found(repository: str, file: str, *, local_files_only: bool) -> str:
            asked.append((repository, file, local_files_only))
            return str(_write(tmp_path / "net.safetensors", timm.create_model("resnet10t").state_dict()))

        monkeypatch.setattr("huggingface_hub.hf_hub_download", found)
        assert load_model("timm:resnet10t", weights="default").classes == 1000
        load_model("timm:resnet10t", weights="default", download=True)
        assert asked == [("timm/resnet10t.c3_in1k", "model.safetensors", True), ("timm/resnet10t.c3_in1k", "model.safetensors", False)]

    def test_nothing_is_fetched_unless_asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        message = r"are not in the cache \(LocalEntryNotFoundError\): --download fetches them, and --weights FILE reads others"
        _refused("timm:resnet10t", message, UnusableModelError, weights="default")
        _refused("timm:resnet18d", "has no published weights|are not in the cache", UnusableModelError, weights="default")

    @pytest.mark.parametrize("name", ["nope", "", "hf-hub:timm/resnet10t", "hf_hub:timm/resnet10t", "local-dir:/tmp"])
    def test_unknown_names(self, name: str) -> None:
        _refused(f"timm:{name}", "timm has no model", weights="random")


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    _refused("timm:resnet10t", r"Models of timm need it: pip install 'precisionkit\[timm\]'", weights="random")


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
BERT = SMALL | {"vocab_size": 50, "max_position_embeddings": 20, "num_labels": 3}
VIT = SMALL | {"image_size": 16, "patch_size": 8, "num_labels": 4}


class TestTransformers:
    @pytest.fixture(autouse=True)
    def transformers(self) -> Any:
        transformers = pytest.importorskip("transformers", reason="transformers is not installed")
        transformers.utils.logging.disable_progress_bar()
        return transformers

    def _saved(self, transformers: Any, folder: Path, kind: str = "BertForSequenceClassification", **settings: Any) -> Any:
        config_class = getattr(transformers, kind).config_class
        config = config_class(**((BERT if kind.startswith("Bert") else VIT) | settings))
        torch.manual_seed(1)
        module = getattr(transformers, kind)(config).eval()
        module.save_pretrained(folder)
        return module

    @pytest.mark.parametrize(
        "kind",
        ["BertForSequenceClassification", "ViTForImageClassification", "DeiTForImageClassificationWithTeacher"],
    )
    def test_logits_are_those_of_the_library(self, tmp_path: Path, transformers: Any, kind: str) -> None:
        theirs = self._saved(transformers, tmp_path, kind)
        model = load_model(f"hf:{tmp_path}")
        text = kind.startswith("Bert")
        x = torch.randint(0, 50, (2, 7)) if text else torch.rand(2, 3, 16, 16)
        assert torch.equal(model.module(x), theirs(x).logits)
        assert (model.arch, model.path, model.classes) == (f"hf:{kind}", str(tmp_path), 3 if text else 4)
        assert (model.input_dtype, model.input_shape) == ((torch.int64, None) if text else (torch.float32, (3, 16, 16)))
        assert not any(parameter.requires_grad for parameter in model.module.parameters())

    def test_the_hash_is_of_configuration_and_weights(self, tmp_path: Path, transformers: Any) -> None:
        self._saved(transformers, tmp_path)
        first = load_model(f"hf:{tmp_path}").sha256
        assert first == load_model(f"hf:{tmp_path}").sha256
        self._change(tmp_path, layer_norm_eps=1e-6)
        assert load_model(f"hf:{tmp_path}").sha256 != first

    def test_random_weights(self, tmp_path: Path, transformers: Any) -> None:
        self._saved(transformers, tmp_path)
        (tmp_path / "model.safetensors").unlink()
        first, again, other = (load_model(f"hf:{tmp_path}", weights=f"random:{seed}") for seed in (1, 1, 2))
        assert first.arch == "hf:BertForSequenceClassification (random weights, seed 1)"
        assert first.sha256 == again.sha256 != other.sha256
        x = torch.randint(0, 50, (2, 7))
        assert torch.equal(first.module(x), again.module(x))

    def test_half_weights_become_binary32(self, tmp_path: Path, transformers: Any) -> None:
        self._saved(transformers, tmp_path).half().save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
        assert {parameter.dtype for parameter in load_model(f"hf:{tmp_path}").module.parameters()} == {torch.float32}

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (None, Preprocess()),
            (
                {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 16, "width": 12}, "resample": 3,
                 "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "rescale_factor": 1 / 255},
                Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3, resize=(16, 12), interpolation="bicubic"),
            ),
            (
                {"image_processor_type": "CLIPImageProcessorFast", "do_resize": True, "size": {"shortest_edge": 18}, "do_center_crop": True,
                 "crop_size": {"height": 16, "width": 16}, "do_rescale": False},
                Preprocess(scale=1.0, resize_shorter=18, crop=None, interpolation="bicubic"),
            ),
            ({"do_resize": True, "size": 16, "do_center_crop": False}, Preprocess(resize=16)),
        ],
    )  # fmt: skip
    def test_preprocessing(self, tmp_path: Path, transformers: Any, given: Any, expected: Preprocess) -> None:
        self._saved(transformers, tmp_path, "ViTForImageClassification")
        if given is not None:
            (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
            if given.get("do_center_crop"):
                expected = Preprocess(**(vars(expected) | {"crop": (16, 16)}))
        assert load_model(f"hf:{tmp_path}").preprocess == expected

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"image_processor_type": "MineImageProcessor"}, "MineImageProcessor is not known here"),
            ({"do_flip_channel_order": True}, "do_flip_channel_order is not known here"),
            ({"image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": 16}, "the size is not known here"),
            ({"do_resize": True, "size": {"longest_edge": 16}}, "the size is not known here"),
            ({"do_resize": True}, "'size'"),
            ({"do_normalize": True, "image_mean": [0.5], "image_std": [0]}, "standard deviations positive"),
            ({"rescale_factor": 0}, "division by zero"),
        ],
    )
    def test_other_preprocessing(self, tmp_path: Path, transformers: Any, given: Any, message: str) -> None:
        self._saved(transformers, tmp_path, "ViTForImageClassification")
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
        whole = f"has a preprocessor_config.json that cannot be read .*{message}.*: give --preprocess FILE"
        _refused(f"hf:{tmp_path}", whole, UnusableModelError)
        assert load_model(f"hf:{tmp_path}", preprocess=Preprocess(crop=16)).preprocess.crop == 16

    def _change(self, folder: Path, **fields: Any) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"auto_map": {"AutoModel": "evil.Model"}}, r"asks for code or kernels of its own \(auto_map in config.json\)"),
            ({"quantization_config": {}}, "asks for code or kernels of its own"),
            ({"architectures": ["BertModel"]}, "holds BertModel of the type bert, which is no classifier of images or text"),
            ({"architectures": []}, "holds no named architecture of the type bert"),
            ({"architectures": "Bert"}, "holds no named architecture"),
            ({"architectures": ["Pipeline"], "model_type": "mine"}, "holds Pipeline of the type mine"),
            ({"model_type": ["bert"]}, "which is no classifier"),
            ({"hidden_size": 17}, "describes no network that can be built|has a config.json that"),
            ({"hidden_size": "many"}, "has a config.json that BertForSequenceClassification cannot use|describes no network"),
            ({"vocab_size": 10**9}, "describes a network of 16000.* numbers, but its weights are"),
            ({"num_hidden_layers": 0}, "its weights have beside bert.encoder.layer.0"),
            ({"id2label": {"0": "a"}}, "its weights have in another shape classifier"),
        ],
    )
    def test_other_configurations(self, tmp_path: Path, transformers: Any, fields: dict[str, Any], message: str) -> None:
        self._saved(transformers, tmp_path)
        self._change(tmp_path, **fields)
        _refused(f"hf:{tmp_path}", message, UnusableModelError)

    def test_switches_are_ignored(self, tmp_path: Path, transformers: Any) -> None:
        theirs = self._saved(transformers, tmp_path)
        self._change(tmp_path, _attn_implementation="someone/kernels", attn_implementation="someone/kernels", torch_dtype="float16")
        x = torch.randint(0, 50, (2, 7))
        assert torch.equal(load_model(f"hf:{tmp_path}").module(x), theirs(x).logits)

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("config.json", None, "has no config.json"),
            ("config.json", b"{", r"config\.json is damaged or no JSON object"),
            ("config.json", b"[]", r"config\.json is damaged or no JSON object"),
            ("model.safetensors", None, "has no model.safetensors: save the model with save_pretrained"),
            ("model.safetensors", b"no weights", "is not a valid safetensors file"),
        ],
    )
    def test_damaged_folders(self, tmp_path: Path, transformers: Any, file: str, content: bytes | None, message: str) -> None:
        self._saved(transformers, tmp_path)
        if content is None:
            (tmp_path / file).unlink()
        else:
            (tmp_path / file).write_bytes(content)
        _refused(f"hf:{tmp_path}", message, UnusableModelError)

    def test_missing_weights(self, tmp_path: Path, transformers: Any) -> None:
        self._saved(transformers, tmp_path)
        state = safetensors.torch.load_file(tmp_path / "model.safetensors")
        state["classifier.odd"] = state.pop("classifier.bias")
        _write(tmp_path / "model.safetensors", state)
        _refused(f"hf:{tmp_path}", "its weights lack classifier.bias", UnusableModelError)

    def test_wrong_use(self, tmp_path: Path) -> None:
        _refused("hf:no/such", "does not exist: give a folder with config.json .*; nothing is fetched", UnusableModelError)
        _refused("hf:no/such", "reads the weights of its folder: leave out --weights", weights="net.pt")

    def test_without_transformers(self, tmp_path: Path, transformers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._saved(transformers, tmp_path)
        monkeypatch.setitem(sys.modules, "transformers", None)
        _refused(f"hf:{tmp_path}", r"is read by Hugging Face's library: pip install 'precisionkit\[transformers\]'")


class TestArchitectures:
    """The zoo, and factories of the user's own, by name."""

    def test_the_bundled_network(self) -> None:
        model = load_model("digits_cnn")
        assert (model.path, model.arch) == (str(bundled_model("digits_cnn")), "digits_cnn")

    def test_random_weights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "mine_for_test.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(3, 2)\n")
        monkeypatch.chdir(tmp_path)
        for name, shape in (("lenet5", (1, 32, 32)), ("mine_for_test:make", None)):
            first, again, other = (load_model(name, weights=f"random:{seed}") for seed in (1, 1, 2))
            assert first.arch == f"{name} (random weights, seed 1)"
            assert first.sha256 == again.sha256 != other.sha256
            assert first.input_shape == shape

    def test_weights_of_a_file(self, tmp_path: Path) -> None:
        state = {key: value.half() for key, value in load_model("lenet5", weights="random").module.state_dict().items()}
        model = load_model("lenet5", weights=_write(tmp_path / "w.pt", state))
        assert (model.arch, model.stored) == ("lenet5", "float16")
        _refused("lenet5", "The weights 'no.pt' of lenet5 do not exist as a file", UnusableModelError, weights="no.pt")
        _refused("no.pt", "no.pt does not exist: check the path", UnusableModelError, weights="random")
