import argparse
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fm.errors import CheckpointError, SettingsError
from fm.models import UNet
from fm.models.blocks import AttentionBlock
from fm.peers import architecture, classes, found_in, heads_first, read

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
@pytest.mark.parametrize("updown_blocks", [True, False])
def test_the_architecture_is_told_by_names_and_shapes(net: dict, scale_shift: bool, updown_blocks: bool) -> None:
    settings = net | {"scale_shift": scale_shift, "updown_blocks": updown_blocks or len(net["multiples"]) == 1}
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
    flow_matching = found_in({"model": wrapped, "args": args, "epoch": 899, "optimizer": {}}, FILE)
    assert (flow_matching.peer, flow_matching.key) == ("flow_matching", "model: shadow_params")
    assert flow_matching.told == {"epoch": 899, "dataset": "cifar10", "batch_size": 64}
    for weights in (found.weights, flow_matching.weights):
        assert list(weights) == list(raw) and all((value == 1).all() for value in weights.values())
    for content in (torchcfm, {"model": wrapped}, {"model": raw}):
        weights = found_in(content, FILE, weights="model").weights
        assert list(weights) == list(raw) and not any(value.any() for value in weights.values())


def test_plain_weights_are_known_by_their_file_or_by_the_variance_they_learn() -> None:
    published = found_in(state(), Path("64x64_diffusion.pt"))
    assert (published.peer, published.known.schedule, published.known.qkv_first) == ("guided-diffusion", "cosine", True)
    assert found_in(state(out_channels=6), FILE).peer == "guided-diffusion"
    assert found_in(state(), FILE, peer="torchcfm").known.schedule == "ot"
    with pytest.raises(SettingsError, match="--peer: is not told by plain weights; give --peer guided-diffusion or"):
        found_in(state(), FILE)


def test_the_row_of_no_label_is_left_out_where_it_is_zero() -> None:
    weights = state(classes=5)
    assert len(found_in({"model": weights}, FILE, weights="model").weights["label_emb.weight"]) == 4
    weights["label_emb.weight"][-1] = 1
    with pytest.raises(CheckpointError, match="no label is not zero"):
        found_in({"model": weights}, FILE, weights="model")


def test_heads_first_leaves_the_attention_what_it_is() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(64, heads=4).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 64, 4, 4, dtype=torch.float64)
    qkv = torch.nn.functional.conv1d(block.norm(x).flatten(2), block.qkv.weight, block.qkv.bias)
    q, k, v = (part.reshape(2 * 4, 16, 16) for part in qkv.chunk(3, dim=1))  # q, k, v first, heads inside each
    h = torch.einsum("bts,bcs->bct", torch.softmax(torch.einsum("bct,bcs->bts", q, k) / 4, dim=-1), v)
    expected = x + torch.nn.functional.conv1d(h.reshape(2, 64, 16), block.proj_out.weight, block.proj_out.bias).view_as(
        x
    )
    for parameter in (block.qkv.weight, block.qkv.bias):
        parameter.data = heads_first(parameter.data, 16)
    torch.testing.assert_close(block(x, torch.empty(0)), expected)


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
    with pytest.raises(CheckpointError, match=r"evil\.pt: is not a checkpoint to import \(it holds .*; nothing was\)"):
        read(file)
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    for name, content in (("a.pt", b"hello"), ("b.safetensors", b"hello"), ("c.pt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=re.escape(f"{name}: is not a checkpoint to import (it is broken")):
            read(tmp_path / name)
    with pytest.raises(CheckpointError, match="no such file"):
        read(tmp_path / "none.pt")
    save_file(state(), tmp_path / "good.safetensors")
    assert read(tmp_path / "good.safetensors").keys() == state().keys()


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
    weights = state(updown_blocks=False)
    without = {name: value for name, value in weights.items() if not name.startswith("input_blocks.2.")}
    with pytest.raises(CheckpointError, match=r"input_blocks\.2 has no weights: it resizes without convolutions"):
        architecture(without, 16, FILE)
    with pytest.raises(CheckpointError, match=r"is not ADM's U-Net: no time_embed\.0\.weight \(it holds a, \.\.\.\)"):
        architecture({"a": torch.ones(1)}, 16, FILE)
