"""What is asked of a GPU is asked, and put back; a CPU is left alone. What comes of it: test_on_gpu.py."""

import pytest
import torch

from fm.arithmetic import as_asked, backward, full_precision

FLAGS = (torch.backends.cudnn, "allow_tf32"), (torch.backends.cuda.matmul, "allow_tf32")


def flags() -> list[bool]:
    return [getattr(*flag) for flag in FLAGS] + [torch.backends.cudnn.deterministic]


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_taken_as_asked_and_all_is_put_back(tf32: bool) -> None:
    before = flags()
    with pytest.raises(KeyError), as_asked(torch.device("cuda"), tf32):
        assert flags() == [tf32, tf32, True]
        raise KeyError
    assert flags() == before
    with as_asked(torch.device("cpu"), tf32):
        assert flags() == before


def test_on_a_cpu_the_backward_pass_is_torchs() -> None:
    x = torch.ones(3, requires_grad=True)
    backward(x.square().sum(), compiled=False)
    assert x.grad is not None and x.grad.eq(2).all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_full_precision_puts_things_back() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), full_precision(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before[0])
