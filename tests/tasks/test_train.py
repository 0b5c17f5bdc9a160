from fm.recipe import Recipe
from tasks import train

ROW = {"images_seen": 800, "seconds": 10.0, "loss": 0.5, "images_per_s": 80.0}


def test_progress_is_by_images_or_by_time_whichever_is_further() -> None:
    assert train._done(Recipe.load("tiny"), ROW) == 800 / Recipe.load("tiny").training.total_images
    limited = Recipe.load("tiny", ["training.max_seconds=20"])
    assert train._done(limited, ROW) == 0.5
    assert train._line(limited, ROW) == "800 images seen, loss 0.5000, 80 images/s, 50%, 10 s left"
