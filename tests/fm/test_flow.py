import math

import pytest
import torch
from torch import nn

from fm.errors import NumericalError, UserError, ValueUserError
from fm.flow import Flow
from fm.noise import draws
from fm.objectives import FlowMatching, NoiseMatching, ScoreFlow, ScoreMatching
from fm.paths import OTPath, VEPath, VPPath
from fm.pixels import to_unit

SPREAD = 0.4  # standard deviation of the data; wide against a level's 1/128


class Gaussian(nn.Module):
    """The exact velocity of the path to N(label / 10, SPREAD^2): what a perfectly trained network answers."""

    def __init__(self, path):
        super().__init__()
        self.path, self.scale = path, nn.Parameter(torch.ones(()))

    def forward(self, x, t, y=None):
        mean = torch.zeros(len(x), 1, 1, 1) if y is None else (y.clamp(min=0) / 10).view(-1, 1, 1, 1)
        shape = [-1, 1, 1, 1]
        a, sigma, a_dot, sigma_dot = (s.view(shape).to(x) for s in self.path.schedule(t.double())[:4])
        rate = (a * a_dot * SPREAD**2 + sigma * sigma_dot) / (a**2 * SPREAD**2 + sigma**2)
        return self.scale * (a_dot * mean + rate * (x - a * mean))


def flow(path=None, classes=None, shape=(1, 6, 6)) -> Flow:
    path = path or OTPath()
    return Flow(Gaussian(path), FlowMatching(path), shape, classes)


@pytest.fixture(params=[OTPath(), VPPath()], ids=["ot", "vp"])
def trained(request):
    return flow(request.param)


def test_samples_have_the_moments_of_the_data(trained):
    images = trained.sample(256, seed=1, method="rk4", nfe=80)
    assert images.shape == (256, 1, 6, 6) and images.dtype == torch.uint8
    x = to_unit(images)
    assert abs(x.mean()) < 0.02 and 0.385 < x.std() < 0.41  # 0.398 is what clipping at 1 leaves of 0.4


def test_sample_i_is_its_own_whatever_the_batch_and_the_count(trained):
    whole = trained.draw(20, seed=3, method="euler", nfe=8, batch=20).x
    assert torch.equal(whole, trained.draw(20, seed=3, method="euler", nfe=8, batch=7).x)
    assert torch.equal(whole[:5], trained.draw(5, seed=3, method="euler", nfe=8).x)
    assert torch.equal(whole[5:], trained.draw(15, seed=3, method="euler", nfe=8, start=5).x)
    assert not torch.equal(whole, trained.draw(20, seed=4, method="euler", nfe=8).x)


def test_all_solvers_start_from_the_same_noise(trained):
    z = draws(3, "sample", torch.arange(4), (1, 6, 6))
    for options in ({"method": "euler", "nfe": 4}, {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3}):
        assert torch.equal(trained.trajectory(4, [0.0, 1.0], seed=3, **options)[0], trained.path.sample_source(z))


def test_the_ode_is_solved_exactly_for_a_gaussian():
    """x_1 = SPREAD z on the OT path without sigma_min: the flow of two centred Gaussians is a scaling."""
    z = draws(0, "sample", torch.arange(4), (1, 6, 6))
    x = flow(OTPath(sigma_min=0.0)).draw(4, method="rk4", nfe=400).x
    assert torch.allclose(x, SPREAD * z, atol=1e-4)


def test_trajectory_ends_in_the_samples(trained):
    options = {"method": "rk4", "nfe": 40}
    states = trained.trajectory(3, [0.0, 0.5, 1.0], **options)
    assert states.shape == (3, 3, 1, 6, 6)
    assert torch.allclose(states[-1], trained.draw(3, **options).x, atol=1e-5)


def test_decode_undoes_encode(trained):
    images = trained.sample(8, method="rk4", nfe=40)
    noise = trained.encode(images, method="rk4", nfe=200)
    again = trained.decode(noise, method="rk4", nfe=200)
    assert (images.int() - again.int()).abs().max() <= 1
    assert 0.8 < noise.std() < 1.2


def test_interpolation_begins_and_ends_with_its_images():
    model = flow()
    a, b = model.sample(2, method="rk4", nfe=40)
    line = model.interpolate(a, b, steps=5, method="rk4", nfe=200)
    assert line.shape == (5, 1, 6, 6)
    assert (line[0].int() - a.int()).abs().max() <= 1 and (line[-1].int() - b.int()).abs().max() <= 1
    assert torch.equal(model.interpolate(a, a, steps=2, method="rk4", nfe=200)[0].int(), a.int())


def test_bits_per_dim_of_a_gaussian_is_its_entropy(trained):
    x = SPREAD * draws(5, "data", torch.arange(300), (1, 6, 6))
    inside = x.clamp(-0.999, 0.999)
    images = ((inside + 1) * 128).floor().to(torch.uint8)
    entropy = 7 + (
        0.5 * math.log(2 * math.pi * SPREAD**2) + inside.square().mean().item() / (2 * SPREAD**2)
    ) / math.log(2)
    found = trained.bits_per_dim(images, rtol=1e-5, atol=1e-5, divergence="exact", batch=128)
    assert found.bpd.shape == (300,) and found.bpd.mean().item() == pytest.approx(entropy, abs=2e-3)
    assert found.stderr == pytest.approx(found.bpd.std().item() / 300**0.5, rel=1e-4)
    whole = trained.bits_per_dim(images[:40], method="rk4", nfe=40)
    parts = trained.bits_per_dim(images[:40], method="rk4", nfe=40, batch=7)
    assert torch.allclose(whole.bpd, parts.bpd, atol=1e-6) and parts.nfe == 40


def test_labels_guide_and_are_counted():
    model = flow(classes=("a", "b", "c"))
    y = torch.tensor([0, 2, 2])
    plain = model.draw(3, y=y, method="rk4", nfe=40)
    guided = model.draw(3, y=y, guidance=1.0, method="rk4", nfe=40)
    assert (plain.nfe, guided.nfe) == (40, 40)  # guidance takes two calls an evaluation, so half the steps
    assert guided.x[1].mean() > plain.x[1].mean() + 0.1
    assert torch.equal(
        model.draw(3, y=y, method="euler", nfe=4, batch=2).x, model.draw(3, y=y, method="euler", nfe=4).x
    )


def test_adaptive_cost_is_counted():
    drawn = flow().draw(10, method="dopri5", rtol=1e-3, atol=1e-3, batch=4)
    assert drawn.nfe > 6 and drawn.nfe_mean <= drawn.nfe


def test_default_solver_follows_the_budget():
    model = flow()
    assert torch.equal(model.sample(2, nfe=8), model.sample(2, method="midpoint", nfe=8))
    assert torch.equal(model.sample(2), model.sample(2, method="dopri5"))


def test_velocity_takes_one_time_or_one_for_each_sample(trained):
    x = torch.ones(3, 1, 6, 6)
    one = trained.velocity(x, torch.tensor(0.5))
    assert torch.allclose(one, trained.velocity(x, torch.full((3,), 0.5)))


def test_points_stay_points():
    class Still(nn.Module):
        def forward(self, x, t, y=None):
            return torch.zeros_like(x)

    x = Flow(Still(), FlowMatching(OTPath()), (2,)).sample(5, method="euler", nfe=2)
    assert torch.equal(x, draws(0, "sample", torch.arange(5), (2,)))


def test_a_class_is_found_by_its_name():
    assert flow(classes=("cat", "dog")).labels_of("dog", 3).tolist() == [1, 1, 1]
    with pytest.raises(UserError, match="did you mean 'cat'"):
        flow(classes=("cat", "dog")).labels_of("cats", 3)
    with pytest.raises(UserError, match="not class-conditional"):
        flow().labels_of("cat", 3)


@pytest.mark.parametrize(
    "objective, name",
    [
        (FlowMatching(OTPath()), "FM w/ OT"),
        (FlowMatching(VPPath()), "FM w/ Diffusion"),
        (FlowMatching(VEPath()), "FM w/ VE"),
        (NoiseMatching(VPPath()), "DDPM"),
        (ScoreMatching(VPPath(), output="raw"), "Score Matching (raw)"),
        (ScoreFlow(VPPath(), output="scaled"), "ScoreFlow (scaled)"),
    ],
)
def test_methods_are_called_as_in_the_paper(objective, name):
    assert Flow(nn.Identity(), objective, (2,)).method == name


def test_what_does_not_fit_is_refused():
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    for call in (flow().encode, flow().bits_per_dim):
        with pytest.raises(ValueUserError, match="images of 1 x 8 x 8 given to a network of 1 x 6 x 6"):
            call(images)
    with pytest.raises(UserError, match="trained without"):
        flow().sample(2, y=torch.tensor([0, 1]))
    with pytest.raises(UserError, match=r"where 2 labels 0..2"):
        flow(classes=("a", "b", "c")).sample(2, y=torch.tensor([0, 3]))
    with pytest.raises(UserError, match="without a label"):
        flow(classes=("a",)).sample(2, guidance=1.0)


def test_a_solve_that_was_cut_off_is_no_sample() -> None:
    with pytest.raises(NumericalError, match="sampling"):
        flow().draw(2, method="dopri5", rtol=1e-9, atol=1e-9, max_nfe=7)
