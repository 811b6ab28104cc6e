"""Channels innermost in memory, also where there is one; and how much memory there is."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from workers.adaptation.layout import channels_last, laid_out
from workers.adaptation.memory import DEFAULT_SHARE, default_limit_bytes, keep_freed_memory


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("leading", [(), (2,)])
def test_channels_are_innermost_and_values_the_same(channels: int, leading: tuple[int, ...]) -> None:
    images = torch.randn(*leading, 4, channels, 5, 6)
    laid = channels_last(images)
    assert torch.equal(laid, images)
    assert laid.stride()[-3:] == (1, 6 * channels, channels)
    assert laid.movedim(-3, -1).is_contiguous()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_convolution_of_such_images_goes_on_in_that_layout(channels: int) -> None:
    filters = torch.randn(8, channels, 3, 3)
    outputs = functional.conv2d(channels_last(torch.randn(2, channels, 6, 6)), channels_last(filters))
    assert outputs.is_contiguous(memory_format=torch.channels_last)


def test_what_is_no_image_and_what_is_to_be_contiguous_stays_as_it_is() -> None:
    matrix, images = torch.randn(3, 4), torch.randn(2, 3, 4, 4)
    assert channels_last(matrix) is matrix
    assert laid_out(images, "contiguous") is images
    assert torch.equal(laid_out(images, "channels_last"), images)


def test_the_default_limit_is_a_share_of_what_is_free() -> None:
    assert 0 < DEFAULT_SHARE < 1
    assert 2**20 < default_limit_bytes(torch.device("cpu")) < 2**50


def test_asking_to_keep_freed_memory_does_no_harm() -> None:
    assert keep_freed_memory() in (True, False)
    assert torch.ones(10**6).sum() == 10**6
