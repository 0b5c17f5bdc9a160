import math

import pytest
import torch
from torch import nn

from fm.enlarging import enlarged
from fm.errors import NumericalError, UserError, ValueUserError
from fm.flow import Flow
from fm.noise import draws
from fm.objectives import FlowMatching, NoiseMatching, Regression, ScoreFlow, ScoreMatching
from fm.paths import OTPath, VEPath, VPPath
from fm.pixels import to_pixels, to_unit

SPREAD = 0.4  # standard deviation of the data; wide against a level's 1/128


class Gaussian(nn.Module):
    """The exact velocity of the path to N(label / 10, SPREAD^2): what a perfectly trained network answers."""

    def __init__(self, path):
        super().__init__()
        self.path, self.scale = path, nn.Parameter(torch.ones(()))

    def forward(self, x, t, y=None):
        shape = [-1, *[1] * (x.ndim - 1)]
        mean = torch.zeros(len(x)).view(shape) if y is None else (y.clamp(min=0) / 10).view(shape)
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


def test_a_trajectory_may_start_at_any_position(trained):
    options = {"method": "euler", "nfe": 4}
    whole = trained.trajectory(3, [0.0, 1.0], **options)
    assert torch.equal(trained.trajectory(1, [0.0, 1.0], start=2, **options)[:, 0], whole[:, 2])


def test_decode_undoes_encode(trained):
    images = trained.sample(8, method="rk4", nfe=40)
    noise = trained.encode(images, method="rk4", nfe=200)
    again = trained.decode(noise, method="rk4", nfe=200)
    assert (images.int() - again.int()).abs().max() <= 1
    assert 0.8 < noise.std() < 1.2


KINDS = {"images": flow(), "points": flow(shape=(2,))}
both_kinds = pytest.mark.parametrize("model", KINDS.values(), ids=KINDS)


@both_kinds
def test_there_and_back_is_said_in_one_line(model):
    samples = model.sample(8, method="rk4", nfe=40)
    fine, coarse = (model.round_trip(samples, method="rk4", nfe=nfe) for nfe in (200, 8))
    assert str(fine).startswith("there and back: off by ") and "\n" not in str(fine)
    assert str(fine).endswith("on average (rk4, 200 NFE to the noise, 200 back)")
    assert fine.unit == ("grey levels" if model.of_images else "units")
    assert fine.largest < (0.5 if model.of_images else 1e-5) < coarse.largest and fine.mean <= fine.largest
    adaptive = model.round_trip(samples, rtol=1e-3, atol=1e-3)
    assert adaptive.solver == "dopri5" and min(adaptive.nfe) > 6
    assert model.round_trip(samples, nfe=6).solver == "midpoint"


def test_points_are_not_mapped_as_pixels():
    """Two centred Gaussians on the OT path without sigma_min: encoding divides by SPREAD."""
    model = flow(OTPath(sigma_min=0.0), shape=(2,))
    x = torch.tensor([[3.0, -2.0], [0.0, 0.5]])
    assert torch.allclose(model.encode(x, method="rk4", nfe=400), x / SPREAD, atol=1e-4)
    assert torch.allclose(model.decode(x / SPREAD, method="rk4", nfe=400), x, atol=1e-4)


@both_kinds
def test_interpolation_begins_and_ends_with_its_images(model):
    options = {"method": "rk4", "nfe": 200}
    a, b = model.sample(2, method="rk4", nfe=40)
    line = model.interpolate(a, b, steps=5, **options)
    assert line.shape == (5, *model.shape) and line.dtype == a.dtype
    off = 1 if model.of_images else 1e-5
    assert (line[0].double() - a.double()).abs().max() <= off and (line[-1].double() - b.double()).abs().max() <= off
    assert torch.allclose(model.interpolate(a, a, steps=2, **options)[0].double(), a.double(), atol=1e-5)


def test_interpolation_turns_and_stretches_evenly():
    model = flow(OTPath(sigma_min=0.0), shape=(2,))
    for angle in (1.2, 3.1, math.pi):  # opposite noises too: a plain great circle of unequal lengths would run away
        a, b = torch.tensor([1.0, 0.0]), 3 * torch.tensor([math.cos(angle), math.sin(angle)])
        radius = model.interpolate(a, b, steps=5, method="rk4", nfe=100).norm(dim=1)
        expected = torch.linspace(1, 3, 5)
        if angle == math.pi:
            assert radius.isfinite().all() and radius.max() < 3.1
        else:
            assert torch.allclose(radius, expected, atol=1e-3)


def test_bits_per_dim_of_points_is_their_density(trained):
    """-log2 of N(0, SPREAD^2) in the points' own units: no offset, no dequantisation."""
    model = flow(trained.path, shape=(2,))
    x = SPREAD * draws(5, "data", torch.arange(9), (2,))
    density = torch.distributions.Normal(0.0, SPREAD).log_prob(x).sum(1)
    found = model.bits_per_dim(x, rtol=1e-6, atol=1e-6, batch=4)
    assert torch.allclose(found.bpd, -density / (2 * math.log(2)), atol=5e-3)
    assert (found.k, found.bpd.shape) == (1, (9,)) and found.stderr > 0
    with pytest.raises(UserError, match="k: points are not dequantised"):
        model.bits_per_dim(x, k=2)


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


def counted(model: Flow) -> tuple[Flow, list[int]]:
    """The flow, and the number of samples in each call of its network."""
    calls: list[int] = []
    model.model.register_forward_hook(lambda module, given, out: calls.append(len(given[0])))
    return model, calls


@pytest.mark.parametrize("kind", ["labels", "guide"])
@pytest.mark.parametrize("solver", [{"method": "midpoint", "nfe": 31}, {"rtol": 1e-3}, {"control": "per_sample"}])
def test_guidance_in_an_interval_counts_every_call(kind, solver):
    """Away from no label, or from a weaker network: NFE is what both networks were asked, sample by sample."""
    strong, calls = counted(flow(classes=("a", "b", "c")))
    weak, weak_calls = counted(flow(classes=("a", "b", "c")))
    guiding = {"guidance": 0.5, "interval": (0.3, 0.8), "guide": weak if kind == "guide" else None}
    y = torch.tensor([0, 2, 1, 1])
    drawn = strong.draw(4, y=y, batch=4, **guiding, **solver)
    assert drawn.nfe_mean * 4 == sum(calls) + sum(weak_calls) and bool(weak_calls) == (kind == "guide")
    assert drawn.nfe == solver.get("nfe", drawn.nfe)
    assert sum(calls) < drawn.nfe_mean * 4 or kind == "labels"
    plain = strong.draw(4, y=y, batch=4, **{**solver, "nfe": None if "nfe" not in solver else 40})
    assert torch.allclose(drawn.x, plain.x, atol=1e-2) == (kind == "guide")  # as strong as itself: nothing to gain
    pictures = strong.sample(4, y=y, batch=4, **guiding, **solver)
    assert torch.equal(pictures, to_pixels(drawn.x))
    assert torch.equal(
        pictures, strong.decode(draws(0, "sample", torch.arange(4), (1, 6, 6)), y=y, **guiding, **solver)
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


def test_bytes_and_floats_are_not_confused():
    bytes_, floats = torch.zeros(2, 1, 6, 6, dtype=torch.uint8), torch.zeros(2, 1, 6, 6)
    model, points = flow(), flow(shape=(2,))
    for call in (model.encode, model.bits_per_dim, model.round_trip):
        with pytest.raises(ValueUserError, match=r"images of dtype torch\.float32 given where uint8 levels"):
            call(floats)
        with pytest.raises(ValueUserError, match="0 images given"):
            call(bytes_[:0])
    for call in (points.encode, points.bits_per_dim, points.round_trip, points.decode):
        with pytest.raises(ValueUserError, match=r"dtype torch\.int64 given where floats are due"):
            call(torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueUserError, match="floats are due"):
        model.decode(bytes_)
    with pytest.raises(ValueUserError, match="images of 6 x 6 given"):
        model.decode(floats[0])


def test_times_outside_the_path_are_named(trained):
    x, end = torch.ones(3, 1, 6, 6), trained.path.t_max
    with pytest.raises(NumericalError, match=r"sample 1: t = 1\.5 on the .. path: outside"):
        trained.velocity(x, torch.tensor([0.5, 1.5, end]))
    with pytest.raises(UserError, match=r"at: time 1\.5 is outside the span"):
        trained.trajectory(2, [0.0, 1.5], method="euler", nfe=2)


def test_the_sample_that_goes_wrong_is_named_in_its_batch():
    class Bad(nn.Module):
        def forward(self, x, t, y=None):
            return torch.where(x.abs() == self.worst, math.nan, x)

    model = Flow(Bad(), FlowMatching(OTPath()), (2,))
    model.model.worst = draws(0, "sample", torch.tensor([5]), (2,)).abs()[0, 0]
    with pytest.raises(NumericalError, match="sample 1 of the batch from 4 on: the velocity is not finite at t = 0"):
        model.draw(8, batch=4, method="euler", nfe=2)
    with pytest.raises(NumericalError, match="sample 5: the velocity is not finite at t = 0"):
        model.sample(8, method="euler", nfe=2)


def test_a_guide_of_another_kind_is_refused():
    model, y = flow(classes=("a", "b")), torch.tensor(1)
    for other in (flow(), flow(VPPath(), classes=("a", "b")), flow(classes=("a", "b"), shape=(1, 4, 4))):
        with pytest.raises(UserError, match="guide: the guide has another shape, classes or objective"):
            model.sample(2, y=y, guidance=1.0, guide=other, nfe=4)
    with pytest.raises(UserError, match="no part of the times"):
        model.sample(2, y=y, guidance=1.0, interval=(0.5, 0.2), nfe=4)
    with pytest.raises(UserError, match="0 samples asked for"):
        model.sample(0)


def test_a_solve_that_was_cut_off_is_no_sample() -> None:
    with pytest.raises(NumericalError, match="sampling"):
        flow().draw(2, method="dopri5", rtol=1e-9, atol=1e-9, max_nfe=20)


class AroundCondition(nn.Module):
    """The exact velocity of the OT path to N(condition, SPREAD^2), told the condition on its channels."""

    def __init__(self):
        super().__init__()
        self.inner = Gaussian(OTPath())

    def forward(self, given, t, y=None):
        x, cond = given.chunk(2, dim=1)
        a = t.view(-1, 1, 1, 1)
        return self.inner(x - a * cond, t) + cond


def super_resolution(model=None, objective=None) -> Flow:
    return Flow(model or AroundCondition(), objective or FlowMatching(OTPath()), (1, 8, 8), low_size=4)


def small(n):
    return (40 * torch.arange(1, 1 + n).view(-1, 1, 1, 1)).expand(n, 1, 4, 4).to(torch.uint8)


def test_samples_of_super_resolution_lie_around_their_own_small_picture():
    flow, low = super_resolution(), small(5)
    drawn = flow.draw(5, seed=1, low=low, method="rk4", nfe=40, batch=2).x
    means = enlarged(low, 8).mean((1, 2, 3))
    assert (drawn.mean((1, 2, 3)) - means).abs().max() < 0.2 < (means[1:] - means[:-1]).min()
    assert torch.equal(drawn[3:], flow.draw(2, seed=1, low=low[3:], method="rk4", nfe=40, start=3).x)
    other = flow.draw(5, seed=2, low=low, method="rk4", nfe=40).x
    assert not torch.equal(drawn, other)
    states = flow.trajectory(5, [0.0, 1.0], seed=1, low=low, method="rk4", nfe=40)
    torch.testing.assert_close(states[-1], drawn)
    images = flow.sample(5, seed=1, low=low, method="rk4", nfe=40)
    back = flow.decode(flow.encode(images, low=low, method="rk4", nfe=40), low=low, method="rk4", nfe=40)
    assert (back.int() - images.int()).abs().max() <= 1
    own = flow.bits_per_dim(images, low=low, method="rk4", nfe=40).bpd
    wrong = flow.bits_per_dim(images, low=low.flip(0), method="rk4", nfe=40).bpd
    assert bool((own[[0, 1, 3, 4]] < wrong[[0, 1, 3, 4]]).all())


def test_small_pictures_are_asked_for_where_they_belong_and_nowhere_else(trained):
    flow = super_resolution()
    with pytest.raises(ValueUserError, match=r"low: no small pictures given where \(2, 1, 4, 4\) are due"):
        flow.sample(2, nfe=2)
    with pytest.raises(ValueUserError, match=r"small pictures of shape \(3, 1, 4, 4\) given where \(2, 1, 4, 4\)"):
        flow.sample(2, low=small(3), nfe=2)
    with pytest.raises(ValueUserError, match="low: this network is of no super-resolution; leave low out"):
        trained.sample(2, low=small(2), nfe=2)


def test_regression_gives_one_picture_for_all_noises():
    class Doubling(nn.Module):
        def forward(self, given, t, y=None):
            return 0.5 * given[:, 1:]

    flow = super_resolution(Doubling(), Regression(OTPath()))
    one, other = (flow.sample(3, seed=seed, low=small(3), method="euler", nfe=1) for seed in (0, 1))
    assert (one.int() - other.int()).abs().max() <= 1 and flow.method == "Regression"


def test_between_two_images_all_belong_to_one_small_picture():
    flow, low = super_resolution(), small(1)
    ends = flow.sample(2, seed=3, low=low.expand(2, -1, -1, -1), nfe=16)
    line = flow.interpolate(*ends, steps=4, low=low, nfe=16)
    assert line.shape == (4, 1, 8, 8) and (line[0].int() - ends[0].int()).abs().max() <= 3


def test_a_guide_sees_no_more_than_what_it_guides():
    class Mean(nn.Module):
        def forward(self, given, t, y=None):
            assert not given[:, :1].any() and not t.any()
            return 0.5 * given[:, 1:]

    flow, guide = (super_resolution(Mean(), Regression(OTPath())) for _ in range(2))
    plain, guided = (
        flow.sample(3, low=small(3), nfe=2, method="euler", **how) for how in ({}, {"guide": guide, "guidance": 1.0})
    )
    assert (plain.int() - guided.int()).abs().max() <= 1
