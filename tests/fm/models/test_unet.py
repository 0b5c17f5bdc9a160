"""ADM's network: names, shapes and counts as published; what is computed, against the formula written plainly."""

import math

import pytest
import torch
import torch.nn.functional as F

from fm.errors import SettingsError
from fm.models import UNet, UNetSettings
from fm.models.blocks import AttentionBlock, GroupNorm32, time_embedding

SMALL = {"channels": 32, "multiples": (1, 2), "blocks": 1, "attention_resolutions": (8,), "head_channels": 16}


def random_weights(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Zero-initialised layers hide everything before them."""
    torch.manual_seed(seed)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net


# channels, multiples, blocks, attention, size; millions of parameters, scale-shift and up/down blocks on, off
PUBLISHED = {
    "cifar10": (256, (1, 2, 2, 2), 2, (16,), 32, 171.27, 142.86),
    "imagenet32": (256, (1, 2, 2, 2), 3, (16, 8), 32, 228.15, 196.07),
    "imagenet64": (192, (1, 2, 3, 4), 3, (32, 16, 8), 64, 295.13, 264.90),
    "imagenet128": (256, (1, 1, 2, 3, 4), 3, (32, 16, 8), 128, 542.80, 485.02),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_equal_the_published_pairs(name: str) -> None:
    channels, multiples, blocks, attention, size, *published = PUBLISHED[name]
    for both, millions in zip((True, False), published, strict=True):
        with torch.device("meta"):
            net = UNet(size, channels, multiples, blocks, attention, 64, scale_shift=both, updown_blocks=both)
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.0051)


def test_names_and_shapes_are_those_of_adm() -> None:
    with torch.device("meta"):
        blocks = {n: tuple(p.shape) for n, p in UNet(16, **SMALL, classes=4).state_dict().items()}
        plain = {
            n: tuple(p.shape) for n, p in UNet(16, **SMALL, scale_shift=False, updown_blocks=False).state_dict().items()
        }
    expected = {
        "time_embed.0.weight": (128, 32),
        "time_embed.2.bias": (128,),
        "label_emb.weight": (4, 128),
        "input_blocks.0.0.weight": (32, 3, 3, 3),
        "input_blocks.1.0.in_layers.0.weight": (32,),
        "input_blocks.1.0.in_layers.2.weight": (32, 32, 3, 3),
        "input_blocks.1.0.emb_layers.1.weight": (64, 128),
        "input_blocks.1.0.out_layers.0.bias": (32,),
        "input_blocks.1.0.out_layers.3.weight": (32, 32, 3, 3),
        "input_blocks.2.0.out_layers.3.weight": (32, 32, 3, 3),
        "input_blocks.3.0.skip_connection.weight": (64, 32, 1, 1),
        "input_blocks.3.1.qkv.weight": (192, 64, 1),
        "middle_block.1.norm.weight": (64,),
        "middle_block.1.proj_out.weight": (64, 64, 1),
        "middle_block.2.out_layers.3.bias": (64,),
        "output_blocks.0.0.in_layers.2.weight": (64, 128, 3, 3),
        "output_blocks.1.2.in_layers.2.weight": (64, 64, 3, 3),
        "output_blocks.3.0.in_layers.0.weight": (64,),
        "out.0.weight": (32,),
        "out.2.bias": (3,),
    }
    assert expected.items() <= blocks.items()
    resized = {"input_blocks.2.0.op.weight": (32, 32, 3, 3), "output_blocks.1.2.conv.weight": (64, 64, 3, 3)}
    assert resized.items() <= plain.items() and plain["input_blocks.1.0.emb_layers.1.weight"] == (32, 128)
    assert "label_emb.weight" not in plain


def settings_of(peer: dict) -> dict:
    """What our network is built of where torchcfm's is built of `peer`."""
    return {
        "image_size": peer["dim"][-1],
        "channels": peer["num_channels"],
        "multiples": peer["channel_mult"],
        "blocks": peer["num_res_blocks"],
        "attention_resolutions": [int(size) for size in peer["attention_resolutions"].split(",")],
        "head_channels": peer.get("num_head_channels", 1),
        "heads": None if "num_head_channels" in peer else peer.get("num_heads", 1),
        "scale_shift": peer.get("use_scale_shift_norm", False),
        "updown_blocks": peer.get("resblock_updown", False),
        "new_attention_order": peer.get("use_new_attention_order", False),
        "classes": peer["num_classes"] if peer.get("class_cond") else None,
        "in_channels": peer["dim"][0],
        "out_channels": peer["dim"][0] * (2 if peer.get("learn_sigma") else 1),
        "time_scale": 1.0,
    }


# The last two are torchcfm's recipe for CIFAR-10 and guided-diffusion's for ImageNet 64, with fewer channels.
TORCHCFM = {
    "defaults": {},
    "heads": {"num_heads": 4, "channel_mult": (2, 2), "attention_resolutions": "16,8"},
    "new order": {"num_heads": 2, "use_new_attention_order": True, "use_scale_shift_norm": True},
    "classes": {"class_cond": True, "num_classes": 5, "num_head_channels": 16},
    "learnt sigma": {"learn_sigma": True, "dim": (1, 16, 16), "resblock_updown": True},
    "cifar10": {"dim": (3, 32, 32), "channel_mult": (1, 2, 2, 2), "num_res_blocks": 2, "num_heads": 4,
                "num_head_channels": 64, "attention_resolutions": "16", "dropout": 0.1, "num_channels": 64},
    "imagenet64": {"dim": (3, 64, 64), "channel_mult": (1, 2, 3, 4), "num_res_blocks": 3, "num_head_channels": 32,
                   "attention_resolutions": "32,16,8", "use_scale_shift_norm": True, "resblock_updown": True,
                   "use_new_attention_order": True, "class_cond": True, "num_classes": 1000},
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHCFM)
def test_torchcfm_s_weights_load_strictly_and_give_its_outputs(name: str) -> None:
    from torchcfm.models.unet import UNetModel

    small = {"dim": (3, 16, 16), "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2)}
    peer = {**small, "attention_resolutions": "8", **TORCHCFM[name]}
    theirs, ours = random_weights(UNetModel(**peer)).eval(), UNet(**settings_of(peer)).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, t = torch.randn(2, *peer["dim"]), torch.rand(2)
    y = torch.tensor([1, 4]) if peer.get("class_cond") else None
    with torch.no_grad():
        expected, found = theirs(t, x, y), ours(x, t, y)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_without_convolutions_sizes_change_by_mean_and_repetition() -> None:
    """As flow_matching's example for CIFAR-10 has it, and torchcfm's class does not hand through."""
    from torchcfm.models.unet.unet import UNetModel

    theirs = random_weights(UNetModel(16, 3, 32, 3, 1, (2,), channel_mult=(1, 2), conv_resample=False)).eval()
    ours = UNet(16, **SMALL, heads=1, scale_shift=False, updown_blocks=False, resample_conv=False, time_scale=1.0)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, t = torch.randn(2, 3, 16, 16), torch.rand(2)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t), theirs(t, x), rtol=0, atol=1e-5 * float(theirs(t, x).abs().max()))


@pytest.mark.parametrize("both", [True, False])
def test_output_is_zero_at_the_start_and_shaped_like_x(both: bool) -> None:
    net = UNet(16, **SMALL, scale_shift=both, updown_blocks=both)
    out = net(torch.randn(2, 3, 16, 16), torch.rand(2))
    assert out.shape == (2, 3, 16, 16) and out.eq(0).all()


def test_attention_is_the_formula_with_q_k_v_head_by_head() -> None:
    block = random_weights(AttentionBlock(64, heads=4)).double()
    x = torch.randn(2, 64, 4, 4, dtype=torch.float64)
    qkv = F.conv1d(block.norm(x).flatten(2), block.qkv.weight, block.qkv.bias)
    heads = []
    for head in qkv.split(3 * 16, dim=1):
        q, k, v = head.split(16, dim=1)
        weights = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / math.sqrt(16), dim=-1)
        heads.append(torch.einsum("bts,bcs->bct", weights, v))
    expected = x + F.conv1d(torch.cat(heads, 1), block.proj_out.weight, block.proj_out.bias).view_as(x)
    torch.testing.assert_close(block(x, torch.empty(0)), expected)


def test_time_embedding_is_cosines_then_sines() -> None:
    t = torch.tensor([0.0, 0.5], dtype=torch.float64)
    frequencies = [1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)]
    expected = [[f(w * s) for f in (math.cos, math.sin) for w in frequencies] for s in t.tolist()]
    torch.testing.assert_close(time_embedding(t, 6), torch.tensor(expected, dtype=torch.float64))


def test_time_scale_multiplies_t() -> None:
    one, thirty = (random_weights(UNet(16, **SMALL, time_scale=scale)) for scale in (1.0, 30.0))
    x, t = torch.randn(2, 3, 16, 16), torch.rand(2)
    torch.testing.assert_close(one(x, 30 * t), thirty(x, t))


def test_labels_and_the_label_that_is_none() -> None:
    net = random_weights(UNet(16, **SMALL, classes=4))
    x, t = torch.randn(1, 3, 16, 16).expand(3, -1, -1, -1), torch.full((3,), 0.5)
    free, mixed = net(x, t), net(x, t, torch.tensor([-1, 0, 3]))
    torch.testing.assert_close(mixed[0], free[0])
    assert not torch.allclose(mixed[1], free[1]) and not torch.allclose(mixed[1], mixed[2])


def test_under_autocast_times_near_one_stay_apart() -> None:
    net = random_weights(UNet(16, **SMALL))
    t = torch.tensor([0.9990, 0.9999])
    with torch.autocast("cpu", torch.bfloat16):
        emb = net.embed(t, None)
        out = net(torch.randn(2, 3, 16, 16), t)
    assert emb.dtype == out.dtype == torch.float32
    torch.testing.assert_close(emb, net.embed(t, None), rtol=0, atol=0)
    assert not torch.equal(emb[0], emb[1])


def test_group_norm_is_computed_in_float32_at_least() -> None:
    norm, x = GroupNorm32(32), 100 + torch.randn(2, 32, 4, 4)
    half = norm(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, norm(x.bfloat16().float()).bfloat16())
    assert norm.double()(x.double()).dtype == torch.float64


def test_memory_layout_changes_rounding_only() -> None:
    net = random_weights(UNet(16, **SMALL)).double()
    x, t = torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.rand(2)
    plain = net(x, t)
    last = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), t)
    torch.testing.assert_close(plain, last)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"image_size": 30, "multiples": (1, 2, 2)},
            "image size 30 is not divisible by 4, as the multiples 1-2-2 require",
        ),
        ({"channels": 48}, "48 channels are not a multiple of 32"),
        ({"attention_resolutions": (10,)}, "no level of the network is 10 px wide; its levels are 16, 8 px"),
        ({"head_channels": 48}, "heads of 48 channels do not divide a level of 64"),
        ({"heads": 3}, "3 heads do not divide a level of 64"),
        ({"patch": 3}, "patches of 3 px do not tile images of 16 px"),
    ],
)
def test_sizes_that_do_not_fit_are_one_sentence(change: dict, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        UNet(**{"image_size": 16, **SMALL, **change})


def test_patches_are_the_same_network_on_folded_pixels() -> None:
    whole = random_weights(UNet(32, **SMALL, patch=2))
    folded = random_weights(UNet(16, **SMALL, in_channels=12, out_channels=12))
    folded.load_state_dict(whole.state_dict())
    x, t = torch.randn(2, 3, 32, 32), torch.rand(2)
    torch.testing.assert_close(whole(x, t), F.pixel_shuffle(folded(F.pixel_unshuffle(x, 2), t), 2))


def test_an_input_skip_adds_a_multiple_of_the_input_for_each_time() -> None:
    net = UNet(16, **SMALL, input_skip=True)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.2, 0.7])
    assert torch.equal(net(x, t), torch.zeros_like(x))  # at first nothing, as all of the network
    torch.nn.init.normal_(net.input_skip.weight)
    factors = net(x, t) / x
    torch.testing.assert_close(factors, factors[:, :1, :1, :1].expand_as(x))
    assert not torch.isclose(factors[0, 0, 0, 0], factors[1, 0, 0, 0])


def test_state_and_condition_have_a_skip_each() -> None:
    net = UNetSettings(**SMALL, input_skip=True).build((3, 16, 16), condition_channels=3)
    x, cond, t = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16), torch.tensor([0.2, 0.7])
    torch.nn.init.normal_(net.input_skip.weight)
    out, alone, other = (net(torch.cat(pair, 1), t) for pair in ((x, cond), (x, 0 * cond), (0 * x, cond)))
    torch.testing.assert_close(out, alone + other)
    for part, given in ((alone, x), (other, cond)):
        torch.testing.assert_close(part / given, (part / given)[:, :1, :1, :1].expand_as(x), rtol=1e-3, atol=1e-4)
    assert net.in_channels == 6 and out.shape == x.shape


def test_a_network_that_jumps_is_told_where_to_and_does_not_heed_it_at_first() -> None:
    net = UNetSettings(**SMALL).build((3, 16, 16), classes=4, jumps=True)
    x, t, y, h = torch.randn(2, 3, 16, 16), torch.tensor([0.2, 0.7]), torch.tensor([1, -1]), torch.tensor([0.5, 0.0])
    for parameter in set(net.parameters()) - set(net.jump_embed[2].parameters()):
        torch.nn.init.normal_(parameter, std=0.1)
    assert torch.equal(net(x, t, y, h=h), net(x, t, y))
    torch.nn.init.normal_(net.jump_embed[2].weight)
    far, still = net(x, t, y, h=h), net(x, t, y)
    assert not torch.isclose(far[0], still[0]).all() and torch.equal(far[1], still[1])
    plain = UNetSettings(**SMALL).build((3, 16, 16))
    assert not [name for name in plain.state_dict() if name.startswith("jump")]


def test_settings_build_for_the_data_at_hand() -> None:
    net = UNetSettings(**SMALL).build((1, 16, 16), classes=4)
    assert net(torch.randn(2, 1, 16, 16), torch.rand(2), torch.tensor([0, 3])).shape == (2, 1, 16, 16)
    with pytest.raises(SettingsError, match="wants square images"):
        UNetSettings(**SMALL).build((2,))
