"""Retrieval: vectors of texts in which a query lies near the text that answers it. Shapes: N texts, T tokens,
H hidden, Q queries, C candidates.

The loss of a query is the cross-entropy of its positive among all positives and negatives of the global batch
(InfoNCE; van den Oord 2018), so a row is compared with rows of other micro-batches and ranks: see
`Task.compares_rows`. An evaluation compares within blocks of at most COMPARED_ROWS rows, which are the same
for any number of ranks; scoring within as many documents that are scored together.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipelines.dataset.examples.example import Document
from pipelines.dataset.examples.retrieval import RetrievalTexts, read_texts
from pipelines.dataset.rows import Rows
from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.models.embedder import TextEmbedder
from pipelines.finetune.models.padding import pad, send
from pipelines.finetune.tasks.candidates import (
    count_first,
    find_ranks,
    hash_tokens,
    mark_texts,
    score_candidates,
)
from pipelines.finetune.tasks.task import COMPARED_ROWS, Batch, Draw, Prediction
from pipelines.finetune.tasks.texts import ForgedTokens, batch_by_length, encode_start
from pipelines.metrics import METRICS

DECIMALS = 6
"""Of the numbers of a vector: what lies beyond is float32 noise from the other texts in the batch."""


class Retrieval:
    """A backbone whose pooled hidden states are the vector of a text."""

    name, metric, auto_class, compares_rows = "retrieval", "mrr", "AutoModel", True

    def __init__(self, spec: ModelSpec) -> None:
        if spec.retrieval is None:
            raise ValueError(
                "retrieval needs temperature and pooling of a model; set finetune.retrieval and train again"
            )
        self._rules, self._max_tokens = spec.retrieval, spec.max_tokens

    def build_module(self, backbone: Any) -> nn.Module:
        return TextEmbedder(backbone, self._rules.pooling)

    def count_targets(self, num_targets: np.ndarray) -> np.ndarray:
        return num_targets

    def collate(self, rows: Rows, device: torch.device, draw: Draw | None = None) -> Batch:
        """One padded row of the model for each text. Targets are (N, 2) int64: role and content.

        Raises ValueError for a row of one text: it has no positive.
        """
        num_texts = np.array([len(lengths) for lengths in rows.segment_lengths])  # (num_rows,)
        if num_texts.min() < 2:
            raise ValueError(
                f"row {int(num_texts.argmin())} of this batch holds one text, but retrieval needs a query "
                "and a positive; run the dataset stage with dataset.task=retrieval"
            )
        texts = [
            text
            for tokens, lengths in zip(rows.input_ids, rows.segment_lengths, strict=True)
            for text in np.split(tokens, np.cumsum(lengths)[:-1])
        ]
        keys = np.array([hash_tokens(text) for text in texts])
        ids_NT, mask_NT = pad(texts, device)
        marks_N2 = send(mark_texts(num_texts, keys), device)
        return Batch(
            {"input_ids_BT": ids_NT, "attention_mask_BT": mask_NT},
            marks_N2,
            int(rows.num_bytes.sum()),
            num_sequences=len(num_texts),
        )

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        scores = score_candidates(outputs, batch.targets)
        return cross_entropy(scores.cosines_QC / self._rules.temperature, scores.positive_Q, reduction="sum")

    def sums(self, outputs: Tensor, batch: Batch, total: Tensor | None = None) -> Tensor:
        """K = 4: loss in nats, queries, those whose positive is first, reciprocal ranks of the positives."""
        nats = self.loss_sum(outputs, batch).detach().double()
        ranks_Q = find_ranks(score_candidates(outputs, batch.targets))
        num_queries = torch.full_like(nats, len(ranks_Q))
        sums = torch.stack([nats, num_queries, count_first(ranks_Q), (1 / ranks_Q).sum()])
        return sums if total is None else total.add_(sums)

    def metrics(self, sums: Tensor) -> dict[str, float]:
        names = ("nats", "num_queries", "num_first", "reciprocal_ranks")
        known = dict(zip(names, sums.tolist(), strict=True))
        known["num_targets"] = known["num_queries"]
        return {name: METRICS[name].compute(known) for name in ("loss", "mrr", "recall_at_1")}

    def confusion(self, sums: Tensor) -> np.ndarray | None:
        return None

    def sample_text(self, model: nn.Module, tokenizer: Tokenizer, rows: Rows) -> str | None:
        return None

    def predict(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        documents: Sequence[Document],
        *,
        batch_size: int,
        generate: bool = True,
    ) -> list[Prediction]:
        """The vector of each document: of its positive, which is what a search finds, or of its query if it
        has no positive; of a document without parts, of its text. The score is the cosine of query and
        positive, 0 where one of them is missing. The reciprocal rank of a pair is that among
        at most COMPARED_ROWS pairs of this call, in the order given.

        Texts are cut at max_tokens, as in training.
        """
        read = [_read(document) for document in documents]
        wanted = [_list_texts(each) for each in read]
        forged = ForgedTokens(tokenizer)
        texts = [text for each in wanted for text in each]
        # A text without tokens still gets a vector: the model sees one padding token.
        windows = [encode_start(tokenizer, forged, text, self._max_tokens) or [0] for text in texts]
        vectors_NH = _embed(model, windows, batch_size)
        starts = np.cumsum([0, *map(len, wanted)])
        ranks = self._rank(read, windows, vectors_NH, starts)
        predictions = []
        for number, (each, own) in enumerate(zip(read, wanted, strict=True)):
            if isinstance(each, str):
                predictions.append(Prediction("", 0.0, problem=each))
                continue
            mine_NH = vectors_NH[starts[number] : starts[number + 1]]
            is_pair = _is_pair(each)
            predictions.append(
                Prediction(
                    "",
                    float(mine_NH[0] @ mine_NH[1]) if is_pair else 0.0,
                    sum(len(text.encode()) for text in own),
                    embedding=mine_NH[int(is_pair)].numpy().round(DECIMALS).tolist(),
                    reciprocal_rank=ranks.get(number),
                )
            )
        return predictions

    def _rank(
        self,
        read: Sequence[RetrievalTexts | str],
        windows: Sequence[list[int]],
        vectors_NH: Tensor,
        starts: np.ndarray,
    ) -> dict[int, float]:
        """Number of a pair -> reciprocal rank of its positive."""
        pairs = [number for number, each in enumerate(read) if not isinstance(each, str) and _is_pair(each)]
        found: dict[int, float] = {}
        # Blocks differ by one pair at most, as in an evaluation: a small block is easier than a large one.
        num_blocks = -(-len(pairs) // COMPARED_ROWS)
        for number in range(num_blocks):
            block = pairs[len(pairs) * number // num_blocks : len(pairs) * (number + 1) // num_blocks]
            places = np.concatenate([np.arange(starts[pair], starts[pair + 1]) for pair in block])
            keys = np.array([hash_tokens(np.array(windows[place])) for place in places])
            num_texts = np.array([starts[pair + 1] - starts[pair] for pair in block])
            marks_N2 = torch.from_numpy(mark_texts(num_texts, keys))
            ranks_Q = find_ranks(score_candidates(vectors_NH[torch.from_numpy(places)], marks_N2))
            found.update(zip(block, (1 / ranks_Q).tolist(), strict=True))
        return found


def _read(document: Document) -> RetrievalTexts | str:
    """The texts, or why they cannot be read."""
    try:
        texts = read_texts(document)
    except ValueError as error:
        return str(error)
    if texts.query is None and texts.positive is None:
        return "it has neither query nor positive, so no vector; map one of them in corpus.sources[].parts"
    return texts


def _is_pair(texts: RetrievalTexts) -> bool:
    return bool(texts.query) and bool(texts.positive)


def _list_texts(texts: RetrievalTexts | str) -> list[str]:
    """Of a pair query, positive and negatives; else the one text that there is."""
    if isinstance(texts, str):
        return []
    if _is_pair(texts):
        return [texts.query or "", texts.positive or "", *filter(None, texts.negatives)]
    return [texts.positive or texts.query or ""]


def _embed(model: nn.Module, windows: Sequence[list[int]], batch_size: int) -> Tensor:
    """(N, H) float64 on the CPU: of bfloat16 models too, cosines are exact."""
    device = next(model.parameters()).device
    vectors: list[Tensor | None] = [None] * len(windows)
    for rows in batch_by_length(windows, batch_size):
        ids_NT, mask_NT = pad([windows[row] for row in rows], device)
        found_NH = model(input_ids_BT=ids_NT, attention_mask_BT=mask_NT).double().cpu()
        for row, vector_H in zip(rows, found_NH, strict=True):
            vectors[row] = vector_H
    return torch.stack([each for each in vectors if each is not None]) if windows else torch.zeros(0, 0)
