import json
from pathlib import Path

import pytest
import torch

from fm import presets
from fm.errors import SettingsError, UserError
from fm.files import write_json
from fm.paths import VPPath
from fm.recipe import Recipe, check_guide, differences, load, opened

WRONG = [
    ("training.batch_imges=3", "--set: no such setting 'training.batch_imges'; did you mean 'training.batch_images'?"),
    ("trainin.seed=1", "--set: no such setting 'trainin'; did you mean 'training'?"),
    ("precision=bf16", "--set: no such setting 'precision'; did you mean training.precision?"),
    ("seed=1", "did you mean data.seed or training.seed or evaluation.seed?"),
    ("training.flips=maybe", '--set training.flips: "maybe" given, but it is true or false'),
    ("path=vpp", "--set path: unknown path 'vpp'; did you mean 'vp'?"),
    ("path.sigma_min=5", "--set path.sigma_min: 5 given, but input should be"),
    ("training.batch_images=0", "training.batch_images: 0 given, but input should be greater than or equal to 1"),
    ("training.total_images=many", 'training.total_images: "many" given, but input should be a valid integer'),
    ("objective=ddpm", "objective: unknown objective 'ddpm'"),
    ("data.size=30", "image size 30 is not divisible by 4"),
    ("evaluation.features=inception", "evaluation.features: unknown features 'inception'"),
    ('evaluation.grid=[{solver="eulr", nfe=3}]', "evaluation.grid.0: unknown solver 'eulr'; did you mean 'euler'?"),
    ('evaluation.grid=[{solver="midpoint", nfe=3}]', "evaluation.grid.0: midpoint"),
    ("training.coupling=ot", "training.coupling: unknown coupling 'ot'"),
    ("training.schedule=linear", "training.schedule: unknown schedule 'linear'"),
    ("training.precision=fp16", 'training.precision: "fp16" given, but'),  # jumps' derivatives overflow in it
    ("nonsense", "'nonsense' is not of the form key=value"),
]


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_loads_and_says_everything(name: str) -> None:
    import tomllib

    recipe = Recipe.load(name)
    recipe.check()
    assert recipe.name == name
    said = tomllib.loads(presets.file(name).read_text())
    assert _without_nones(recipe.model_dump(mode="json")) == _without_nones(said)


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_wrong_value_is_one_sentence(change: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        Recipe.load("demo", [change]).check()
    assert message in str(error.value) and "demo.toml" not in str(error.value)
    assert "\n" not in str(error.value)


def test_changes() -> None:
    changes = ["training.max_seconds=none", "training.micro_batch_images=16", "data.method=center-crop"]
    recipe = Recipe.load("demo", changes)
    assert recipe.training.max_seconds is None
    assert recipe.training.micro_batch_images == 16
    assert recipe.data.method == "center-crop"


def test_another_member_of_a_family_takes_its_defaults() -> None:
    for change in ("path=vp", "path.kind=vp"):
        assert Recipe.load("demo", [change]).path == VPPath()
    assert Recipe.load("demo", ["path=vp", "path.beta_max=10"]).path == VPPath(beta_max=10.0)


def test_a_key_missing_in_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(presets.file("demo").read_text().replace("\nnll_k = 1\n", "\n"))
    with pytest.raises(SettingsError, match=r"mine\.toml: evaluation\.nll_k: is missing"):
        Recipe.load(tmp_path / "mine.toml")
    (tmp_path / "mine.toml").write_text(presets.file("demo").read_text().replace("clip_norm", "clip_nrm"))
    with pytest.raises(SettingsError, match="did you mean 'clip_norm'"):
        Recipe.load(tmp_path / "mine.toml")
    (tmp_path / "mine.toml").write_text("name = ")
    with pytest.raises(SettingsError, match="is not TOML"):
        Recipe.load(tmp_path / "mine.toml")


def test_an_unknown_preset_or_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown preset 'dmo'; did you mean 'demo'"):
        Recipe.load("dmo")
    with pytest.raises(UserError, match="no such RUN or recipe file"):
        Recipe.load(tmp_path / "run")


def test_digests_tell_training_from_measuring() -> None:
    demo = Recipe.load("demo")
    other = Recipe.load("demo", ["evaluation.samples=50"])
    named = Recipe.load("demo", ["name=other"])
    assert demo.digest() != other.digest()
    assert demo.training_digest() == other.training_digest() == named.training_digest()
    assert demo.digest() == named.digest()
    assert demo.training_digest() != Recipe.load("demo", ["training.seed=1"]).training_digest()
    kept = ["training.keep=7", "training.keep_every_images=99", "training.report_images=9", "training.save_images=9"]
    assert demo.training_digest() == Recipe.load("demo", kept).training_digest()


def test_a_run_keeps_its_training_and_may_be_measured_anew(tmp_path: Path) -> None:
    def start(*changes: str) -> Path:
        with opened(tmp_path / "run", Recipe.load("demo", changes)) as run:
            return run

    run = start()
    assert Recipe.load(run) == Recipe.load("demo")
    start("evaluation.samples=50")
    assert Recipe.load(run).evaluation.samples == 50
    start("training.seed=1")  # nothing is trained yet
    start()
    (run / "checkpoints" / "000000000064").mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"training\.batch_images 64, now 128.*choose another RUN"):
        start("training.batch_images=128")


def test_a_second_start_beside_the_first_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "run", Recipe.load("demo")) as run:
        before = (run / "recipe.json").read_bytes()
        with (
            pytest.raises(UserError, match="another run is at work here"),
            opened(run, Recipe.load("demo", ["training.seed=1"])),
        ):
            pass
        assert (run / "recipe.json").read_bytes() == before


def test_a_presets_name_means_the_preset_and_a_path_never_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with opened("tiny", Recipe.load("demo")):
        pass
    assert Recipe.load("tiny").name == "tiny"
    assert Recipe.load(Path("tiny")).name == "demo"


def test_differences_name_the_leaves() -> None:
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}) == ["a.b 1, now 3"]


def test_the_network_follows_from_the_seed_alone() -> None:
    recipe = Recipe.load("tiny")
    torch.manual_seed(123)
    first, _ = recipe.build(recipe.data.shape, None)
    torch.manual_seed(456)
    before = torch.random.get_rng_state()
    second, _ = recipe.build(recipe.data.shape, None)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_run_without_a_checkpoint_is_said(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "run", Recipe.load("tiny")) as run,
        pytest.raises(UserError, match=r"data\.json: no such file"),
    ):
        load(run)


def _without_nones(values: object) -> object:
    if isinstance(values, dict):
        return {key: _without_nones(value) for key, value in values.items() if value is not None}
    if isinstance(values, list):
        return [_without_nones(value) for value in values]
    return json.loads(json.dumps(values))


@pytest.mark.parametrize("objective", ["noise_matching", "score_matching_scaled", "score_flow_raw"])
def test_an_objective_that_cannot_be_sampled_on_its_path_is_refused_before_the_training(objective: str) -> None:
    Recipe.load("tiny", ["path=vp", f"objective={objective}"]).check()
    Recipe.load("tiny", ["path=ve", f"objective={objective}"]).check()
    with pytest.raises(SettingsError, match=f"objective: {objective} has no velocity to sample with"):
        Recipe.load("tiny", ["path=ot", f"objective={objective}"]).check()


def test_jumps_want_a_network_that_predicts_them_without_dropout_and_unguided() -> None:
    jump, objective = 'evaluation.grid=[{solver="jump",nfe=1}]', "objective=mean_flow"
    Recipe.load("tiny", [jump, objective]).check()
    model, target = Recipe.load("tiny", [jump, objective]).build((3, 16, 16), None)
    assert target.jumps and hasattr(model, "jump_embed")
    plain, told = Recipe.load("tiny").build((3, 16, 16), None)[0].state_dict(), model.state_dict()
    assert all(torch.equal(told[name], weight) for name, weight in plain.items()) and len(told) == len(plain) + 4
    guided = 'evaluation.grid=[{solver="jump",nfe=1,guidance=1}]'
    wrong = {
        "jump takes a network that predicts mean velocities; train with objective=mean_flow": [jump],
        "model.dropout: a jump's target": [objective, "model.dropout=0.1"],
        "training.fsdp: the targets of jumps": [objective, "training.fsdp=true"],
        "a jump is not guided": [objective, guided, "class_conditional=true", "training.label_drop=0.1"],
    }
    for message, changes in wrong.items():
        with pytest.raises(SettingsError, match=message):
            Recipe.load("tiny", changes).check(workers=2)


def test_a_guide_is_a_network_of_the_same_kind(tmp_path: Path) -> None:
    def run(name: str, *changes: str, shape: tuple[int, ...] = (3, 16, 16)) -> Path:
        write_json(tmp_path / name / "recipe.json", Recipe.load("tiny", changes).model_dump(mode="json"))
        write_json(tmp_path / name / "data.json", {"data": "", "digest": "d", "shape": shape, "classes": ["a", "b"]})
        return tmp_path / name

    own = run("own")
    check_guide(own, run("weaker", "model.channels=64"))
    wrong = {
        r"objective mean_flow \(here flow_matching\)": run("other", "objective=mean_flow"),
        r"path VPPath\(.*\) \(here OTPath\(sigma_min=0.0001, .*\)": run("path", "path=vp"),
        r"path OTPath\(sigma_min=0.01, .*\) \(here OTPath\(sigma_min=0.0001, .*\)": run("width", "path.sigma_min=0.01"),
        r"shape 3x8x8 \(here 3x16x16\)": run("shape", shape=(3, 8, 8)),
        r"classes a, b \(here none\)": run("classes", "class_conditional=true"),
    }
    for says, guide in wrong.items():
        with pytest.raises(SettingsError, match=f"another kind: {says}; name a weaker RUN of the same kind"):
            check_guide(own, guide)


@pytest.mark.parametrize("text", ["[1]", '"x"', '{"a": 1}', "null"])
def test_files_of_a_run_that_are_not_ours_are_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(SettingsError, match=r"recipe.json"):
        Recipe.load(tmp_path)


def test_a_part_that_a_preset_leaves_out_is_begun_by_its_first_setting() -> None:
    changes = ["evaluation.along.solver=euler", "evaluation.along.nfe=4"]
    along = Recipe.load("tiny", changes).evaluation.along
    assert along is not None and (along.solver, along.nfe) == ("euler", 4)
    with pytest.raises(SettingsError, match=r"training\.keep_every_images is one value, without 'keep'"):
        Recipe.load("tiny", ["training.keep_every_images.keep=4"])


def test_a_recipe_says_its_method_in_a_word() -> None:
    assert Recipe.load("tiny").method == "fm-ot"
    assert Recipe.load("tiny", ["objective=noise_matching", "path=vp"]).method == "ddpm-vp"
    assert Recipe.load("tiny", ["objective=score_matching_raw", "path=vp"]).method == "score-matching-raw-vp"
