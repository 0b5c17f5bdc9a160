import pickle

from fm.paper.methods import METHODS
from fm.paper.trained import Trained


def test_what_failed_at_once_holds_nothing_but_the_reason():
    one = Trained(METHODS["ddpm"], 1, "runs/ddpm-seed1", failed="out of memory")
    assert (one.rows, one.along, one.records, one.solving) == ((), (), (), ())
    assert pickle.loads(pickle.dumps(one)) == one
