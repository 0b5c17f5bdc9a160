import pytest

from fm.estimating.counting import count, h100_words
from fm.estimating.measuring import Data
from fm.recipe import Recipe


def test_the_head_says_what_is_trained_for_how_long_and_of_which_size() -> None:
    recipe = Recipe.load("tiny", ["training.total_images=6400"])
    known = count(recipe, Data("data", 500, (3, 16, 16), 0), workers=1)
    network, flops, sampling = known.text().splitlines()
    assert network == "tiny: 16 x 16 pixels, 0.706 M parameters, batches of 64, 6,400 images seen, 1 worker"
    assert flops.startswith(
        "the training by FLOP, not measured: 2.4e+12 FLOP, 0.0000033 H100-hours in bf16, 0.0000047 in tf32, "
        "0.000018 in fp32 ("
    )
    assert sampling.startswith("sampling, counted: ") and sampling.endswith(
        " beside the weights for 20 images drawn at once"
    )
    larger = count(recipe, Data("data", 500, (3, 32, 32), 0), workers=1)
    assert "tiny: 32 x 32 pixels of DATA (the preset's are 16 x 16)," in larger.text()
    values = larger.values()
    assert values["training_flops"] == pytest.approx(4 * known.flops, rel=0.1)
    assert values["h100_hours_by_flops"] == pytest.approx(values["training_flops"] / 989e12 / 0.2 / 3600)


def test_hours_are_told_in_the_precision_that_trains() -> None:
    hour = 989e12 * 0.2 * 3600
    assert h100_words(79 * hour, "bf16") == "79 H100-hours in bf16"
    assert h100_words(79 * hour, "fp32") == "79 H100-hours in bf16, 110 in tf32, 430 in fp32"
    assert h100_words(79 * hour, "tf32") == "79 H100-hours in bf16, 110 in tf32"
