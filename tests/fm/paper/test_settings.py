from fm.paper.plan import planned
from fm.paper.settings import NO_DATA, OPEN, settings_table


def told(*plan, **more):
    return {line[0]: line[1:] for line in settings_table(planned(*plan, **more))}


def test_what_the_paper_leaves_open_is_said_with_our_value():
    found = told("cifar10", "full")
    for words in ("scale of the time in the network's embedding", "sigma_min of the OT path", "horizontal flips"):
        assert found[words][0] == OPEN and found[words][1]
    assert found["divergence's probe"][1] == "Rademacher, both"
    assert found["features of the distance"] == ["Inception, TensorFlow-GAN", "inception_legacy_tensorflow"]


def test_what_is_as_in_the_paper_is_left_out():
    assert not {"global batch", "network", "law of t in training", "learning rate"} & told("cifar10", "full").keys()
    assert told("cifar10")["global batch"] == ["256", "64"]
    assert told("cifar10", changes=["training.batch_images=256"]).keys() & {"global batch"} == set()


def test_values_that_are_equal_but_for_words_are_left_out():
    found = told("cifar10", "full", changes=["training.total_images=100_096_000"])
    assert not {"images seen", "precision of training"} & found.keys()
    assert found["precision of sampling"] == [OPEN, "32-bit"]
    other = told("cifar10", "full", changes=["training.precision=tf32", "training.total_images=100_096_256"])
    assert other["precision of training"][1] == "32-bit with products in tf32" and "images seen" in other


def test_imagenet_128_states_no_draws():
    assert told("imagenet128", "full")["dequantisation draws K"][0] == OPEN


def test_of_data_that_the_paper_has_not_it_says_nothing():
    assert told("photos")["images seen"] == [NO_DATA, "120,000"]
    assert told("photos")["network"][1] == "32 channels, 1 block, 1-1, patches of 2 px, an input skip"


def test_what_was_changed_by_hand_is_listed():
    found = told("cifar10", "full", changes=["model.dropout=0.3", "training.report_images=512"])
    assert found["dropout"] == ["0", "0.3"]
    assert found["training.report_images (--set)"] == ["preset cifar10", "512"]


def test_only_the_forms_that_were_trained_are_named():
    words = "what a score network's output means"
    assert told("photos")[words][1] == "raw (the score), scaled (the noise)"
    assert told("photos", methods=["fm-ot", "score-matching-raw"])[words][1] == "raw (the score)"
    assert words not in told("photos", methods=["fm-ot"])
