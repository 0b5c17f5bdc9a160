from fm.recipe import Recipe
from tasks import train

ROW = {"images_seen": 800, "seconds": 10.0, "loss": 0.5, "images_per_s": 80.0}


def test_progress_is_by_images_or_by_time_whichever_is_further() -> None:
    assert train._done(Recipe.load("tiny"), ROW) == 800 / Recipe.load("tiny").training.total_images
    limited = Recipe.load("tiny", ["training.max_seconds=20"])
    assert train._done(limited, ROW) == 0.5
    assert train._line(limited, ROW) == "800 images seen, loss 0.5000, 80 images/s, 50%, 10 s left"


def test_a_start_says_where_from_and_what_it_holds() -> None:
    row = {
        "restored": "resumed at 800 images (000000000900/ema.safetensors is damaged)",
        "workers": 2,
        "micro_batch_images": 16,
        "averages": {"ema": "half-life 500 kimg, 0.99 a step", "ema_5kimg": "half-life 5 kimg, 0.9 a step"},
    }
    assert train._started(row) == (
        "train: resumed at 800 images (000000000900/ema.safetensors is damaged), 2 workers, at most 16 images at once "
        "on each; ema: half-life 500 kimg, 0.99 a step; ema_5kimg: half-life 5 kimg, 0.9 a step"
    )
