"""In what a comparison differs from the paper's recipes (Table 3), and what those leave open: each with our value."""

from collections.abc import Callable
from typing import NamedTuple

from fm.errors import several
from fm.paper.methods import OT, TABLE_1, K
from fm.paper.plan import Plan
from fm.recipe import Recipe

OPEN = "not stated"
NO_DATA = "no such data set"
TF_GAN = "Inception, TensorFlow-GAN"

SPLITS = {"heldout": "held-out", "training": "training"}
FORMS = {"raw": "raw (the score)", "scaled": "scaled (the noise)"}
PRECISIONS = {"fp32": "32-bit", "tf32": "32-bit with products in tf32", "bf16": "16-bit mixed, bf16"}


class Setting(NamedTuple):
    """A setting in words; `paper` by data set, or for all of them, with a remark in brackets; ours from the recipe."""

    words: str
    paper: dict[str, str] | str
    ours: Callable[[Recipe], str]


def _each(cifar10: str, imagenet32: str, imagenet64: str, imagenet128: str) -> dict[str, str]:
    return {"cifar10": cifar10, "imagenet32": imagenet32, "imagenet64": imagenet64, "imagenet128": imagenet128}


def _network(recipe: Recipe) -> str:
    """`256 channels, 2 blocks, 1-2-2-2`, as the paper's tables say it."""
    model = recipe.model.model_dump()
    if "channels" not in model:
        return str(model["kind"])
    patch = f", patches of {model['patch']} px" if model.get("patch", 1) > 1 else ""
    skip = ", an input skip" * bool(model.get("input_skip"))
    multiples = "-".join(map(str, model["multiples"]))
    return f"{model['channels']} channels, {several(model['blocks'], 'block')}, {multiples}{patch}{skip}"


def _attention(recipe: Recipe) -> str:
    model = recipe.model.model_dump()
    return "-".join(map(str, model.get("attention_resolutions", []))) or "none"


def _rate(recipe: Recipe) -> str:
    own = recipe.training
    return f"{own.learning_rate:g}, {own.schedule}, {own.warmup_images // own.batch_images:,} steps of warm-up"


def _of_model(key: str) -> Callable[[Recipe], str]:
    return lambda recipe: str(recipe.model.model_dump().get(key, "none"))


def _ema(recipe: Recipe) -> str:
    lives = ", ".join(f"{life:,.0f}" for life in recipe.training.ema_halflife_kimg)
    return f"half-life {lives} thousand images, ramp {recipe.training.ema_ramp:g}" if lives else "none"


def _dopri(recipe: Recipe) -> str:
    tolerances = {f"{point.tolerance:g}" for point in recipe.evaluation.grid if point.tolerance}
    return f"dopri5 at {', '.join(sorted(tolerances))}"


def _training_precision(recipe: Recipe) -> str:
    return PRECISIONS[recipe.training.precision]


def _sampling_precision(recipe: Recipe) -> str:
    return PRECISIONS[recipe.evaluation.sampling_precision]


SETTINGS = (
    Setting(
        "images seen",
        _each(
            "100,096,000 (391k steps; the text says 1,000 epochs)",
            "256,000,000",
            "321,536,000",
            "768,000,000 (500k steps; 571 epochs are 732,000,000)",
        ),
        lambda r: f"{r.training.total_images:,}",
    ),
    Setting("dropout", _each("0", "0", "0", "0"), lambda r: f"{r.model.model_dump().get('dropout', 0):g}"),
    Setting("channels of a head", _each("64", "64", "64", "64"), _of_model("head_channels")),
    Setting("coupling of noise and image", "independent", lambda r: r.training.coupling),
    Setting("global batch", _each("256", "1,024", "2,048", "1,536"), lambda r: f"{r.training.batch_images:,}"),
    Setting(
        "network",
        _each(
            "256 channels, 2 blocks, 1-2-2-2",
            "256 channels, 3 blocks, 1-2-2-2",
            "192 channels, 3 blocks, 1-2-3-4",
            "256 channels, 3 blocks, 1-1-2-3-4",
        ),
        _network,
    ),
    Setting("attention at", _each("16", "16-8", "32-16-8", "32-16-8"), _attention),
    Setting(
        "scale-shift norm and up/down blocks",
        OPEN,
        lambda r: f"{_of_model('scale_shift')(r)}, {_of_model('updown_blocks')(r)}",
    ),
    Setting(
        "learning rate",
        _each(
            "0.0005, polynomial, 45,000 steps of warm-up",
            "0.0001, polynomial, 20,000 steps of warm-up",
            "0.0001, constant, 0 steps of warm-up",
            "0.0001, polynomial, 20,000 steps of warm-up",
        ),
        _rate,
    ),
    Setting("precision of training", _each("32-bit", "32-bit", "16-bit mixed", "16-bit mixed"), _training_precision),
    Setting("precision of sampling", OPEN, _sampling_precision),
    Setting("scale of the time in the network's embedding", OPEN, _of_model("time_scale")),
    Setting("sigma_min of the OT path", OPEN, lambda r: f"{getattr(r.path, 'sigma_min', None)}"),
    Setting("law of t in training", "uniform", lambda r: r.training.times.kind),
    Setting("average of the weights (EMA)", OPEN, _ema),
    Setting("clipping of the gradient norm", OPEN, lambda r: f"{r.training.clip_norm}"),
    Setting("horizontal flips", OPEN, lambda r: "yes" if r.training.flips else "no"),
    Setting(
        "divergence's probe",
        f"{OPEN}; most likely one per dequantisation draw",
        lambda r: f"Rademacher, {r.evaluation.nll_probe}",
    ),
    Setting(
        "dequantisation draws K", {key: str(K.get(key, OPEN)) for key in TABLE_1}, lambda r: f"{r.evaluation.nll_k}"
    ),
    Setting("solver of likelihood and distance", "dopri5 at 1e-05", _dopri),
    Setting("batch of dopri5 (joint step control)", OPEN, lambda r: f"{r.evaluation.batch}"),
    Setting(
        "features of the distance",
        _each(TF_GAN, TF_GAN, TF_GAN, "Inception, guided-diffusion's evaluator"),
        lambda r: r.evaluation.features,
    ),
    Setting("samples of the distance", "50,000", lambda r: f"{r.evaluation.samples:,}"),
    Setting(
        "reference of the distance",
        f"{OPEN}; the norm is the training set",
        lambda r: f"{r.evaluation.reference_images:,} {SPLITS[r.evaluation.reference_split]} images",
    ),
    Setting("images of the likelihood", _each("10,000", "50,000", "50,000", "50,000"), lambda r: _scored(r)),
    Setting("decoding of samples", OPEN, lambda r: "floor((x + 1) 128), clipped: the inverse of the dequantisation"),
)


def _scored(recipe: Recipe) -> str:
    counts = [recipe.evaluation.nll_images, *(point.nll_images or 0 for point in recipe.evaluation.grid)]
    return f"{max(counts):,}"


def settings_table(plan: Plan) -> list[list[str]]:
    """A line for each setting that differs from the paper or that it leaves open: its name, the paper's value, ours."""
    ot = next((one.recipe for one in plan.members if one.method.name == OT), plan.recipe)
    found = [(s.words, _paper(s, plan.dataset.key), s.ours(ot)) for s in SETTINGS]
    forms = [method.form for method in plan.methods if method.form]
    found += [("what a score network's output means", OPEN, ", ".join(FORMS[f] for f in dict.fromkeys(forms)))] * bool(
        forms
    )
    found += [(f"{key} (--set)", f"preset {plan.dataset.preset}", value) for key, _, value in _given(plan)]
    return [["setting", "the paper", "here"], *([*line] for line in found if not _equal(*line[1:]))]


def _given(plan: Plan) -> list[tuple[str, str, str]]:
    """What the user changed in every recipe: key, sign, value."""
    return [change.partition("=") for change in plan.changes]


def _equal(paper: str, ours: str) -> bool:
    """Whether two values are one, whatever the remark in brackets behind the paper's."""
    return ours in (paper, paper.partition(" (")[0])


def _paper(setting: Setting, key: str) -> str:
    return setting.paper if isinstance(setting.paper, str) else setting.paper.get(key, NO_DATA)
