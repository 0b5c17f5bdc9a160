"""What a step draws: by stream position alone, and with the laws that the settings name."""

import itertools

import torch
from torch import nn

from fm.data.batches import Batch
from fm.drawing import draw, drawn
from fm.enlarging import enlarged
from fm.objectives import FlowMatching, MeanFlow
from fm.parallel import World, parts
from fm.paths import OTPath
from fm.training import Training
from tests.fm.test_training import stream
from tests.problems import LAWS


def test_draws_follow_the_position_alone() -> None:
    settings = Training(total_images=1, batch_images=8, flips=True, label_drop=0.5)
    batch = next(stream(settings)(0))
    like, objective = torch.zeros(1), FlowMatching(OTPath())
    fields = batch.images, batch.labels, batch.positions, batch.positions
    all_at_once = draw(*fields, objective, settings, like)
    backwards = torch.arange(7, -1, -1)
    reverse = draw(*(f[backwards] for f in fields), objective, settings, like)
    for one, other in zip(all_at_once, reverse, strict=True):
        assert torch.equal(one[backwards], other)


def test_stratified_times_cover_the_global_batch_over_ranks_and_micro_batches() -> None:
    for law in LAWS:
        settings = Training(total_images=1, batch_images=12, stratify=True, times=law)
        like, path, found = torch.zeros(1), OTPath(), []
        for rank in range(3):
            batch = next(itertools.islice(stream(settings, World(rank, 3))(0), 4, None))
            for part in parts(4, 3):
                fields = batch.images[part], None, batch.positions[part], batch.positions[part]
                found.append(draw(*fields, FlowMatching(path), settings, like)[1])
        edges = law.at(torch.arange(1, 12) / 12, path.t_max)
        assert torch.bucketize(torch.cat(found), edges).sort().values.tolist() == list(range(12))


def test_draws_are_what_their_names_say() -> None:
    settings = Training(total_images=1, flips=True, label_drop=0.25)
    count = 4000
    ramp = torch.arange(4, dtype=torch.uint8).expand(count, 1, 2, 4)
    positions, labels = torch.arange(count), torch.zeros(count, dtype=torch.long)
    x_1, t, z, y = draw(ramp, labels, positions, positions, FlowMatching(OTPath()), settings, torch.zeros(1))
    levels = ((x_1 + 1) * 128).floor()
    mirrored = (levels[:, 0, 0, 0] == 3).float().mean()
    assert abs(mirrored - 0.5) < 0.04
    assert abs((y == -1).float().mean() - 0.25) < 0.04
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03 and abs(t.mean() - 0.5) < 0.02
    assert torch.equal(levels.sort(dim=3).values, ramp.float())


def test_points_are_taken_as_they_are() -> None:
    points, at = torch.randn(5, 2), torch.arange(5)
    x_1, *_ = draw(points, None, at, at, FlowMatching(OTPath()), Training(total_images=1), torch.zeros(1))
    assert torch.equal(x_1, points)


def test_small_pictures_are_mirrored_with_their_images() -> None:
    settings = Training(total_images=1, flips=True)
    ramp = torch.arange(8, dtype=torch.uint8).expand(40, 1, 8, 8)
    at, low = torch.arange(40), ramp[..., ::2, ::2]
    batch = Batch(ramp, torch.full((40,), -1), at, at, low)
    x_1, told = drawn(batch, slice(40), nn.Linear(1, 1), FlowMatching(OTPath()), settings)
    cond = told["cond"]
    mirrored = x_1[:, 0, 0, 0] > x_1[:, 0, 0, -1]
    assert 5 < int(mirrored.sum()) < 35
    torch.testing.assert_close(
        cond, torch.where(mirrored[:, None, None, None], enlarged(low.flip(-1), 8), enlarged(low, 8))
    )
    alone = drawn(batch._replace(low=None), slice(40), nn.Linear(1, 1), FlowMatching(OTPath()), settings)
    assert alone[1]["cond"] is None and torch.equal(alone[0], x_1)


def test_a_share_of_the_samples_jumps_and_to_where_follows_the_position_alone() -> None:
    settings = Training(total_images=1, batch_images=4000)
    positions, images = torch.arange(4000), torch.zeros(4000, 1, 2, 2, dtype=torch.uint8)
    batch, model = Batch(images, torch.zeros(4000), positions, positions), nn.Linear(1, 1)
    _, told = drawn(batch, slice(0, 4000), model, MeanFlow(OTPath()), settings)
    t, s = told["t"], told["s"]
    assert (s >= t).all() and abs((s > t).float().mean() - 0.25) < 0.03
    assert abs(t[s > t].mean() - 1 / 3) < 0.03 and abs(s[s > t].mean() - 2 / 3) < 0.03  # the order of two uniform times
    _, part = drawn(batch, slice(100, 200), model, MeanFlow(OTPath()), settings)
    assert torch.equal(part["t"], t[100:200]) and torch.equal(part["s"], s[100:200])
    _, plain = drawn(batch, slice(0, 4000), model, FlowMatching(OTPath()), settings)
    assert torch.equal(plain["t"][s == t], t[s == t]) and "s" not in plain
