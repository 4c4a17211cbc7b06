"""A body with a linear head for the families to which transformers gives none.

Granite, Cohere, Mamba and others have a language model in transformers and no sequence classifier,
so no place for a reward. Here their own base class gets what the others have: the body under the
family's name for it, and ``score``. A saved one loads with ``RewardModel.from_pretrained`` and the
like, not with ``AutoModelForSequenceClassification``.
"""

from __future__ import annotations

from typing import Any

import torch

__all__: list[str] = []


def scored_class(config: Any) -> Any:
    """Give what makes and loads sequence classifiers of a family.

    Args:
        config: the configuration of one of its models.

    Returns:
        a class with ``from_config`` and ``from_pretrained``: transformers' own, or one made here.
    """
    from transformers import (
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        MODEL_MAPPING,
        AutoModelForSequenceClassification,
    )

    if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or (
        type(config) not in MODEL_MAPPING
    ):
        return AutoModelForSequenceClassification
    body = MODEL_MAPPING[type(config)]
    family = body.__bases__[0]  # such as GranitePreTrainedModel, which knows how to load

    class Scored(family):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            setattr(self, self.base_model_prefix, body(config))
            self.score = torch.nn.Linear(config.hidden_size, config.num_labels, bias=False)
            self.post_init()

        @classmethod
        def from_config(cls, config: Any) -> Scored:
            return cls._from_config(config)  # which reads dtype as AutoModel does

    Scored.__name__ = Scored.__qualname__ = (
        body.__name__.removesuffix("Model") + "ForSequenceClassification"
    )
    return Scored
