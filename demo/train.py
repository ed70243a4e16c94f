"""Train the demo model; run again after a break, it goes on from its last checkpoint.

    python demo/train.py --digits DIR --work DIR --export models/demo

The first steps follow one alignment path: each token is due at the end of its digit, blank
everywhere else. The rest use the full transducer loss. A second head learns the digit of each frame
all the time.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

import data
from export import export_all
from transducer import BLANK, CONTEXT, Transducer, contexts
from zipformer import ZipformerConfig

NEVER = -1e30  # log probability of the impossible; -inf would make the gradient NaN
AVERAGE_DECAY = 0.995
LIMIT = 5.0  # magnitude that the output of any projection in the encoder may have at no cost
PENALTY = 0.05
LARGEST_STATE = 50.0  # a model with larger states than this is not exported


class Magnitudes:
    """Penalty on large outputs of the encoder's projections.

    The norm at a layer's end hides the scale of what is inside, so without a penalty the residual
    branches grow without end, beyond float16 and far beyond what one int8 scale can carry.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self.penalty: Tensor | float = 0.0
        self.largest = 0.0
        for module in encoder.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d)):
                module.register_forward_hook(self.add)

    def add(self, module: nn.Module, _: object, output: Tensor) -> None:
        """Called after every projection."""
        if module.training:
            excess = F.softshrink(output, LIMIT)
            self.penalty = self.penalty + excess.square().mean()
            self.largest = max(self.largest, float(excess.detach().amax()) + LIMIT)

    def take(self) -> Tensor | float:
        """The penalty of all projections since the last call."""
        penalty, self.penalty = self.penalty, 0.0
        return PENALTY * penalty


def path_loss(model: Transducer, encoded: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Cross entropy along the known alignment, encoded (N, T, J); a token weighs four blanks."""
    count, frames, _ = encoded.shape
    target = encoded.new_zeros(count, frames, dtype=torch.long)
    real = torch.arange(batch["tokens"].size(1)) < batch["token_count"][:, None]
    rows = torch.arange(count)[:, None].expand_as(real)
    target[rows[real], batch["emit"][real]] = batch["tokens"][real]
    emitted = (target != BLANK).long()
    before = emitted.cumsum(dim=1) - emitted  # tokens given before each frame
    decoded = model.decoder(contexts(batch["tokens"]).flatten(0, 1)).unflatten(0, (count, -1))
    decoded = decoded.gather(1, before[:, :, None].expand(-1, -1, decoded.size(2)))
    logits = model.joiner(encoded, decoded)
    weight = (1 + 3 * emitted) * (torch.arange(frames) < batch["frames"][:, None])
    losses = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    return (losses * weight.flatten()).sum() / weight.sum()


def transducer_loss(model: Transducer, encoded: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Negative log-likelihood per token of all alignments with at most one token a frame.

    That is the topology of sherpa-onnx's greedy search: alpha[t + 1, u] = alpha[t, u] blank[t, u]
    + alpha[t, u - 1] token[t, u - 1].
    """
    tokens = batch["tokens"]
    count, frames, _ = encoded.shape
    decoded = model.decoder(contexts(tokens).flatten(0, 1)).unflatten(0, (count, -1))
    scores = model.joiner(encoded[:, :, None], decoded[:, None]).log_softmax(dim=-1)
    blank = scores[..., BLANK]  # (N, T, U + 1)
    index = tokens[:, None, :, None].expand(-1, frames, -1, -1)
    token = scores[:, :, :-1].gather(3, index).squeeze(3)  # (N, T, U)
    alpha = torch.full((count, tokens.size(1) + 1), NEVER)
    alpha[:, 0] = 0.0
    steps = [alpha]
    for t in range(frames):
        moved = F.pad(alpha[:, :-1] + token[:, t], (1, 0), value=NEVER)
        alpha = torch.logaddexp(alpha + blank[:, t], moved)
        steps.append(alpha)
    final = torch.stack(steps, dim=1)[torch.arange(count), batch["frames"], batch["token_count"]]
    return -final.sum() / batch["token_count"].sum().clamp(min=1)


def frame_loss(model: Transducer, encoded: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Cross entropy of each frame's digit over the frames of the utterances."""
    inside = torch.arange(encoded.size(1)) < batch["frames"][:, None]
    return F.cross_entropy(model.frame_head(encoded)[inside], batch["labels"][inside])


@torch.no_grad()
def largest_state(model: Transducer, utterances: list[data.Utterance]) -> float:
    """The largest magnitude in any state but the frame counters at the end of some utterances."""
    model.eval()
    batch = data.collate(utterances, [data.features(u.samples) for u in utterances])
    x = torch.from_numpy(batch["x"])
    _, states = model.encoder(x, model.config.initial_states(len(utterances)))
    return max(float(s.abs().max()) for s in states if s.is_floating_point())


@torch.no_grad()
def greedy(model: Transducer, x: Tensor, frames: Tensor) -> list[list[int]]:
    """Greedy search as sherpa-onnx does it: at most one token a frame. Returns token ids per
    utterance.
    """
    encoded, _ = model.encoder(x, model.config.initial_states(x.size(0)))
    history = [[-1] * (CONTEXT - 1) + [BLANK] for _ in range(x.size(0))]
    for t in range(encoded.size(1)):
        context = torch.tensor([h[-CONTEXT:] for h in history])
        best = model.joiner(encoded[:, t], model.decoder(context)).argmax(dim=1)
        for i in range(x.size(0)):
            if best[i] != BLANK and t < frames[i]:
                history[i].append(int(best[i]))
    return [h[CONTEXT:] for h in history]


def edit_distance(a: list[int], b: list[int]) -> int:
    """Substitutions, deletions and insertions between two sequences."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (left != right))
    return row[-1]


def error_rate(model: Transducer, utterances: list[data.Utterance]) -> float:
    """Word error rate in per cent."""
    model.eval()
    wrong = total = 0
    ordered = sorted(utterances, key=lambda u: len(u.samples))
    for start in range(0, len(ordered), 30):
        part = ordered[start : start + 30]
        batch = data.collate(part, [data.features(u.samples) for u in part])
        found = greedy(model, torch.from_numpy(batch["x"]), torch.from_numpy(batch["frames"]))
        for u, tokens in zip(part, found, strict=True):
            wrong += edit_distance([d + 1 for d in u.digits], tokens)
            total += len(u.digits)
    return 100 * wrong / total


def learning_rate(step: int, steps: int, peak: float) -> float:
    """One cycle: linear rise over the first 8 %, then a half cosine to 1 % of the peak."""
    rise = 0.08 * steps
    if step < rise:
        return peak * (step + 1) / rise
    place = (step - rise) / max(1.0, steps - rise)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * place)))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument(
        "--digits", type=Path, required=True, help="folder of digit_speaker_index.wav"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument(
        "--export", type=Path, help="folder for the ONNX files of the best model so far"
    )
    parser.add_argument("--steps", type=int, default=5600)
    parser.add_argument("--warm", type=int, default=300, help="steps along one alignment path")
    parser.add_argument("--every", type=int, default=250, help="steps between two validations")
    parser.add_argument("--rate", type=float, default=2.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--leave-out", help="a speaker to train without")
    parser.add_argument(
        "--overfit", action="store_true", help="see the first batch only, as a check"
    )
    return parser.parse_args()


def main() -> None:
    """Train to the end."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    model, average = Transducer(ZipformerConfig()), Transducer(ZipformerConfig()).eval()
    average.load_state_dict(model.state_dict())
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.03}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98))
    magnitudes = Magnitudes(model.encoder)
    first, best, spent = 0, math.inf, 0.0
    checkpoint = args.work / "last.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"])
        first, best, spent = saved["step"], saved["best"], saved["seconds"]
        print(f"going on after step {first}", flush=True)

    speakers = data.training_speakers(args.digits)
    recordings = data.held_out_recordings(args.digits)
    if args.leave_out:
        del speakers[args.leave_out]
        recordings = {args.leave_out: recordings[args.leave_out]}
    people = sum(data.test_strings(recordings, 72 // len(recordings), seed=5).values(), [])
    voices = sum(data.test_strings(data.held_out_voices(), 3, seed=6).values(), [])
    batches = data.Batches(speakers, args.steps, args.seed)
    order = [0] * args.steps if args.overfit else list(range(first, args.steps))
    loader = DataLoader(Subset(batches, order), batch_size=None, num_workers=1, prefetch_factor=6)
    began, losses = time.monotonic() - spent, []
    for step, batch in enumerate(loader, first):
        batch = {k: torch.as_tensor(v) for k, v in batch.items()}
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.rate)
        model.train()
        encoded, _ = model.encoder(batch["x"], model.config.initial_states(len(batch["x"])))
        if step < args.warm:
            loss = path_loss(model, encoded, batch) + frame_loss(model, encoded, batch)
        else:
            loss = transducer_loss(model, encoded, batch) + 0.3 * frame_loss(model, encoded, batch)
        loss = loss + magnitudes.take()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        if torch.isfinite(norm):
            optimizer.step()
        losses.append(loss.item())
        decay = min(AVERAGE_DECAY, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, new in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(new, 1 - decay)
        done = step + 1
        if done % 25 == 0:
            spent, mean_loss = time.monotonic() - began, np.mean(losses[-25:])
            print(f"{done} loss {mean_loss:.4f} grad {norm:.2f}", end=" ")
            print(f"largest {magnitudes.largest:.1f} {spent:.0f} s", flush=True)
            magnitudes.largest = 0.0
        if done % args.every == 0 or done == args.steps:
            rates = error_rate(average, people), error_rate(average, voices)
            print(f"{done} WER recordings {rates[0]:.2f} voices {rates[1]:.2f}", flush=True)
            state_size = largest_state(average, people[::3] + voices[::3])
            print(f"{done} largest state {state_size:.1f}", flush=True)
            if sum(rates) <= best and state_size <= LARGEST_STATE and not args.overfit:
                best = sum(rates)
                if args.export:
                    worst = export_all(average, args.export)
                    print(f"{done} exported, within {worst:.1e} of PyTorch", flush=True)
            state = {
                "config": model.config.to_dict(),
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": torch.get_rng_state(),
                "step": done,
                "best": best,
                "seconds": time.monotonic() - began,
            }
            torch.save(state, args.work / "next.pt")
            os.replace(args.work / "next.pt", checkpoint)


if __name__ == "__main__":
    main()
