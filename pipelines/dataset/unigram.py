"""Unigram tokenizers over bytes (Kudo 2018), trained on the corpus.

The pieces are strings of bytes, as in byte-level BPE, and all 256 bytes are pieces. So any text encodes,
nothing is unknown, and decoding restores the text. No text can spell a byte, as it can where a vocabulary has
"<0x0A>".

sentencepiece trains, on one thread: its sums of floating point numbers then have one order. The trainer of
the tokenizers library takes the words in the order of a hash that is different in each process.
"""

import io
import tempfile
from collections import Counter
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel

MAX_PIECE_BYTES = 16
"""Five Chinese characters."""
MAX_WORD_BYTES = 4_192
"""A longer word has nothing to teach: as in sentencepiece, it is left out."""


def train_pieces(texts: Iterator[str], *, num_pieces: int) -> Tokenizer:
    """At most `num_pieces` pieces, the 256 bytes among them; fewer if the texts do not have so many. Without
    special tokens. Equal texts in any order give equal tokenizers.

    Memory: every different word once. Raises ImportError without sentencepiece.
    """
    byte_level = ByteLevel(add_prefix_space=False)
    # Each byte once, so that each becomes a piece.
    counts = Counter[str](ByteLevel.alphabet())
    for text in texts:
        counts.update(word for word, _ in byte_level.pre_tokenize_str(text) if len(word) <= MAX_WORD_BYTES)
    scores = _train(counts, num_pieces)
    tokenizer = Tokenizer(models.Unigram(sorted(scores.items(), key=lambda piece: (-piece[1], piece[0]))))
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _train(counts: Counter[str], num_pieces: int) -> dict[str, float]:
    """Piece -> logarithm of its probability."""
    try:
        from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
    except ModuleNotFoundError as error:
        raise ImportError(
            "dataset.tokenizer.model unigram needs sentencepiece: pip install distributary[unigram], or set "
            "dataset.tokenizer.model: bpe"
        ) from error
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as words:
        words.writelines(f"{word}\t{counts[word]}\n" for word in sorted(counts))
        words.flush()
        SentencePieceTrainer.train(
            input=words.name,
            input_format="tsv",
            model_writer=model,
            model_type="unigram",
            vocab_size=num_pieces + 1,  # it has a piece for what is unknown
            hard_vocab_limit=False,
            character_coverage=1.0,
            max_sentencepiece_length=MAX_PIECE_BYTES,
            max_sentence_length=MAX_WORD_BYTES * 2,  # a character for a byte takes at most two
            num_threads=1,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_by_whitespace=False,
            split_by_unicode_script=False,
            split_by_number=False,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    trained = SentencePieceProcessor(model_proto=model.getvalue())
    numbers = (number for number in range(trained.get_piece_size()) if not trained.is_unknown(number))
    return {trained.id_to_piece(number): trained.get_score(number) for number in numbers}
