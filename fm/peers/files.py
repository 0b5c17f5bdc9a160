"""Peers' checkpoint files: whose it is, the weights by ADM's names, and what their names and shapes tell.

Nothing in a file is executed. What the weights cannot tell (image size, heads, noise schedule) is known of published
files, or has to be said by who imports them.
"""

import argparse
import pathlib
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fm.errors import CheckpointError, SettingsError, member
from fm.files import check_file

PREFIXES = ("module.", "_orig_mod.")  # what wrappers of the network put before every name
# Values of options, let in beside weights: a Namespace is names and values, a pure path a name without a file system.
PLAIN: list[Any] = [
    argparse.Namespace,
    (pathlib.PurePosixPath, "pathlib.PosixPath"),
    (pathlib.PurePosixPath, "pathlib._local.PosixPath"),  # as Python 3.13 names it
]
NO_FILES = {  # how what was downloaded in place of a checkpoint begins
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<?xml": "a web page",
    b"version https://git-lfs": "a pointer of Git LFS",
}


@dataclass(frozen=True)
class Known:
    """What the weights do not tell, None where nobody did: pixels a side, what the network was trained on, its heads
    (so many at every level, or of so many channels), whether q, k and v come before the heads; and whence it is known.
    """

    size: int | None = None
    schedule: str | None = None
    heads: int | None = None
    head_channels: int | None = None
    new_attention_order: bool = False
    whence: str = "its defaults"


PEERS = {
    "guided-diffusion": Known(),
    "torchcfm": Known(schedule="ot"),
    "flow_matching": Known(schedule="ot", new_attention_order=True),
}
SCHEDULES = {
    "guided-diffusion": ("linear", "cosine"),
    "torchcfm": ("ot", "trigonometric"),
    "flow_matching": ("ot",),
}
# flow_matching's networks by the data set in its options.
FLOW_MATCHING = {
    "cifar10": Known(32, "ot", heads=1, new_attention_order=True, whence="its network for cifar10"),
    "imagenet": Known(None, "ot", head_channels=64, new_attention_order=True, whence="its network for imagenet"),
}


@dataclass(frozen=True)
class Found:
    """A peer's file: whose it is, the weights by ADM's names, under which key, what is known, what the file says."""

    peer: str
    key: str
    weights: dict[str, Tensor]
    known: Known = Known()
    told: dict[str, Any] = field(default_factory=dict)


_NAMED = "the flags published with a file of this name"
_WIDE = Known(256, "linear", head_channels=64, whence=_NAMED)
# guided-diffusion's published networks, by file name: the flags that its README gives for each.
PUBLISHED = {
    "64x64_diffusion": Known(64, "cosine", head_channels=64, new_attention_order=True, whence=_NAMED),
    "128x128_diffusion": Known(128, "linear", heads=4, whence=_NAMED),
    "512x512_diffusion": replace(_WIDE, size=512),
    "256x256_diffusion": _WIDE,
    "256x256_diffusion_uncond": _WIDE,
    "lsun_bedroom": _WIDE,
    "lsun_cat": _WIDE,
    "lsun_horse": _WIDE,
    "lsun_horse_nodropout": _WIDE,
}


def read(file: Path) -> Any:
    """The content of a safetensors file or of a torch checkpoint: tensors, numbers, words and containers alone.

    Of classes only those are let in, in which flow_matching keeps its options: names and values.

    Raises: UserError if there is no file; CheckpointError if it is neither, or holds what would be executed.
    """
    check_file(file)
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals(PLAIN), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken file makes of a reader
        raise CheckpointError(f"is not a checkpoint to import ({_reason(error, file)})", str(file)) from None


def _reason(error: Exception, file: Path) -> str:
    with file.open("rb") as opened:
        start = opened.read(100).lstrip().lower()
    if found := [what for begin, what in NO_FILES.items() if start.startswith(begin)]:
        return f"it is {found[0]}: download the file itself"
    if not start:
        return "it is empty: download it again"
    if not isinstance(error, pickle.UnpicklingError):
        return "it is broken, or neither torch's nor safetensors"
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))  # what its pickle would have called
    what = f"{asked[1]}, which would be executed" if asked else "more than weights"
    return f"it holds {what}; nothing in it was executed"


def found_in(content: Any, file: Path, peer: str | None = None, weights: str = "ema") -> Found:
    """Whose checkpoint it is, by its layout, and the chosen weights in it; of plain weights nobody's if `peer` is none.

    Raises: CheckpointError if it is of no layout known, or lacks these weights; SettingsError if it is not the peer's.
    """
    member(weights, {"ema": 0, "model": 0}, "weights", where="--weights")
    if peer:
        member(peer, dict.fromkeys(PEERS), "peer", where="--peer")
    content = content if isinstance(content, Mapping) else {}
    if {"ema_model", "net_model"} & content.keys():
        found = _torchcfm(content, file, weights)
    elif isinstance(content.get("model"), Mapping):
        found = _flow_matching(content, file, weights)
    else:
        found = Found("", "the file itself", _named(content))
    if not found.weights or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.weights.items()
    ):
        shown = f" (it holds {', '.join(map(str, list(content)[:5]))})" if content else ""
        raise CheckpointError(f"is of no layout known{shown}", str(file), "save the network's state_dict")
    if found.peer and peer not in (None, found.peer):
        raise SettingsError(f"{file} is of {found.peer}'s layout, not {peer}'s", "--peer", "leave it out")
    return found if found.peer else _plain(found.weights, file, peer, weights)


def _torchcfm(content: Mapping[str, Any], file: Path, weights: str) -> Found:
    """{"net_model", "ema_model", "sched", "optim", "step"} of its CIFAR-10 example, whose heads have 64 channels.

    It calls its files by what it trains: icfm, fm and otcfm on straight lines, si on quarter circles.
    """
    key = "ema_model" if weights == "ema" else "net_model"
    if key not in content:
        raise _no_average(file, content) if weights == "ema" else CheckpointError("holds no net_model", str(file))
    told = {"step": content["step"]} if "step" in content else {}
    schedule = "trigonometric" if file.name.startswith("si_") else "ot"
    known = Known(32, schedule, head_channels=64, whence="its CIFAR-10 example")
    return Found("torchcfm", key, _named(content[key]), known, told)


def _flow_matching(content: Mapping[str, Any], file: Path, weights: str) -> Found:
    """{"model", "optimizer", "epoch", "args"} of its image example; the average is a list in the network's order."""
    state = content["model"]
    inner = {str(name).removeprefix("model."): value for name, value in state.items() if str(name).startswith("model.")}
    key, chosen = "model", inner or state
    if weights == "ema":
        shadows = [value for name, value in state.items() if str(name).startswith("shadow_params.")]
        if len(shadows) != len(inner) or not shadows:
            raise _no_average(file, content)
        key, chosen = "model: shadow_params", dict(zip(inner, shadows, strict=True))
    args = vars(content["args"]) if isinstance(content.get("args"), argparse.Namespace) else {}
    if args.get("discrete_flow_matching"):
        raise CheckpointError("is of discrete flow matching, which is another kind of model", str(file))
    told = {"epoch": content["epoch"]} if "epoch" in content else {}
    told |= {name: args[name] for name in ("dataset", "batch_size", "class_drop_prob") if name in args}
    known = FLOW_MATCHING.get(str(args.get("dataset")), PEERS["flow_matching"])
    return Found("flow_matching", key, _without_padding(_named(chosen), file), known, told)


def _plain(state: dict[str, Tensor], file: Path, peer: str | None, weights: str) -> Found:
    """A state dict by itself: the names are the same for all three, so whose it is has to be told."""
    published = PUBLISHED.get(file.stem)
    peer = peer or ("guided-diffusion" if published or learns_variance(state) else "")
    if peer == "guided-diffusion" and weights == "ema" and re.fullmatch(r"model\d{6}", file.stem):
        mend = "take ema_*.pt beside it, or --weights model for these"
        raise CheckpointError("is named as guided-diffusion names weights that are not averaged", str(file), mend)
    if peer == "flow_matching":
        state = _without_padding(state, file)
    return Found(peer, "the file itself", state, published or PEERS.get(peer, Known()))


def _named(state: Any) -> dict[str, Any]:
    """The weights without what a wrapper of the network put before every name; none of what are none."""
    if not isinstance(state, Mapping):
        return {}
    for prefix in PREFIXES:
        if all(str(name).startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def _no_average(file: Path, content: Mapping[str, Any]) -> CheckpointError:
    shown = ", ".join(map(str, list(content)[:6]))
    return CheckpointError(
        f"holds no average of the weights (keys: {shown})", str(file), "--weights model takes them raw"
    )


def _without_padding(state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """flow_matching keeps a row of zeros after the classes for "no label", which is -1 here and needs no row."""
    labels = state.get("label_emb.weight")
    if labels is None or not labels.ndim:
        return state
    if bool(labels[-1].any()):
        raise CheckpointError("its embedding of no label is not zero, as flow_matching's is", str(file))
    return state | {"label_emb.weight": labels[:-1]}


def architecture(weights: Mapping[str, Tensor], size: int, file: Path) -> dict[str, Any]:
    """The network's settings as the names and shapes tell them, for images of `size` pixels a side.

    Raises: CheckpointError if they are not those of ADM's U-Net, or of one that ours cannot be.
    """

    def size_of(name: str, axis: int = 0) -> int:
        if name not in weights:
            shown = ", ".join(list(weights)[:3])
            raise CheckpointError(f"is not ADM's U-Net: no {name} (it holds {shown}, ...)", str(file))
        if not weights[name].numel() or weights[name].ndim <= axis:
            raise CheckpointError(f"is not ADM's U-Net: {name} is {list(weights[name].shape)}", str(file))
        return weights[name].shape[axis]

    channels, stages = size_of("time_embed.0.weight", 1), _count(weights, "output_blocks")
    bare = [i for i in range(_count(weights, "input_blocks")) if not _any(weights, f"input_blocks.{i}.")]
    ups = [i for i in range(stages) if _is_up(weights, i)]
    blocks = bare[0] - 1 if bare else ups[0] if ups else stages - 1
    levels = len(bare or ups) + 1
    firsts = [f"input_blocks.{1 + level * (blocks + 1)}" for level in range(levels)]  # of each level
    widths = [size_of(f"{first}.0.out_layers.3.weight") for first in firsts]
    if odd := [width for width in widths if width % channels]:
        raise CheckpointError(f"a level of {odd[0]} channels is no multiple of {channels}", str(file))
    if (taken := size_of("input_blocks.0.0.weight", 1)) != 3:
        raise CheckpointError(f"takes {taken} channels, not pictures of 3", str(file))
    embedded = size_of(f"{firsts[0]}.0.emb_layers.1.weight")
    return {
        "channels": channels,
        "multiples": [width // channels for width in widths],
        "blocks": blocks,
        "attention_resolutions": [
            size >> level for level, first in enumerate(firsts) if f"{first}.1.qkv.weight" in weights
        ],
        "scale_shift": embedded == 2 * widths[0],
        "updown_blocks": not bare and not _any(weights, "input_blocks.", ".0.op.weight"),
        "resample_conv": not bare,
    }


def _count(weights: Mapping[str, Tensor], blocks: str) -> int:
    return 1 + max((int(name.split(".")[1]) for name in weights if name.startswith(f"{blocks}.")), default=-1)


def _any(weights: Mapping[str, Tensor], start: str, end: str = "") -> bool:
    return any(name.startswith(start) and name.endswith(end) for name in weights)


def _is_up(weights: Mapping[str, Tensor], stage: int) -> bool:
    """Whether a stage of the way up doubles the size: by a second residual block, or a convolution after it."""
    after = [f"output_blocks.{stage}.{i}" for i in (1, 2)]
    return any(f"{module}.in_layers.2.weight" in weights or f"{module}.conv.weight" in weights for module in after)


def learns_variance(weights: Mapping[str, Tensor]) -> bool:
    """Whether three channels of its output are a variance, which guided-diffusion's networks alone learn."""
    return "out.2.weight" in weights and weights["out.2.weight"].shape[:1] == (6,)


def classes(weights: Mapping[str, Tensor]) -> int:
    """Classes of the network, 0 if it takes no labels."""
    return sum(weights["label_emb.weight"].shape[:1]) if "label_emb.weight" in weights else 0
