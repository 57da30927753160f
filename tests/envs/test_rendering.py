"""Rendering in chunks."""

import torch

from envs.rendering import CHUNK_BYTES, chunks


def test_chunks_fit_a_core_s_cache_and_are_few_elsewhere():
    floats = 3 * 64 * 64
    ours = chunks(1000, floats, torch.device("cpu"))
    assert (ours.step + 1) * 4 * floats > CHUNK_BYTES >= ours.step * 4 * floats
    assert len(chunks(1000, floats, torch.device("cuda"))) == 1
    assert chunks(3, CHUNK_BYTES, torch.device("cpu")).step == 1  # an image is never cut
