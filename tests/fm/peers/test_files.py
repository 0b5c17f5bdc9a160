import argparse
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fm.errors import CheckpointError, SettingsError, UserError
from fm.models import UNet
from fm.peers import architecture, classes, found_in, read

FILE = Path("some.pt")
NETS = {
    "plain": {"channels": 32, "multiples": [1, 2], "blocks": 1, "attention_resolutions": [8]},
    "three levels": {"channels": 32, "multiples": [2, 2, 2], "blocks": 2, "attention_resolutions": [16, 4]},
    "one level": {"channels": 64, "multiples": [1], "blocks": 3, "attention_resolutions": []},
}


def state(classes: int | None = None, out_channels: int = 3, **settings) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        net = UNet(16, **(NETS["plain"] | settings), head_channels=32, classes=classes, out_channels=out_channels)
    return {name: torch.zeros_like(value, device="cpu") for name, value in net.state_dict().items()}


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize(("updown_blocks", "resample_conv"), [(True, True), (False, True), (False, False)])
def test_the_architecture_is_told_by_names_and_shapes(
    net: dict, scale_shift: bool, updown_blocks: bool, resample_conv: bool
) -> None:
    resized = {"updown_blocks": updown_blocks, "resample_conv": resample_conv}
    if len(net["multiples"]) == 1:  # nothing is resized
        resized = {"updown_blocks": True, "resample_conv": True}
    settings = net | {"scale_shift": scale_shift} | resized
    weights = state(classes=5, **settings)
    assert architecture(weights, 16, FILE) == settings
    assert classes(weights) == 5 and classes(state()) == 0


def test_each_layout_is_told_and_its_average_taken() -> None:
    raw, average = state(), {name: value + 1 for name, value in state().items()}
    args = argparse.Namespace(dataset="cifar10", batch_size=64, discrete_flow_matching=False)
    wrapped = {f"model.{n}": v for n, v in raw.items()} | {"num_updates": torch.tensor(3)}
    wrapped |= {f"shadow_params.{i}": value for i, value in enumerate(average.values())}
    torchcfm = {"net_model": raw, "ema_model": {f"module.{n}": v for n, v in average.items()}, "step": 400_000}
    found = found_in(torchcfm, FILE)
    assert (found.peer, found.key, found.told) == ("torchcfm", "ema_model", {"step": 400_000})
    assert (found.known.size, found.known.schedule, found.known.head_channels) == (32, "ot", 64)
    assert found_in(torchcfm, Path("si_cifar10_weights_step_20000.pt")).known.schedule == "trigonometric"
    flow_matching = found_in({"model": wrapped, "args": args, "epoch": 899, "optimizer": {}}, FILE)
    assert (flow_matching.peer, flow_matching.key) == ("flow_matching", "model: shadow_params")
    known = flow_matching.known
    assert (known.size, known.heads, known.head_channels, known.new_attention_order) == (32, 1, None, True)
    args.dataset = "imagenet"
    known = found_in({"model": wrapped, "args": args}, FILE).known
    assert (known.size, known.heads, known.head_channels, known.new_attention_order) == (None, None, 64, True)
    assert flow_matching.told == {"epoch": 899, "dataset": "cifar10", "batch_size": 64}
    for weights in (found.weights, flow_matching.weights):
        assert list(weights) == list(raw) and all((value == 1).all() for value in weights.values())
    for content in (torchcfm, {"model": wrapped}, {"model": raw}):
        weights = found_in(content, FILE, weights="model").weights
        assert list(weights) == list(raw) and not any(value.any() for value in weights.values())


def test_plain_weights_are_known_by_their_file_or_by_the_variance_they_learn() -> None:
    published = found_in(state(), Path("64x64_diffusion.pt"))
    known = published.known
    assert (published.peer, known.schedule, known.new_attention_order) == ("guided-diffusion", "cosine", True)
    known = found_in(state(), Path("128x128_diffusion.pt")).known
    assert (known.size, known.schedule, known.heads, known.head_channels) == (128, "linear", 4, None)
    assert not known.new_attention_order
    assert found_in(state(out_channels=6), FILE).peer == "guided-diffusion"
    assert found_in(state(), FILE, peer="torchcfm").known.schedule == "ot"
    assert found_in(state(), FILE).peer == ""
    content = {"net_model": state(), "ema_model": state()}
    with pytest.raises(SettingsError, match=r"--peer: .* is of torchcfm's layout, not flow_matching's; leave it out"):
        found_in(content, FILE, peer="flow_matching")


def test_the_row_of_no_label_is_left_out_where_it_is_zero() -> None:
    weights = state(classes=5)
    assert len(found_in({"model": weights}, FILE, weights="model").weights["label_emb.weight"]) == 4
    weights["label_emb.weight"][-1] = 1
    with pytest.raises(CheckpointError, match="no label is not zero"):
        found_in({"model": weights}, FILE, weights="model")


def test_weights_that_guided_diffusion_did_not_average_are_taken_only_if_asked_for() -> None:
    raw = Path("model250000.pt")
    with pytest.raises(CheckpointError, match=r"that are not averaged; take ema_\*\.pt beside it, or --weights model"):
        found_in(state(), raw, peer="guided-diffusion")
    assert found_in(state(), raw, peer="guided-diffusion", weights="model").weights.keys() == state().keys()
    assert found_in(state(), Path("ema_0.9999_250000.pt"), peer="guided-diffusion").peer == "guided-diffusion"


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "evil.pt"
    if how == "torch":
        torch.save({"ema_model": Evil()}, file)
    else:
        file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(
        CheckpointError, match=r"evil\.pt: is not a checkpoint to import \(it holds .*; nothing in it was executed\)"
    ):
        read(file)
    assert list(tmp_path.iterdir()) == [file]


def test_options_of_a_training_are_names_and_values(tmp_path: Path) -> None:
    """flow_matching's start through submitit leaves a path among them."""
    args = argparse.Namespace(dataset="cifar10", job_dir=tmp_path / "%j", ode_options={"step_size": 0.01})
    torch.save({"model": state(), "args": args}, tmp_path / "checkpoint.pth")
    found = read(tmp_path / "checkpoint.pth")["args"]
    assert found.ode_options == {"step_size": 0.01} and str(found.job_dir) == str(tmp_path / "%j")
    assert not hasattr(found.job_dir, "unlink")  # a name, with no way to the file


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.pt", b"hello", "it is broken"),
        ("b.safetensors", b"hello", "it is broken"),
        ("c.pt", b"", "it is empty"),
        ("d.pt", b"\n<!DOCTYPE html><title>Sign in</title>", "it is a web page: download the file itself"),
        ("e.safetensors", b"<html>", "it is a web page"),
        ("f.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "it is a pointer of Git LFS"),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(f"{name}: is not a checkpoint to import ({reason}")):
        read(tmp_path / name)


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_a_file_that_ends_early_is_broken(tmp_path: Path, save: Callable[..., None]) -> None:
    file = tmp_path / ("net.pt" if save is torch.save else "net.safetensors")
    save(state(), file)
    assert read(file).keys() == state().keys()
    whole = file.read_bytes()
    for share in (0.01, 0.5, 0.999):
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(CheckpointError, match="it is broken"):
            read(file)


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pt: no such file"):
        read(tmp_path / "none.pt")
    with pytest.raises(UserError, match="is a folder; name a file"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "is of no layout known; save"),
        ({"state_dict": {}, "epoch": 3}, r"is of no layout known \(it holds state_dict, epoch\)"),
        ({"net_model": {}, "step": 3}, r"holds no average of the weights \(keys: net_model, step\); --weights model"),
        ({"model": {"a": torch.ones(1)}, "epoch": 3}, r"no average of the weights \(keys: model, epoch\)"),
    ],
)
def test_a_layout_that_is_not_known_is_said(content: object, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        found_in(content, FILE)
    with pytest.raises(SettingsError, match="--weights: unknown weights 'emma'; did you mean 'ema'"):
        found_in(content, FILE, weights="emma")


def test_networks_that_ours_cannot_be_are_said() -> None:
    weights = state()
    for name in ("time_embed.0.weight", "input_blocks.0.0.weight", "input_blocks.1.0.emb_layers.1.weight"):
        for odd in (torch.zeros(()), torch.zeros(0)):
            with pytest.raises(CheckpointError, match=rf"is not ADM's U-Net: {name} is \[0?\]"):
                architecture(weights | {name: odd}, 16, FILE)
    with pytest.raises(CheckpointError, match="takes 4 channels, not pictures of 3"):
        architecture(weights | {"input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3)}, 16, FILE)
    with pytest.raises(CheckpointError, match="a level of 16 channels is no multiple of 32"):
        architecture(weights | {"input_blocks.1.0.out_layers.3.weight": torch.zeros(16, 16, 3, 3)}, 16, FILE)
    with pytest.raises(CheckpointError, match=r"is not ADM's U-Net: no time_embed\.0\.weight \(it holds a, \.\.\.\)"):
        architecture({"a": torch.ones(1)}, 16, FILE)
