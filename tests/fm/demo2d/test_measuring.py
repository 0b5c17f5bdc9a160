import math
from pathlib import Path

import pytest
import torch

from fm.data.plane import Points
from fm.demo2d.measuring import Measured, key
from fm.demo2d.plan import Plan
from fm.flow import Flow
from fm.paths import OTPath


def test_a_trained_flow_is_near_the_truth_and_says_how_near(found: Measured, small: Plan) -> None:
    rows = {(r["solver"], r["grid"], r["nfe"]): r for r in found.rows[:-1]}
    assert set(rows) == {("midpoint", grid, nfe) for grid in ("uniform", "log_snr") for nfe in small.nfe}
    exact = found.rows[-1]
    assert (exact["solver"], exact["tolerance"]) == ("dopri5", 1e-5)
    assert 0 < exact["energy_floor"] < exact["energy"] < 0.03  # the noise is at 0.1
    heldout = Points(distribution="two_moons").at(torch.arange(small.heldout), "heldout")
    of_noise = -float(OTPath().log_source(heldout).mean()) / (2 * math.log(2))
    assert exact["bits_per_dim_floor"] < exact["bits_per_dim"] < of_noise - 0.3 and exact["nll_converged"]
    assert exact["bits_per_dim"] - exact["bits_per_dim_floor"] == pytest.approx(exact["bits_excess"], abs=1e-6)
    assert len({row["key"] for row in found.rows}) == len(found.rows)


def test_shape_of_the_trajectories(found: Measured, small: Plan) -> None:
    assert found.tensors["states"].shape == (small.steps + 1, small.paths, 2)
    assert found.numbers["straightness"] >= 1 and 0 <= found.numbers["backtracking"] < 1
    assert 0 < found.numbers["spread"] < 1.2
    assert all(math.isfinite(value) for value in found.numbers.values())


def test_what_was_measured_is_found_under_its_key_only(
    found: Measured, flow: Flow, small: Plan, tmp_path: Path
) -> None:
    assert Measured.load(tmp_path, key(flow, small)) is None
    found.save(tmp_path, key(flow, small))
    back = Measured.load(tmp_path, key(flow, small))
    assert back is not None and back.rows == found.rows and back.numbers == found.numbers
    assert all(torch.equal(back.tensors[name], x) for name, x in found.tensors.items())
    assert Measured.load(tmp_path, key(flow, small.model_copy(update={"paths": 151}))) is None


def test_ot_against_vp_by_density_and_by_few_evaluations(found: Measured, found_vp: Measured) -> None:
    for measured, most in ((found, 0.8), (found_vp, 1.0)):
        assert 0 < measured.rows[-1]["bits_excess"] < most, measured.rows[-1]["path"]
    by_nfe = [{r["nfe"]: r["energy"] for r in m.rows if r["grid"] == "uniform"} for m in (found, found_vp)]
    assert by_nfe[0][4] < by_nfe[1][4] and by_nfe[0][8] < by_nfe[1][8]
