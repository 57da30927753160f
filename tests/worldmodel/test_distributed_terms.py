"""Two processes give the terms and gradients of one with the joint batch, for terms that are no means over rows."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from tests.worldmodel.factories import make, make_batch
from worldmodel.distributed import stop_process_group
from worldmodel.objectives import JEPAObjective

WEIGHTS = {
    "infonce": 1.0,
    "infonce:l2": 0.3,
    "action_contrast": 1.0,
    "barlow_twins": 0.5,
    "cosine_prediction": 1.0,
    "swav": 0.7,
    "reconstruction": 1e-4,
    "supervised": 1.0,
}
TERM_ARGS = {
    "infonce": {"negatives": "both"},
    "infonce:l2": {"metric": "l2", "decoupled": True, "features": [0.25, 0.875]},
    "action_contrast": {"num_shuffled": 4, "temperature": 0.05},
    "swav": {"num_prototypes": 6},
    "supervised": {"key": "position"},
}
LATENT_WEIGHTS = {"reconstruction": 1.0, "latent_kl": 0.1}
CASES = [
    ("patch-mlp", "every", "shared", 0),
    ("impala-transformer", "every", "ema", 0),
    ("patch-mlp", "every", "shared", 3),
]  # model, starts, target, latent_dim
STEP = 5
BATCH = 6  # windows of the joint batch


def weights_of(latent_dim):
    return LATENT_WEIGHTS if latent_dim else WEIGHTS


def objective(name, starts, target, latent_dim):
    model = make(name, target=target, latent_dim=latent_dim)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # an AdaLN-zero transformer ignores the action as it is drawn
        for weight in model.predictor.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    module = JEPAObjective(
        model,
        weights_of(latent_dim),
        rollout_steps=2,
        starts=starts,
        term_args={} if latent_dim else TERM_ARGS,
        label_dims={"position": 2},
        seed=3,
    )
    if not latent_dim:
        module.set_label_statistics("position", torch.tensor([1.0, -1.0]), torch.tensor([2.0, 0.5]))
    return module


def joint_batch():
    labels = torch.randn(BATCH, 6, 2, generator=torch.Generator().manual_seed(2))
    return {**make_batch(make(), batch=BATCH), "position": labels}


def terms_and_gradients(module, batch, weights):
    terms = module(batch, STEP)
    torch.stack([weights[name] * value for name, value in terms.items()]).sum().backward()
    gradients = {
        name.removeprefix("module."): weight.grad.numpy()
        for name, weight in module.named_parameters()
        if weight.requires_grad
    }
    return {name: float(value.detach()) for name, value in terms.items()}, gradients


def worker(rank, folder, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    half = BATCH // 2
    batch = {key: value[half * rank : half * (rank + 1)] for key, value in joint_batch().items()}
    results = [
        terms_and_gradients(DistributedDataParallel(objective(*case)), batch, weights_of(case[-1]))
        for case in CASES
    ]
    queue.put((rank, results))
    torch.distributed.barrier()
    stop_process_group()


def test_two_processes_have_the_terms_and_gradients_of_one_with_the_joint_batch(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=worker, args=(rank, tmp_path, queue)) for rank in range(2)]
    for process in workers:
        process.start()
    of_ranks = dict(queue.get(timeout=120) for _ in workers)
    for process in workers:
        process.join(timeout=60)
        assert process.exitcode == 0
    for index, case in enumerate(CASES):
        terms, gradients = terms_and_gradients(objective(*case), joint_batch(), weights_of(case[-1]))
        assert all(abs(gradient).max() > 0 for gradient in gradients.values())
        for rank in range(2):
            joint_terms, joint_gradients = of_ranks[rank][index]
            assert joint_terms == pytest.approx(terms, rel=1e-4), (case, rank)
            assert joint_gradients.keys() == gradients.keys()
            for name, gradient in gradients.items():
                scale = abs(gradient).max()
                error = abs(joint_gradients[name] - gradient).max()
                assert error < 1e-3 * scale + 1e-6, (case, rank, name)


def test_half_of_the_batch_alone_has_other_terms():
    """Without this, the comparison with the joint batch could not fail."""
    batch = joint_batch()
    with torch.no_grad():
        whole = objective(*CASES[0])(batch, STEP)
        half = objective(*CASES[0])({key: value[: BATCH - 1] for key, value in batch.items()}, STEP)
    for name in WEIGHTS:
        assert abs(float(whole[name] / half[name]) - 1) > 1e-4, name
