from fm.paper.trained import Trained

from .conftest import trained_of


def test_a_training_carries_all_that_claims_read(trained) -> None:
    one = trained_of("fm-ot", 0)
    assert isinstance(one, Trained) and one in trained
    assert {row["images_seen"] for row in one.along} == {row["images_seen"] for row in one.solving}
