"""A model for the classification of images or text in a folder that Hugging Face's library saved; no code of the folder is run."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from precisionkit.errors import UnusableModelError, UsageError, shown
from precisionkit.models.architecture import Named
from precisionkit.models.preprocess import Preprocess, from_fields
from precisionkit.models.tensors import Tensors
from precisionkit.models.transforms import interpolation_name

_LARGEST = 1 << 24  # bytes of a configuration
_CODE = ("auto_map", "quantization_config")
_SWITCHES = ("attn_implementation", "experts_implementation", "use_kernels", "dtype")  # some can name code on the hub
_PROCESSORS = {"ViT": 2, "DeiT": 3, "Beit": 3, "CLIP": 3, "Bit": 3, "MobileNetV1": 2, "MobileNetV2": 2, "Siglip": 3}
"""Families whose steps are those here, with the number of their interpolation where a file leaves it out."""
_SQUARE = ("ViT", "DeiT", "Beit")  # a plain number is the side of a square; elsewhere it may be the shorter side
_OTHER_STEPS = ("do_pad", "do_flip_channel_order", "do_reduce_labels", "crop_pct", "do_thumbnail", "offset")


class Logits(nn.Module):
    """A model of one tensor that returns its logits alone; without a mask, so that it attends to every token."""

    def __init__(self, model: nn.Module, argument: str) -> None:
        super().__init__()
        self.model = model
        self.argument = argument

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the model."""
        logits: torch.Tensor = self.model(**{self.argument: x}).logits
        return logits


def load_folder(name: str, read: Callable[[str], tuple[Tensors, str]], *, seed: int | None, preprocessed: bool) -> Named:
    """Build the model that ``config.json`` describes, with the weights in ``model.safetensors``.

    Parameters
    ----------
    name : str
        The folder.
    read : callable
        Reads a file of weights safely.
    seed : int or None
        Of random weights, in place of the file's.
    preprocessed : bool
        Whether the caller brings the preprocessing.
    """
    folder = Path(name)
    where = f"The model folder {name}"
    if not folder.is_dir():
        raise UnusableModelError(f"{where} does not exist: give a folder with config.json and model.safetensors; nothing is fetched.")
    config, config_hash = _json(folder / "config.json")
    if config is None:
        raise UnusableModelError(f"{where} has no config.json: save the model there with save_pretrained.")
    if named := [key for key in _CODE if key in config]:
        raise UnusableModelError(f"{where} asks for code or kernels of its own ({named[0]} in config.json), which is not supported here.")
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise UsageError(f"{where} is read by Hugging Face's library: pip install 'precisionkit[transformers]'.") from None
    kind, pictures = _class(config, where)
    model, sha256 = _random(kind, config, seed, where) if seed is not None else _with_weights(kind, config, folder, read, where)
    preprocess = Preprocess() if preprocessed or not pictures else _preprocess(folder, kind.__name__, where)
    settings: Any = model.config
    return Named(
        module=Logits(model, "pixel_values" if pictures else "input_ids"),
        path=name,
        sha256=hashlib.sha256(f"{config_hash} {sha256}".encode()).hexdigest(),
        arch=f"hf:{kind.__name__}",
        preprocess=preprocess,
        input_shape=_input_shape(settings) if pictures else None,
        classes=int(settings.num_labels),
        input_dtype=torch.float32 if pictures else torch.int64,
    )


def _json(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Contents of a JSON file, None where there is none, and their SHA-256."""
    if not path.is_file():
        return None, ""
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
        found = json.loads(data) if len(data) <= _LARGEST else None
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UnusableModelError(f"The file {path} is damaged or no JSON object: save the model again with save_pretrained.")
    return found, hashlib.sha256(data).hexdigest()


def _class(config: Mapping[str, Any], where: str) -> tuple[Any, bool]:
    """Class of the library that the configuration names, and whether it takes images."""
    import transformers
    from transformers.models.auto import modeling_auto as known

    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    for table, pictures in (
        (known.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, True),
        (known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, False),
    ):
        classes = table.get(str(config.get("model_type")), ())
        if name in ((classes,) if isinstance(classes, str) else classes) and not name.startswith("Timm"):
            return getattr(transformers, name), pictures
    kind = shown(str(config.get("model_type")), 40)
    raise UnusableModelError(
        f"{where} holds {shown(name) or 'no named architecture'} of the type {kind}, which is no classifier of "
        "images or text of transformers' own: give one, such as ViTForImageClassification or BertForSequenceClassification."
    )


def _configured(kind: Any, config: Mapping[str, Any], where: str) -> Any:
    try:
        return kind.config_class.from_dict(_plain(config))
    except Exception as error:  # the library checks fields with errors of many types
        raise UnusableModelError(f"{where} has a config.json that {kind.__name__} cannot use ({_brief(error)}): save it again.") from error


def _plain(config: Any) -> Any:
    """The configuration without switches of how it runs."""
    if isinstance(config, dict):
        return {key: _plain(value) for key, value in config.items() if not any(switch in key for switch in _SWITCHES)}
    return config


def _random(kind: Any, config: Mapping[str, Any], seed: int, where: str) -> tuple[nn.Module, str]:
    settings = _configured(kind, config, where)
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = _built(kind, settings, where)
    return model, f"random {seed}"


def _with_weights(kind: Any, config: Mapping[str, Any], folder: Path, read: Callable[[str], tuple[Tensors, str]], where: str) -> Any:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UnusableModelError(
            f"{where} has no model.safetensors: save the model with save_pretrained(FOLDER, max_shard_size='100GB'), in one file."
        )
    found, sha256 = read(str(path))
    settings = _configured(kind, config, where)
    _check_size(kind, settings, found, where)
    with _quiet():
        try:
            model, told = kind.from_pretrained(
                None,
                config=settings,
                state_dict=dict(found),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )
        except Exception as error:  # the library raises many types
            raise UnusableModelError(f"{where} cannot be read as {kind.__name__} ({_brief(error)}): save it again.") from error
    for key, what in (("missing_keys", "lack"), ("mismatched_keys", "have in another shape"), ("unexpected_keys", "have beside")):
        if names := sorted(name if isinstance(name, str) else str(name[0]) for name in told[key]):
            listed = ", ".join(shown(name) for name in names[:4]) + (", ..." if len(names) > 4 else "")
            raise UnusableModelError(f"{where} does not fit {kind.__name__}: its weights {what} {listed}; save it again.")
    return model, sha256


def _check_size(kind: Any, settings: Any, found: Tensors, where: str) -> None:
    """Refuse a configuration of more numbers than there are weights before memory is taken for them."""
    with _quiet(), torch.device("meta"):
        wanted = sum(parameter.numel() for parameter in _built(kind, settings, where).parameters())
    there = sum(tensor.numel() for tensor in found.values())
    if wanted > there:
        raise UnusableModelError(f"{where} describes a network of {wanted} numbers, but its weights are {there}: save it again.")


def _built(kind: Any, settings: Any, where: str) -> Any:
    try:
        return kind(settings)
    except Exception as error:  # any field of the configuration may be senseless
        raise UnusableModelError(f"{where} describes no network that can be built ({_brief(error)}): save it again.") from error


def _brief(error: Exception) -> str:
    first = str(error).strip().splitlines()[:1]
    return f"{type(error).__name__}: {shown(first[0], 120)}" if first else type(error).__name__


def _input_shape(settings: Any) -> tuple[int, ...] | None:
    side, channels = getattr(settings, "image_size", None), getattr(settings, "num_channels", 3)
    if isinstance(side, int):
        return channels, side, side
    return (channels, *side) if isinstance(side, list | tuple) and len(side) == 2 else None


def _preprocess(folder: Path, kind: str, where: str) -> Preprocess:
    """Read ``preprocessor_config.json``; without one, bytes are only divided by 255."""
    given, _ = _json(folder / "preprocessor_config.json")
    if given is None:
        return Preprocess()
    try:
        if other := [key for key in _OTHER_STEPS if given.get(key)]:
            raise UsageError(f"{other[0]} is not known here")
        named = given.get("image_processor_type") or given.get("feature_extractor_type") or kind
        family = next((family for family in _PROCESSORS if str(named).startswith(family)), None)
        if family is None:
            raise UsageError(f"{named} is not known here")
        return from_fields(_fields(given, family))
    except (UsageError, TypeError, KeyError, ValueError, ZeroDivisionError) as error:
        raise UnusableModelError(
            f"{where} has a preprocessor_config.json that cannot be read ({shown(str(error), 150)}): give --preprocess FILE."
        ) from None


def _fields(given: Mapping[str, Any], family: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"scale": 1 / given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 1.0}
    if given.get("do_resize"):
        fields |= _resized(given["size"], family)
        fields["interpolation"] = interpolation_name(given.get("resample", _PROCESSORS[family]))
    if given.get("do_center_crop"):
        fields["crop"] = _resized(given["crop_size"], _SQUARE[0])["resize"]
    if given.get("do_normalize"):
        fields |= {"mean": given["image_mean"], "std": given["image_std"]}
    return fields


def _resized(size: Any, family: str) -> dict[str, Any]:
    if isinstance(size, int) and family in _SQUARE:
        return {"resize": size}
    if isinstance(size, dict) and size.keys() == {"shortest_edge"}:
        return {"resize_shorter": size["shortest_edge"]}
    if isinstance(size, dict) and size.keys() == {"height", "width"}:
        return {"resize": [size["height"], size["width"]]}
    raise UsageError("the size is not known here")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library from the network and from talking: what it would say is told in the errors here."""
    import huggingface_hub
    import transformers

    constants, talk = huggingface_hub.constants, transformers.utils.logging
    offline, level, bars = constants.HF_HUB_OFFLINE, talk.get_verbosity(), talk.is_progress_bar_enabled()
    constants.HF_HUB_OFFLINE = True
    talk.set_verbosity(logging.CRITICAL)
    talk.disable_progress_bar()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        talk.set_verbosity(level)
        if bars:
            talk.enable_progress_bar()
