import hashlib
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from fm.cells import Cell, Evaluation, cell_of, cells
from fm.errors import NumericalError, SettingsError, UserError
from fm.evaluation import evaluate, failed_row, parts, row_key, row_of, sample, score
from fm.flow import NOISE, Flow
from fm.likelihood import Likelihood
from fm.metrics import DISTANCES, load_features
from fm.noise import draws
from fm.objectives import FlowMatching
from fm.paths import OTPath
from fm.reference import Reference, measure_reference

FD = "fd_random_conv"
GRID = [{"solver": "euler", "nfe": 2}, {"solver": "dopri5", "tolerance": 1e-3, "samples": 20}]


class Scaling(nn.Module):
    """The exact velocity of the OT path to N(0, spread^2), times an error."""

    def __init__(self, spread=0.3, error=1.0):
        super().__init__()
        self.spread, self.error = spread, nn.Parameter(torch.tensor(error))

    def forward(self, x, t, y=None):
        a, sigma = t.view(-1, 1, 1, 1), 1 - t.view(-1, 1, 1, 1)
        rate = (a * self.spread**2 - sigma) / (a**2 * self.spread**2 + sigma**2)
        return self.error * rate * x


class Pictures:
    """Uncorrelated pixels N(0, 0.3^2): what `Scaling` draws."""

    def __init__(self, seed, n, digest="data set"):
        self.digest = digest
        x = 0.3 * draws(seed, "pictures", torch.arange(n), (8, 8, 3))
        self.images = ((x.clamp(-0.99, 0.99) + 1) * 128).to(torch.uint8).numpy()
        self.labels = np.arange(n) % 3

    def __len__(self):
        return len(self.images)

    def gather(self, indices):
        return self.images[np.asarray(indices)]


def settings(**changes):
    values = {
        "grid": GRID,
        "samples": 40,
        "batch": 16,
        "seed": 0,
        "features": "random_conv",
        "distances": ("fd", "kid"),
    }
    return Evaluation(**(values | {"reference_images": 100, "nll_images": 20, "nll_k": 1} | changes))


def flow(error=1.0, classes=None, **lineage):
    return Flow(Scaling(error=error), FlowMatching(OTPath()), (3, 8, 8), classes, {"weights": "w", **lineage})


@pytest.fixture(scope="module")
def features():
    return load_features("random_conv")


@pytest.fixture(scope="module")
def reference(features):
    return measure_reference(Pictures(1, 60), Pictures(2, 50), features, settings())


def test_cells_are_complete():
    euler, dopri5 = cells(settings())
    assert euler == Cell(**(dopri5.model_dump() | {"solver": "euler", "nfe": 2, "tolerance": None, "samples": 40}))
    assert (euler.batch, euler.distances, euler.nll_images, euler.reference_images) == (16, ("fd", "kid"), 20, 100)
    assert (dopri5.samples, dopri5.tolerance, dopri5.nfe) == (20, 1e-3, None)
    assert (str(euler), str(dopri5)) == ("euler 2", "dopri5 0.001")
    assert json.loads(euler.model_dump_json())["batch"] == 16


@pytest.mark.parametrize(
    "budget, message",
    [
        ({"solver": "eular", "nfe": 2}, "grid.0: unknown solver 'eular'; did you mean 'euler'"),
        ({"solver": "euler", "tolerance": 1e-3}, "grid.0: euler takes an nfe and no tolerance"),
        ({"solver": "euler"}, "euler takes an nfe"),
        ({"solver": "dopri5", "nfe": 8}, "dopri5 takes a tolerance and no nfe"),
        ({"solver": "midpoint", "nfe": 7}, "midpoint makes 2 network calls a step and cannot make 7"),
    ],
)
def test_a_budget_that_does_not_fit_is_refused_before_anything_starts(budget, message):
    with pytest.raises(SettingsError, match=message):
        cells(settings(grid=[budget]))


def test_an_unknown_distance_or_network_names_the_nearest():
    with pytest.raises(SettingsError, match="distances: unknown distance 'fid'; did you mean 'fd'"):
        cells(settings(distances=("fid",)))
    with pytest.raises(SettingsError, match="did you mean 'random_conv'"):
        cells(settings(features="random"))


def test_a_row_names_the_time_grid_that_its_solver_took(features, reference):
    grids = {"midpoint": "uniform", "dpm2m": "log_snr"}
    budgets = [{"solver": solver, "nfe": 4, "samples": 20} for solver in grids]
    found = cells(settings(grid=budgets, distances=("fd",)))
    assert [evaluate(flow(), cell, features, reference)["grid"] for cell in found] == [*grids.values()]


def test_row_is_flat_json_with_value_floor_interval_and_lineage(features, reference):
    row = evaluate(flow(images_seen=512, data="data set"), cells(settings())[0], features, reference)
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert all(not isinstance(value, dict) for value in row.values())
    assert [row[k] for k in ("method", "path", "solver", "nfe", "samples", "seed")] == [
        "FM w/ OT",
        "ot",
        "euler",
        2,
        40,
        0,
    ]
    for name in (FD, "kid_random_conv"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        assert row[f"{name}_floor"] is not None
    assert (row["weights"], row["images_seen"], row["data"]) == ("w", 512, "data set")
    assert row["threads"] == torch.get_num_threads() and len(row["code"]) == 16 and row["batch"] == 16


def test_a_good_model_reaches_the_floor_and_a_bad_one_does_not(features, reference):
    cell = Cell(solver="rk4", nfe=40, samples=40, batch=16)
    good, bad, none = (evaluate(flow(error), cell, features, reference) for error in (1.0, 0.7, 0.0))
    assert good[FD] < 2 * good[f"{FD}_floor"]
    assert good[f"{FD}_high"] < bad[f"{FD}_low"] and bad[f"{FD}_high"] < none[f"{FD}_low"]
    assert good["bits_per_dim"] < bad["bits_per_dim"] < none["bits_per_dim"]


def test_a_likelihood_counts_only_if_it_has_converged(features, reference):
    entropy = 7 + 0.5 * math.log2(2 * math.pi * math.e * 0.3**2)
    few = evaluate(flow(), Cell(solver="euler", nfe=2, samples=20), features, reference)
    assert few["nll_converged"] is False and few["nll_moved_abs"] > 0.01
    assert few["bits_per_dim"] is few["bits_per_dim_stderr"] is few["bits_per_dim_k1"] is None
    assert few["nll_unconverged"] != pytest.approx(entropy, abs=0.1)
    for cell in (Cell(solver="dopri5", tolerance=1e-4, samples=20), Cell(solver="rk4", nfe=80, samples=20, nll_k=2)):
        row = evaluate(flow(), cell, features, reference)
        assert row["nll_converged"] is True and row["nll_unconverged"] is None
        assert row["bits_per_dim"] == pytest.approx(entropy, abs=0.05)
        assert row["bits_per_dim_stderr"] > 0
        assert row["bits_per_dim"] <= row["bits_per_dim_k1"]


def test_a_mean_that_stands_still_while_its_images_move_has_not_converged(features, reference):
    class Crossing(Flow):
        def bits_per_dim(self, images, k=1, *, nfe, **options):
            bpd = torch.linspace(3, 5, len(images)) if nfe == 2 else torch.linspace(5, 3, len(images))
            return Likelihood(bpd, 0.1, nfe, k, bpd, torch.zeros(len(images)))

    crossing = Crossing(Scaling(), FlowMatching(OTPath()), (3, 8, 8), None, {"weights": "w"})
    row = evaluate(crossing, Cell(solver="euler", nfe=2, samples=20), features, reference)
    assert row["nll_converged"] is False and row["nll_moved_abs"] == pytest.approx(1.05, abs=0.01)


def test_it_repeats_to_the_last_digit(features, reference):
    timings = ("seconds", "nll_seconds")
    first, second = (evaluate(flow(), cells(settings())[1], features, reference) for _ in range(2))
    assert {k: v for k, v in first.items() if k not in timings} == {k: v for k, v in second.items() if k not in timings}


def test_all_cells_draw_from_the_same_noise(features, reference):
    """Where the velocity vanishes the samples are the noise: any solver, batch and budget measures the same."""
    still = flow(0.0)
    rows = [
        evaluate(still, Cell(solver=s, nfe=n, samples=40, batch=b), features, reference)
        for s, n, b in (("euler", 1, 16), ("rk4", 8, 40))
    ]
    rows.append(evaluate(still, Cell(solver="dopri5", tolerance=1e-3, samples=40, batch=7), features, reference))
    assert len({row[FD] for row in rows}) == 1


def test_with_its_own_steps_a_samples_result_and_cost_do_not_depend_on_the_batch(features, reference):
    rows = {}
    for control in ("joint", "per_sample"):
        cell = Cell(solver="dopri5", tolerance=1e-5, samples=40, control=control, nll_images=0)
        rows[control] = [evaluate(flow(), cell.model_copy(update={"batch": b}), features, reference) for b in (8, 40)]
    alone = rows["per_sample"]
    assert alone[0]["nfe_mean"] == pytest.approx(alone[1]["nfe_mean"], rel=0.02)  # a last bit may cost a step
    assert all(row["nfe_mean"] < row["nfe"] for row in alone)
    assert alone[0][FD] == pytest.approx(alone[1][FD], rel=1e-3)
    assert {row["control"] for row in alone} == {"per_sample"} and rows["joint"][0]["control"] == "joint"


def test_class_conditional_samples_get_labels_as_frequent_as_in_the_data(features, reference):
    class Labelled(Scaling):
        seen: list[int] = []  # noqa: RUF012

        def forward(self, x, t, y=None):
            self.seen.extend(y.tolist())
            return super().forward(x, t)

    model = Flow(Labelled(), FlowMatching(OTPath()), (3, 8, 8), ("a", "b", "c"), {"weights": "w"})
    few = Reference(**vars(reference) | {"images": reference.images[:0]})
    row = evaluate(model, Cell(solver="euler", nfe=1, samples=300, batch=100), features, few)
    counts = np.bincount(Labelled.seen)
    assert counts.sum() == 300 and counts.min() > 70
    assert row["labels"].startswith("as frequent") and row["nll_converged"] is None
    assert row[f"{FD}_floor"] is None  # 60 training images are no floor for 300 samples


def test_a_reference_is_the_same_measured_anew_and_read_back(features, reference, tmp_path):
    for _ in range(2):
        made = measure_reference(Pictures(1, 60), Pictures(2, 50), features, settings(), tmp_path)
        for name, value in vars(reference).items():
            other = getattr(made, name)
            assert torch.equal(other, value) if isinstance(value, torch.Tensor) else other == value
    assert (len(reference.heldout), len(reference.training), len(reference.images)) == (50, 40, 20)


def test_reference_takes_a_fair_share_of_sorted_data(features):
    heldout = Pictures(2, 600, "sorted")
    heldout.labels = np.arange(600) // 200
    taken = measure_reference(Pictures(1, 60), heldout, features, settings(reference_images=90))
    assert np.bincount(taken.labels).min() > 15


def test_key_follows_what_the_numbers_depend_on(features, reference):
    cell = cells(settings())[0]
    key = row_key("w", cell, features.identity, "data set")
    assert key == evaluate(flow(), cell, features, reference)["key"]
    other = dict.fromkeys(("nfe", "samples", "batch", "seed", "nll_images", "reference_images"), 1)
    other |= {"solver": "rk4", "tolerance": 0.5, "distances": ("kid",), "nll_k": 2, "nll_probe": "both"}
    other |= {
        "control": "per_sample",
        "grid": "edm",
        "sampling_precision": "tf32",
        "nonfinite": "drop",
        "nll_training_images": 3,
        "error_images": 4,
        "reference_split": "training",
        "guidance": 1.0,
        "interval": (0.0, 0.5),
        "guide": "weak",
    }
    others = [
        row_key("v", cell, features.identity, "data set"),
        row_key("w", cell, "other features", "data set"),
        row_key("w", cell, features.identity, "other data"),
        *(row_key("w", cell.model_copy(update={k: v}), features.identity, "data set") for k, v in other.items()),
    ]
    assert set(other) == set(Cell.model_fields) and len({key, *others}) == 1 + len(others)


def test_what_does_not_belong_together_is_refused(features, reference):
    cell = Cell(solver="euler", nfe=1, samples=20)
    with pytest.raises(SettingsError, match="trained on data set other, the reference is of data set"):
        evaluate(flow(data="other"), cell, features, reference)
    small = Flow(Scaling(), FlowMatching(OTPath()), (3, 4, 4))
    with pytest.raises(SettingsError, match=r"draws \(3, 4, 4\)"):
        evaluate(small, cell, features, reference)
    with pytest.raises(SettingsError, match="measured with random_conv"):
        evaluate(flow(), cell, load_features("efficientnet_lite0_b7"), reference)
    with pytest.raises(UserError, match="19 held-out images are too few"):
        measure_reference(Pictures(1, 60), Pictures(2, 19), features, settings())


class Brittle(Scaling):
    """Has no answer for samples whose first value is above 1."""

    def forward(self, x, t, y=None):
        return super().forward(x, t) + torch.where(x[:, :1, :1, :1] > 1, math.nan, 0.0) * (t.view(-1, 1, 1, 1) == 0)


def test_samples_that_are_not_finite_are_counted_and_named_or_left_out(features, reference):
    brittle = Flow(Brittle(), FlowMatching(OTPath()), (3, 8, 8), None, {"weights": "w"})
    first = draws(0, NOISE, torch.arange(40), (3, 8, 8))[:, 0, 0, 0]
    bad = (first > 1).nonzero().flatten().tolist()
    cell = Cell(solver="euler", nfe=4, samples=40, batch=16, nll_images=0)
    with pytest.raises(
        NumericalError, match=rf"{len(bad)} of 40 samples have no finite solution \(number {bad[0]}, {bad[1]}, "
    ):
        evaluate(brittle, cell, features, reference)
    row = evaluate(brittle, cell.model_copy(update={"nonfinite": "drop"}), features, reference)
    assert row["samples_not_finite"] == len(bad) and row["nfe"] == 4
    whole = flow().sample(40, method="euler", nfe=4)[first <= 1]
    assert row[FD] == DISTANCES["fd"](features(whole), reference.heldout)


@pytest.mark.parametrize("batch", [32, 50])
def test_parts_measured_in_any_order_make_the_same_row(features, reference, batch):
    """Whole batches in each part: whoever measures them, and when, changes no bit; the noise is that of any batch."""
    cell = Cell(solver="rk4", nfe=80, samples=700, batch=batch, nll_images=20, nll_training_images=7)
    of = parts(cell, 20, 60)
    assert [(p.start, p.stop) for p in of if p.kind == "samples"] == (
        [(0, 256), (256, 512), (512, 700)] if batch == 32 else [(0, 300), (300, 600), (600, 700)]
    )
    whole = evaluate(flow(), cell, features, with_training(features))
    found = [(part, sample(flow(), cell, part, features, reference.labels)) for part in reversed(of[:3])]
    for part in of[3:]:
        images = with_training(features).training_images if "train" in part.kind else reference.images
        images = images[part.start : part.stop]
        found.append((part, score(flow(), cell, part, images, reference.labels[: len(images)])))
    timings = ("seconds", "nll_seconds")
    again = row_of(flow(), cell, found, features, reference)
    assert {k: v for k, v in whole.items() if k not in timings} == {k: v for k, v in again.items() if k not in timings}
    assert whole["noise_digest"] == noise_of(700) and whole["bits_per_dim_train"] is not None


def noise_of(samples):
    rows = draws(0, NOISE, torch.arange(samples), (3, 8, 8))
    return hashlib.sha256(b"".join(hashlib.sha256(row.numpy().tobytes()).digest() for row in rows)).hexdigest()[:16]


def with_training(features):
    return measure_reference(Pictures(1, 60), Pictures(2, 50), features, settings(nll_training_images=7))


def test_the_generalisation_gap_is_that_of_held_out_and_training_images(features):
    cell = Cell(solver="rk4", nfe=80, samples=20, nll_images=20, nll_training_images=7)
    row = evaluate(flow(), cell, features, with_training(features))
    own = flow().bits_per_dim(with_training(features).training_images, method="rk4", nfe=80).bpd.double()
    assert row["bits_per_dim_train"] == pytest.approx(float(own.mean()), abs=1e-6)
    assert row["generalisation_gap"] == pytest.approx(row["bits_per_dim"] - row["bits_per_dim_train"])
    expected = math.hypot(row["bits_per_dim_stderr"], row["bits_per_dim_train_stderr"])
    assert row["generalisation_gap_stderr"] == pytest.approx(expected)


def test_both_probe_rules_stand_side_by_side(features, reference):
    cell = Cell(solver="rk4", nfe=80, samples=20, nll_images=20, nll_k=4)
    one, both = (
        evaluate(flow(), cell.model_copy(update={"nll_probe": probe}), features, reference)
        for probe in ("per_image", "both")
    )
    assert both["bits_per_dim"] == pytest.approx(one["bits_per_dim"], abs=1e-6)
    expected = flow().bits_per_dim(reference.images, 4, method="rk4", nfe=80, probe="per_draw").bpd.double().mean()
    assert both["bits_per_dim_per_draw"] == pytest.approx(float(expected)) and "bits_per_dim_per_draw" not in one


def test_the_values_without_each_group_give_the_interval(features, reference):
    row = evaluate(flow(), Cell(solver="rk4", nfe=40, samples=60, batch=16), features, reference)
    for name, value in ((FD, row[FD]), ("bits_per_dim", row["bits_per_dim"])):
        without = torch.tensor(row[f"{name}_without"], dtype=torch.float64)
        assert len(without) == 10 and float(without.min()) < value < float(without.max())
    without = torch.tensor(row[f"{FD}_without"], dtype=torch.float64)
    half = 2.262 * float((without - without.mean()).square().sum() * 9 / 10) ** 0.5
    assert (row[f"{FD}_high"] - row[f"{FD}_low"]) / 2 == pytest.approx(half)
    samples = features(flow().sample(60, method="rk4", nfe=40, batch=16))
    left = samples[torch.arange(60) % 10 != 3]
    assert row[f"{FD}_without"][3] == pytest.approx(DISTANCES["fd"](left, reference.heldout), rel=1e-9)


def test_a_failed_cell_has_a_row_that_says_so_under_the_key_it_would_have(features, reference):
    cell = cells(settings())[0]
    row = failed_row(flow(data="data set"), cell, (features.name, features.identity), "data set", "no memory")
    assert row["failed"] == "no memory" and row["key"] == evaluate(flow(), cell, features, reference)["key"]
    assert cell_of(row) == cell and json.loads(json.dumps(row)) == row


def test_samples_may_be_compared_with_training_images_as_published_fid_is(features, reference):
    cell = Cell(solver="rk4", nfe=4, samples=40, nll_images=0, reference_images=50)
    both = {split: cell.model_copy(update={"reference_split": split}) for split in ("heldout", "training")}
    rows = {split: evaluate(flow(), one, features, reference) for split, one in both.items()}
    samples = features(flow().sample(40, method="rk4", nfe=4))
    fd = DISTANCES["fd"]
    assert rows["training"][FD] == pytest.approx(fd(samples, reference.training[:50]), rel=1e-9)
    assert rows["training"][f"{FD}_floor"] == pytest.approx(
        fd(reference.heldout[:40], reference.training[:50]), rel=1e-9
    )
    assert rows["heldout"][FD] == pytest.approx(fd(samples, reference.heldout[:50]), rel=1e-9)
    assert [row["reference_split"] for row in rows.values()] == ["heldout", "training"]
    assert rows["heldout"]["key"] != rows["training"]["key"]
