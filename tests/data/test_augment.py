from __future__ import annotations

import pytest
import torch

from robustreg.data import horizontal_flip, random_crop
from robustreg.data.augment import augmentation, compose


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_every_crop_is_a_window_of_the_padded_image(dtype):
    x = torch.randint(1, 256, (64, 3, 6, 5), generator=gen()).to(dtype)
    out = random_crop(x, 2, gen(1))
    assert out.shape == x.shape
    assert out.dtype == dtype
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    for i in range(len(x)):
        windows = [padded[i, :, r : r + 6, c : c + 5] for r in range(5) for c in range(5)]
        assert sum(torch.equal(out[i], window) for window in windows) == 1


def test_crop_places_are_uniform():
    x = torch.zeros(20000, 1, 3, 3)
    x[:, 0, 1, 1] = 1
    out = random_crop(x, 1, gen(2))
    share = out.mean(0)[0]  # where the centre pixel went: nine places alike
    assert share.sum() == pytest.approx(1)
    assert (share - 1 / 9).abs().max() < 4 * (1 / 9 * 8 / 9 / 20000) ** 0.5


def test_flip_mirrors_about_half_of_the_images_and_no_rows():
    x = torch.rand(4000, 2, 3, 4, generator=gen())
    out = horizontal_flip(x, gen(3))
    kept = (out == x).flatten(1).all(1)
    mirrored = (out == x.flip(-1)).flatten(1).all(1)
    assert bool((kept ^ mirrored).all())
    assert abs(mirrored.float().mean() - 0.5) < 4 * 0.5 / 4000**0.5


def test_draws_come_from_the_generator_alone():
    x = torch.rand(16, 3, 8, 8, generator=gen())
    steps = compose(["crop2", "flip"])
    state = torch.get_rng_state()
    one, again, other = steps(x, gen(5)), steps(x, gen(5)), steps(x, gen(6))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_composition_is_in_order_and_takes_functions():
    x = torch.rand(4, 1, 4, 4, generator=gen())
    g = gen(7)
    by_hand = horizontal_flip(random_crop(x, 1, g), g) * 2
    assert torch.equal(compose(["crop1", "flip", lambda v, _: v * 2])(x, gen(7)), by_hand)


@pytest.mark.parametrize("name", ["crop", "crop0", "crop-1", "flp", "crop4x"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=f"unknown augmentation '{name}'.*there are 'flip' and 'cropN'"):
        augmentation(name)


def test_a_text_is_no_list():
    with pytest.raises(ValueError, match="a list of names, got the text 'flip'"):
        compose("flip")
