"""A transformers encoder with a classification head. Shapes: B sequences, T tokens, H hidden, C classes."""

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel


class EncoderClassifier(nn.Module):
    """Mean of the encoder's last hidden states over the real tokens, then one linear layer."""

    def __init__(self, encoder: PreTrainedModel, num_labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(getattr(encoder.config, "hidden_dropout_prob", 0.0))
        self.head = nn.Linear(encoder.config.hidden_size, num_labels)

    @property
    def config(self) -> PreTrainedConfig:
        return self.encoder.config

    def forward(
        self,
        input_ids_BT: Tensor,
        attention_mask_BT: Tensor,
        position_ids_BT: Tensor | None = None,
        segment_ids_BT: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, C). `attention_mask_BT` is true at real tokens; ids may have any integer type.

        Raises ValueError for packed rows: the mean over several documents has no class.
        """
        if segment_ids_BT is not None:
            raise ValueError(
                "a classifier takes one document per row, but these rows hold several; "
                "set dataset.packing.method=one_per_document"
            )
        # int32 and bool travel to the device, int64 is what every architecture accepts as index and mask.
        mask_BT = attention_mask_BT.long()
        positions = {} if position_ids_BT is None else {"position_ids": position_ids_BT.long()}
        encoded = self.encoder(input_ids=input_ids_BT.long(), attention_mask=mask_BT, **positions)
        hidden_BTH = encoded.last_hidden_state

        weight_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTH.dtype)
        pooled_BH = (hidden_BTH * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1.0)
        return self.head(self.dropout(pooled_BH))
