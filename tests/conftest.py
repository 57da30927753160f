"""Tests run on one thread: their tensors are small, and two idle cores beat two contended ones."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the processes that tests start

import torch

torch.set_num_threads(1)
