"""Small random networks in each peer's layout -> RUNs that answer as they do, and can be drawn from and scored."""

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import fm
from fm.cells import Cell, Evaluation
from fm.checkpoints import load_weights
from fm.errors import CheckpointError, SettingsError, UserError
from fm.evaluation import evaluate
from fm.facts import on_data
from fm.files import read_json
from fm.importing import import_run
from fm.metrics import load_features
from fm.models import UNet
from fm.peers.asking import decay
from fm.recipe import Recipe
from fm.reference import measure_reference

SMALL = {"channels": 32, "multiples": (1, 2), "blocks": 1, "attention_resolutions": (8,), "head_channels": 32}
HEADS = ["model.head_channels=32"]


def network(seed: int = 0, **settings: Any) -> UNet:
    torch.manual_seed(seed)
    net = UNet(16, **SMALL, time_scale=1.0, **settings).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return net


def torchcfm(net: UNet, file: Path) -> Path:
    average = {f"module.{name}": value for name, value in net.state_dict().items()}
    raw = {name: value + 1 for name, value in net.state_dict().items()}
    torch.save({"net_model": raw, "ema_model": average, "sched": {}, "optim": {}, "step": 400_000}, file)
    return file


def flow_matching(net: UNet, file: Path) -> Path:
    """With its row for "no label" after the classes, and the average as a list."""
    average = net.state_dict()
    if "label_emb.weight" in average:
        average["label_emb.weight"] = torch.cat([average["label_emb.weight"], torch.zeros(1, 4 * 32)])
    state = {f"model.{name}": value + 1 for name, value in average.items()} | {"num_updates": torch.tensor(3)}
    state |= {f"shadow_params.{i}": value for i, value in enumerate(average.values())}
    torch.save({"model": state, "epoch": 899, "args": argparse.Namespace(dataset="imagenet", batch_size=32)}, file)
    return file


def ask(flow: fm.flow.Flow, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        return flow.velocity(x, t, y)


X, T = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([0.1, 0.5, 0.9])
C = 256 / 255


def test_torchcfm_answers_as_its_network_at_the_peers_time_and_scale(tmp_path: Path) -> None:
    net, run = network(scale_shift=False, updown_blocks=False), tmp_path / "run"
    facts = import_run(torchcfm(net, tmp_path / "otcfm.pt"), run, size=16, changes=HEADS, images_seen=51_200_000)
    assert (facts["peer"], facts["weights"], facts["step"]) == ("torchcfm", "ema_model", 400_000)
    assert facts["time scale"] == "1 before the sinusoids"
    assert "k/127.5 - 1" in facts["pixels"] and facts["images_seen"] == 51_200_000
    flow = fm.load(run)
    t = T.view(-1, 1, 1, 1)
    total = t + C * (1 - t)
    with torch.no_grad():
        expected = (net(C * X / total, T / total.view(-1)) - (C - 1) * X) / total  # worked out by hand for this path
    torch.testing.assert_close(ask(flow, X, T), expected, rtol=0, atol=1e-5)
    assert flow.method == "FM w/ OT" and flow.lineage["peer"] == "torchcfm"
    assert flow.lineage["images_seen"] == 51_200_000 and flow.lineage["weights"] == load_weights(run)[1]["weights"]
    assert flow.sample(2, nfe=4).shape == (2, 3, 16, 16)
    assert Recipe.load(run).training.total_images == 51_200_000


def test_flow_matching_keeps_its_classes_and_its_no_label(tmp_path: Path) -> None:
    net, run = network(classes=4), tmp_path / "run"
    file = flow_matching(net, tmp_path / "checkpoint-899.pth")
    facts = import_run(file, run, size=16, changes=HEADS, new_attention_order=False)
    assert (facts["weights"], facts["classes"], facts["images_seen"]) == ("model: shadow_params", 4, "not told")
    flow, zero = fm.load(run), torch.zeros(3)
    assert flow.classes == ("0", "1", "2", "3")
    with torch.no_grad():
        for y in (torch.tensor([0, 3, 1]), torch.tensor([-1, 2, -1]), None):
            expected = (net(X, zero, y) - (C - 1) * X) / C  # at t = 0
            torch.testing.assert_close(ask(flow, X, zero, y), expected, rtol=0, atol=1e-5)


def test_what_was_assumed_is_said_and_can_be_told(tmp_path: Path) -> None:
    file = torchcfm(network(updown_blocks=False, heads=2), tmp_path / "icfm.pt")
    facts = import_run(file, tmp_path / "a", size=16, heads=2)
    assert facts["assumed"] == "schedule ot, heads before q, k, v: by its CIFAR-10 example"
    assert facts["told by you"] == "size 16, heads 2"
    assert facts["attention"] == "2 heads; heads before q, k, v"
    told = {"size": 16, "schedule": "ot", "new_attention_order": True, "changes": [*HEADS, "evaluation.samples=30"]}
    facts = import_run(file, tmp_path / "b", **told)  # type: ignore[arg-type]
    assert "assumed" not in facts and facts["attention"] == "heads of 32 channels; q, k, v before heads"
    assert facts["told by you"] == "size 16, schedule ot, new_attention_order True, model.head_channels=32"
    models = [Recipe.load(tmp_path / run).model for run in "ab"]
    assert [(m.heads, m.new_attention_order) for m in models] == [(2, False), (None, True)]  # type: ignore[union-attr]
    assert import_run(file, tmp_path / "c", size=16, preset="tiny", changes=HEADS)["assumed"].startswith(
        "schedule ot, heads before"
    )


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_guided_diffusion_answers_with_its_noise_at_its_step(tmp_path: Path, schedule: str) -> None:
    net, run = network(classes=4, out_channels=6), tmp_path / "run"
    torch.save(net.state_dict(), tmp_path / "ema_0.9999.pt")
    facts = import_run(tmp_path / "ema_0.9999.pt", run, size=16, schedule=schedule, changes=HEADS)
    assert facts["left out"] == "the learned variance, 3 of its 6 channels"
    flow, step, y = fm.load(run), torch.tensor([2, 400, 700]), torch.tensor([0, 3, 1])
    decayed = decay(schedule)[step]
    theirs = torch.sqrt(-torch.expm1(-decayed))
    # Our time of the same noise-to-signal ratio, beta(r) r in closed form.
    ours = torch.log1p(torch.expm1(decayed) / C**2)
    t = 1 - (torch.sqrt(0.1**2 + 4 * 9.95 * ours) - 0.1) / (2 * 9.95)
    x_there = X.double() * (theirs / torch.sqrt(-torch.expm1(-ours))).view(-1, 1, 1, 1)
    with torch.no_grad():
        noise = net.double()(x_there, step.double(), y)[:, :3]
        found = flow.model.double()(X.double(), t, y)
    torch.testing.assert_close(found, noise, rtol=0, atol=1e-5)
    assert flow.method == "DDPM" and flow.path.kind == "vp"
    assert fm.load(run).sample(2, nfe=4, y=torch.tensor(1)).dtype == torch.uint8


class Pictures:
    """Of chance, as a data set of two splits."""

    digest = "data set"
    labels = np.zeros(20, int)

    def __len__(self) -> int:
        return 20

    def gather(self, indices: Any) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)[np.asarray(indices)]


def test_a_run_so_made_is_scored_on_any_data_that_fit_and_trained_on_none(tmp_path: Path) -> None:
    run = tmp_path / "run"
    import_run(torchcfm(network(updown_blocks=False), tmp_path / "net.pt"), run, size=16, changes=HEADS)
    manifest = SimpleNamespace(digest="data set", source="x", splits={}, shape=(3, 16, 16), classes=("a", "b"))
    on_data(run, tmp_path, manifest)  # type: ignore[arg-type]
    assert read_json(run / "data.json")["imported"]["file"] == "net.pt"
    grid = [{"solver": "midpoint", "nfe": 4}]
    values = Recipe.load(run).evaluation.model_dump() | {"grid": grid, "features": "random_conv", "samples": 20}
    features = load_features("random_conv")
    reference = measure_reference(Pictures(), Pictures(), features, Evaluation(**values))
    row = evaluate(fm.load(run), Cell(solver="midpoint", nfe=4, samples=20, nll_images=2), features, reference)
    assert row["peer"] == "torchcfm" and row["fd_random_conv"] > 0 and row["nll_k"] == 1
    with pytest.raises(SettingsError, match=r"run: is an imported network without an optimiser; train in"):
        on_data(run, tmp_path, manifest, order="full 1")  # type: ignore[arg-type]
    manifest.shape = (3, 32, 32)
    with pytest.raises(SettingsError, match="is of 3x16x16, 0 classes, the data of 3x32x32, 2 classes"):
        on_data(run, tmp_path, manifest)  # type: ignore[arg-type]


def test_what_is_missing_or_does_not_fit_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    net, run = network(updown_blocks=False).state_dict(), tmp_path / "run"
    file, odd, other = tmp_path / "net.pt", tmp_path / "odd.pt", tmp_path / "other.pt"
    torch.save({"fc.weight": torch.zeros(2, 2)}, other)
    torch.save(net, file)
    torch.save(net | {"out.0.bias": torch.zeros(7), "out.2.bias": torch.zeros(5), "b": torch.zeros(1)}, odd)
    plain = {"peer": "torchcfm", "size": 16, "changes": HEADS}
    for options, kind, sentence in (
        ({"size": None}, SettingsError, r"net.pt: does not tell the side of its images; give --size PIXELS"),
        (
            {"changes": ()},
            SettingsError,
            r"net.pt: does not tell its attention heads; give --heads N .so many at every",
        ),
        (
            {"peer": None, "size": None, "changes": ()},
            SettingsError,
            r"net.pt: does not tell its peer or the side of its images or its attention heads or its schedule; "
            r"give --peer guided-diffusion.torchcfm.flow_matching, --size PIXELS, --heads N .*, "
            r"--schedule linear.cosine if it is guided-diffusion's",
        ),
        ({"changes": ["model.time_scale=30"]}, SettingsError, r"--set model.time_scale: cannot be told: .*; leave it"),
        ({"changes": ["data.size=16"]}, SettingsError, r"--set data.size: is an option of its own; give --size"),
        ({"changes": (), "heads": 3}, SettingsError, "model.heads: 3 heads do not divide a level of 64"),
        ({"schedule": "cosine"}, SettingsError, "--schedule: 'cosine' is none of torchcfm's; give ot or trigonometric"),
        ({"peer": "guided-diffusion"}, SettingsError, r"does not tell its schedule; give --schedule linear.cosine$"),
        ({"peer": "torch-cfm"}, SettingsError, "--peer: unknown peer 'torch-cfm'; did you mean 'torchcfm'"),
        ({"changes": ["model.head_channels=24"]}, SettingsError, "heads of 24 channels do not divide"),
    ):
        with pytest.raises(kind, match=sentence):
            import_run(file, run, **(plain | options))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"is not ADM's U-Net: no time_embed.0.weight"):
        import_run(other, run)
    with pytest.raises(CheckpointError) as error:
        import_run(odd, run, **plain)  # type: ignore[arg-type]
    assert (
        error.value.what
        == "is of another network (b is [1], not absent; out.0.bias is [7], not [32]; out.2.bias is [5], not [3])"
    )
    assert not run.exists()
    assert import_run(file, run, preset="tiny", **plain)["peer"] == "torchcfm"  # type: ignore[arg-type]
    with pytest.raises(UserError, match="is there already"):
        import_run(file, run, **plain)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda weights: weights["out.2.weight"].fill_(float("nan")), "out.2.weight is not finite"),
        (
            lambda weights: weights.update({"out.2.bias": torch.zeros(3, dtype=torch.int64)}),
            "out.2.bias is of torch.int64",
        ),
    ],
)
def test_weights_that_are_no_finite_numbers_are_refused(tmp_path: Path, spoil: Any, says: str) -> None:
    weights = network().state_dict()
    spoil(weights)
    torch.save({"net_model": weights, "ema_model": weights}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=says):
        import_run(tmp_path / "bad.pt", tmp_path / "run", size=16, changes=HEADS)
    assert not (tmp_path / "run").exists()


def test_names_that_are_no_words_are_of_no_layout(tmp_path: Path) -> None:
    torch.save({"net_model": {1: torch.zeros(1)}, "ema_model": {1: torch.zeros(1)}}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match="is of no layout known"):
        import_run(tmp_path / "bad.pt", tmp_path / "run", size=16)
