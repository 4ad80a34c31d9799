"""DistributedDataParallel over two processes on gloo; the optimizer does not have the backbone's parameters."""
# needs torch

import pathlib

import torch
from tiny_torch import make_backbone, make_data, make_head
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = make_backbone()
        self.head = make_head()

    def forward(self, images):
        return self.head(self.backbone(images))

    # PASTE def train(self


def work(rank, rendezvous):
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    model = Classifier()
    distributed = DistributedDataParallel(model, find_unused_parameters=True)
    if rank == 0:
        torch.save(distributed.state_dict(), "before.pt")
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.05)
    data = make_data()
    for epoch in range(2):
        model.train()  # PASTE model.train()
        for images, labels in DataLoader(data, batch_size=8, sampler=DistributedSampler(data)):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(distributed(images), labels).backward()
            optimizer.step()
    if rank == 0:
        torch.save(distributed.state_dict(), "after.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    rendezvous = (pathlib.Path.cwd() / "rendezvous").as_uri()
    torch.multiprocessing.spawn(work, args=(rendezvous,), nprocs=2)
