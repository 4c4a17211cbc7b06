"""What people would say of a text, read from the middle of a language model: a judge.

The body of the model stays as it was pretrained; a linear map from what it holds of a text to one
number is all that is learned, from the mean ratings that people gave to texts. Half-way up, the
body says more about how a text feels than at its top, which is busy with the next word; and it says
most after the start of a sentence that has to sum the text up::

    tokens    a film that you will not forget .  |  Overall , the film was
    layer l   h₁ h₂ h₃ ...               h_n     |                     h_s
    read      [mean of h₁ ... h_n ; h_n ; h_s]   of each layer that is read

Left out on purpose: training the body as well, which a reward model does (lesson 3).
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rlhf_lessons.models.language_policy import LanguagePolicy
from rlhf_lessons.models.products import fast_products

__all__ = ["PeopleJudge"]


class PeopleJudge:
    """The mean rating that people would give to prompt and response together.

        rating(x, y) = b + w · [mean of h ; h at the last token ; h after the ending]

    with these three of each layer that is read, side by side.

    w and b start at 0; ``training.fit_people_judge`` learns them. The policy's weights are copied
    as far up as they are read, and never change.

    Args:
        policy: the language model whose body is read: a Llama, or another one whose body holds its
            layers as ``layers`` and its last normalisation as ``norm``.
        layers: which layers are read, counted from 1.
        ending: what is added to each text before the body reads it.
        batch_size: texts a forward pass.

    Attributes:
        tokenizer: the policy's tokenizer.
        layers: which layers are read, counted from 1.
        ending: what is added to each text.
        batch_size: texts a forward pass.
        head: the linear map, in float64: single numbers of h are a thousand times the others.
        correlation: of ratings and scores, each text left out of its own fit; NaN before fitting.
        deviation: root mean square of the error, in points of the ratings, likewise.

    Raises:
        ValueError: if the body is not of that kind, or has no such layers.
    """

    def __init__(
        self,
        policy: LanguagePolicy,
        *,
        layers: Sequence[int] = (16, 22),
        ending: str = " Overall, the film was",
        batch_size: int = 64,
    ) -> None:
        body = policy.model.base_model
        if not (hasattr(body, "layers") and hasattr(body, "norm")):
            raise ValueError(
                f"PeopleJudge: policy must have a body with layers and norm, as a Llama has, got "
                f"{type(body).__name__}"
            )
        if not layers or not all(1 <= layer <= len(body.layers) for layer in layers):
            raise ValueError(
                f"PeopleJudge: layers must be from 1 to {len(body.layers)}, got {tuple(layers)}"
            )
        # A copy without the layers above those that are read, and without what comes after them.
        instead = {
            id(body.layers): copy.deepcopy(body.layers[: max(layers)]),
            id(body.norm): nn.Identity(),
        }
        self._body = copy.deepcopy(body, instead).eval().requires_grad_(False)
        self.tokenizer = policy.tokenizer
        self.layers, self.ending, self.batch_size = tuple(layers), ending, batch_size
        self._width = policy.model.get_input_embeddings().weight.shape[1]
        self.head = nn.Linear(3 * len(self.layers) * self._width, 1, dtype=torch.float64)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.correlation = self.deviation = math.nan

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], policy: LanguagePolicy) -> PeopleJudge:
        """Load a judge that ``save_pretrained`` wrote.

        Args:
            folder: the folder.
            policy: the language model that it was fitted on.

        Returns:
            the judge.

        Raises:
            OSError: if there is no such folder, or it holds no judge.
            ValueError: if it was fitted on a body of another size.
        """
        from safetensors.torch import load_file

        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        judge = cls(policy, layers=config["layers"], ending=config["ending"])
        weights = load_file(Path(folder) / "model.safetensors")
        if weights["weight"].shape != judge.head.weight.shape:
            raise ValueError(
                f"PeopleJudge.from_pretrained: policy must be the one that the judge was fitted "
                f"on, with {weights['weight'].shape[1]} numbers of a text, got "
                f"{judge.head.in_features}"
            )
        judge.head.load_state_dict(weights)
        judge.correlation, judge.deviation = config["correlation"], config["deviation"]
        return judge

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write what was learned, and how the body is read; the body itself is not written.

        Args:
            folder: where; made if missing.

        Raises:
            OSError: if it cannot be written.
        """
        from safetensors.torch import save_file

        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(
            {name: value.float() for name, value in self.head.state_dict().items()},
            Path(folder) / "model.safetensors",
        )
        config = {
            "architectures": [type(self).__name__],
            "layers": list(self.layers),
            "ending": self.ending,
            "correlation": round(self.correlation, 4),
            "deviation": round(self.deviation, 4),
        }
        text = json.dumps(config, indent=2) + "\n"
        (Path(folder) / "config.json").write_text(text, encoding="utf-8")

    def to(self, device: str | torch.device) -> PeopleJudge:
        """Move the body.

        Args:
            device: where to.

        Returns:
            the judge itself.
        """
        self._body.to(device)
        return self

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the weights that are learned.

        Returns:
            those of the head.
        """
        return self.head.parameters()

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> Tensor:
        """Compute what the head reads of each text.

        Args:
            texts: B texts.

        Returns:
            (B, 3 · layers · width) numbers, float32, on the CPU.
        """
        end = self.tokenizer(self.ending, add_special_tokens=False).input_ids
        most = self._body.config.max_position_embeddings - len(end)
        rows = [
            # A text without a token is read as one that ends at once.
            (self.tokenizer(text).input_ids or [self.tokenizer.eos_token_id])[:most]
            for text in texts
        ]
        found = torch.empty(len(rows), self.head.in_features)
        # Texts of like length go together, so that little padding is computed.
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        for start in range(0, len(rows), self.batch_size):
            part = order[start : start + self.batch_size]
            found[part] = self._read([rows[row] for row in part], end)
        return found

    def _read(self, rows: list[list[int]], end: list[int]) -> Tensor:
        device = self._body.device
        lengths = torch.tensor([len(row) for row in rows], device=device)
        columns = int(lengths.max()) + len(end)
        # What stands on the right of a row is seen by no token of it, so any token will do there.
        tokens = torch.tensor([row + end + end[:1] * (columns - len(row + end)) for row in rows])
        with fast_products(device):
            states = self._body(
                input_ids=tokens.to(device), output_hidden_states=True, use_cache=False
            ).hidden_states
        here = torch.arange(len(rows), device=device)
        of_text = (torch.arange(columns, device=device) < lengths[:, None]).unsqueeze(-1)
        read = []
        for layer in self.layers:
            h = states[layer].float()
            mean = h.masked_fill(~of_text, 0).sum(1) / lengths[:, None]
            read += [mean, h[here, lengths - 1], h[here, lengths + len(end) - 1]]
        return torch.cat(read, dim=1).cpu()

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Score responses together with their prompts.

        Args:
            prompts: B texts.
            responses: B texts that continue them.

        Returns:
            (B,) expected mean ratings, float32, on the CPU.

        Raises:
            ValueError: if their numbers differ.
        """
        texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        return self.head(self.features(texts).double()).squeeze(-1).float()
