import pytest

from fm.metrics import FEATURES, check_features
from fm.metrics.inception import TORCHSCRIPT
from fm.metrics.readiness import PUBLISHED, peers, readiness


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("FM_FEATURES", str(tmp_path))
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "cache"))
    return lambda: {row["features"]: row for row in readiness()}


def test_each_network_is_ready_with_its_hash_or_says_what_is_missing_and_where_to_put_it(table, tmp_path):
    rows = table()
    assert [*rows] == [*FEATURES]
    for name in ("efficientnet_lite0", "efficientnet_lite0_b7", "random_conv"):
        assert (rows[name]["state"], rows[name]["sha256"], rows[name]["mend"]) == ("ready", check_features(name), "")
    for name in ("dinov2_vitl14", "inception_clean", "inception_legacy_tensorflow", "inception_legacy_pytorch"):
        assert (rows[name]["state"], rows[name]["sha256"]) == ("missing", "")
        assert rows[name]["file"] == FEATURES[name].weights.name
        assert "set FM_FEATURES" in rows[name]["mend"] and str(tmp_path / "cache") in rows[name]["mend"]
    assert all(row["preprocessing"] == FEATURES[name].preprocessing for name, row in rows.items())


def test_another_file_of_the_name_is_refused_and_says_why(table, tmp_path):
    (tmp_path / TORCHSCRIPT.name).write_bytes(b"cut")
    row = table()["inception_clean"]
    assert row["state"] == "refused" and "ends early, after 3 of 95,607,719 bytes" in row["mend"]


def test_published_values_name_column_source_and_command(table):
    for name, row in table().items():
        assert len(row["published"]) == len(PUBLISHED.get(name, ()))
        for one in row["published"]:
            assert one["column"] in (f"fd_{name}", "inception_score") and one["source"] and one["apart"] > 0
            assert one["command"].startswith("fm evaluate --images FOLDER DATA")
            assert one["command"].endswith(f" --set evaluation.features={name}")
    assert {*PUBLISHED} <= {*FEATURES}


def test_what_clean_fid_needs_is_said(monkeypatch):
    assert "works; distances here need no matrix square root" in peers()
    monkeypatch.setattr("fm.metrics.readiness.version", {"scipy": "1.18.0", "clean-fid": "0.1.35"}.get)
    assert "clean-fid 0.1.35 beside scipy 1.18.0: its distance fails from scipy 1.18 on" in peers()
