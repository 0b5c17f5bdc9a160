"""Time grids: exact ends, even in their measure, on every path, in both directions."""

import pytest
import torch

from fm.errors import SettingsError
from fm.objectives import FlowMatching
from fm.paths import OTPath, Path
from fm.solvers import GRIDS, solve
from fm.solvers.grids import LARGEST, SMALLEST, noise_level
from tests.problems import PATHS, by_kind, randn

every_path = pytest.mark.parametrize("path", PATHS, ids=by_kind)
MEASURES = {"uniform": lambda path, t: t, "edm": lambda path, t: level(path, t) ** (1 / 7)}
MEASURES["log_snr"] = lambda path, t: level(path, t).log()


def level(path: Path, t: torch.Tensor) -> torch.Tensor:
    return noise_level(path, t).clamp(SMALLEST, LARGEST)


@every_path
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("count", [1, 2, 9])
def test_steps_are_even_in_the_measure_and_ends_exact(name: str, path: Path, count: int) -> None:
    grid = GRIDS[name](path, 0.0, path.t_max, count)
    assert len(grid) == count + 1
    assert (grid[0], grid[-1]) == (0.0, path.t_max)
    t = torch.tensor(grid, dtype=torch.float64)
    assert (t.diff() > 0).all()
    sizes = MEASURES[name](path, t).diff()
    assert (sizes - sizes.mean()).abs().max() < 1e-6 * sizes.abs().mean()
    back = GRIDS[name](path, path.t_max, 0.0, count)
    assert back[::-1] == pytest.approx(grid, abs=1e-12)


def test_edms_levels_are_the_published_ones() -> None:
    """Table 1 there: (s_max^(1/7) + i/n (s_min^(1/7) - s_max^(1/7)))^7, with t = 1/(1 + s) on the straight path."""
    grid = GRIDS["edm"](OTPath(sigma_min=0.0), 0.0, 1.0, 18)
    for i in (1, 9, 17):
        s = (80 ** (1 / 7) + i / 18 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        assert grid[i] == pytest.approx(1 / (1 + s), rel=1e-12)


def test_grids_that_need_a_path_ask_for_it() -> None:
    x = randn(2, 2)
    with pytest.raises(SettingsError, match="give path, or grid 'uniform'"):
        solve(lambda x, t: -x, x, "euler", nfe=4, grid="edm")
    with pytest.raises(SettingsError, match="unknown time grid 'emd'; did you mean 'edm'"):
        solve(lambda x, t: -x, x, "euler", nfe=4, grid="emd")
    with pytest.raises(SettingsError, match="dopri5 chooses its own steps"):
        solve(lambda x, t: -x, x, grid="edm")


def test_a_velocity_of_an_objective_brings_its_path() -> None:
    seen: list[float] = []
    velocity = FlowMatching(OTPath()).velocity(lambda x, t: seen.append(t[0].item()) or x)
    assert solve(velocity, randn(2, 2), "euler", nfe=5, grid="edm").nfe == 5
    assert seen == pytest.approx(GRIDS["edm"](OTPath(), 0.0, 1.0, 5)[:-1])


@pytest.mark.parametrize("path", PATHS, ids=by_kind)
@pytest.mark.parametrize("name", GRIDS)
def test_grids_are_monotone_on_any_part_of_the_times(name: str, path: Path) -> None:
    end = path.t_max
    for span in [(0.0, end), (0.0, 5e-4), (0.0, 0.01), (end - 1e-3, end), (end - 1e-4, end), (0.2, 0.7), (0.0, 0.0126)]:
        for start, stop in (span, span[::-1]):
            times = torch.tensor(GRIDS[name](path, start, stop, 7), dtype=torch.float64)
            assert (float(times[0]), float(times[-1])) == (start, stop)
            assert ((stop - start) * times.diff() > 0).all(), span
