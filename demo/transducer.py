"""The rest of the transducer: vocabulary, stateless decoder, joiner, and all three together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zipformer import Encoder, ZipformerConfig

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TOKENS = ("<blk>", *(f"▁{word}" for word in WORDS))
BLANK = 0
CONTEXT = 2  # tokens of history that the decoder sees


class Decoder(nn.Module):
    """Prediction network without memory: embeds the last two tokens, convolves, projects."""

    def __init__(self, vocab: int, dim: int, joiner_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, dim)
        self.conv = nn.Conv1d(dim, dim, CONTEXT, groups=dim // 4, bias=False)
        self.out = nn.Linear(dim, joiner_dim)

    def forward(self, y: Tensor) -> Tensor:
        """Token ids (N, context) to (N, joiner_dim). Ids below 0 stand for "nothing yet": a zero
        vector.
        """
        known = (y >= 0).unsqueeze(2).to(self.embedding.weight.dtype)
        embedded = self.embedding(y.clamp(min=0)) * known
        mixed = self.conv(embedded.transpose(1, 2)).squeeze(2)
        return self.out(torch.relu(mixed))


class Joiner(nn.Module):
    """``linear(tanh(encoder + decoder))``."""

    def __init__(self, joiner_dim: int, vocab: int) -> None:
        super().__init__()
        self.out = nn.Linear(joiner_dim, vocab)

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        """Two tensors (..., joiner_dim) that broadcast to logits (..., vocab)."""
        return self.out(torch.tanh(encoder_out + decoder_out))


class Transducer(nn.Module):
    """Encoder, decoder and joiner, and a head for frame labels that only training uses."""

    def __init__(self, config: ZipformerConfig, decoder_dim: int = 64) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(len(TOKENS), decoder_dim, config.joiner_dim)
        self.joiner = Joiner(config.joiner_dim, len(TOKENS))
        self.frame_head = nn.Linear(config.joiner_dim, len(TOKENS))


def contexts(tokens: Tensor) -> Tensor:
    """Decoder inputs before each token and after the last: ids (N, U) to (N, U + 1, context).

    A stream starts with the context [-1, 0], as in sherpa-onnx.
    """
    start = tokens.new_tensor([-1, BLANK]).expand(tokens.size(0), -1)
    return torch.cat([start, tokens], dim=1).unfold(1, CONTEXT, 1)
