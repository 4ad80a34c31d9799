"""What the guards of PyTorch's frameworks share."""
import warnings
from typing import Any, Callable

import torch
from torch import nn, optim

MODE = "raise"  # or "warn"
PARTS: tuple[str, ...] = ()  # frozen modules ("backbone", ...), where neither requires_grad nor lr=0 tells them


def find_frozen(model: nn.Module, *optimizers: optim.Optimizer, parts: tuple[str, ...] = PARTS) -> dict[str, Any]:
    """The norm layers in these parts; where none are named, those that neither train nor are fed by what does."""
    rates = {p: g["lr"] or g.get("initial_lr") for o in optimizers for g in o.param_groups for p in g["params"]}
    is_known = not rates.keys().isdisjoint(model.parameters())  # some optimizers have copies, as DeepSpeed's
    frozen, feeding = dict[str, Any](), list[nn.Parameter]()
    for path, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if all(isinstance(getattr(module, part, None), torch.Tensor) for part in ("running_mean", "running_var")):
            name = path.replace("_orig_mod.", "").removeprefix("module.")
            learned = feeding + (own or list(model.get_submodule(path.rpartition(".")[0]).parameters()))
            is_trained = any(p.requires_grad and (rates.get(p) or not is_known) for p in learned)
            if f"{name}.".startswith(tuple(f"{part}." for part in parts)) if parts else not is_trained:
                frozen[name] = module
        feeding = own or feeding
    return frozen


def freeze_norms(model: nn.Module, *optimizers: optim.Optimizer, parts: tuple[str, ...] = PARTS) -> None:
    """Puts the frozen norm layers in eval(), and keeps them there whatever calls model.train()."""
    for layer in find_frozen(model, *optimizers, parts=parts).values():
        layer.eval()
        layer.train = bool  # a train() that does nothing; del layer.train ends it


def guard_norms(model: nn.Module, *optimizers: optim.Optimizer, parts: tuple[str, ...] = PARTS) -> Callable[[], None]:
    """Takes the frozen statistics. The optimizers' first steps compare them, and so does the function returned."""
    def read(bn: Any) -> torch.Tensor:
        return torch.stack([bn.running_mean.cpu().double(), bn.running_var.cpu().double() + getattr(bn, "eps", 1e-5)])

    def check() -> None:
        shifts = []
        for name, layer in find_frozen(model, *optimizers, parts=parts).items():
            if name in before and not torch.equal(after := read(layer), before[name]):
                weight = getattr(layer, "weight", None)
                gamma = torch.ones_like(after[0]) if weight is None else weight.detach().cpu().double()
                (mean, sigma), (new_mean, new_sigma) = [(m, v.sqrt()) for m, v in (before[name], after)]
                moved = ((new_mean - mean) ** 2 + (new_sigma - sigma) ** 2) / sigma**2
                shifts.append((float((gamma**2 * moved).sum() / (gamma**2).sum().clamp(min=1e-300)) ** 0.5, name))
        if shifts:
            worst = ", ".join(f"{name} by {shift:.2g}" for shift, name in sorted(shifts, reverse=True)[:5])
            text = f"{len(shifts)} frozen norm layers moved, in standard deviations: {worst}. Cure: freeze_norms(model)"
            if MODE == "raise":
                raise RuntimeError(text)
            warnings.warn(text, stacklevel=2)

    before = {name: read(layer) for name, layer in find_frozen(model, *optimizers, parts=parts).items()}
    lost = [part for part in parts if not find_frozen(model, parts=(part,))]
    if lost or not before:
        raise ValueError(f"no norm layer is frozen {lost or 'yet'}: freeze first, or name what is in PARTS")
    steps = iter(range(3))
    for optimizer in [each for each in optimizers if isinstance(each, optim.Optimizer)]:  # DeepSpeed's is none
        optimizer.register_step_post_hook(lambda *_: None if next(steps, None) is None else check())
    return check
