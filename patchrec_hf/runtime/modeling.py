"""PatchRec's causal language model: the base model with the backbone's head, an item head, and their losses."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Cache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .backbones import check_logits, load_backbone, scale_logits
from .base_model import PatchRecModel, PatchRecPreTrainedModel, holds_prompt
from .catalog import Catalog, check_learned_items
from .choice_loss import Choices, ChoiceScores, choice_loss
from .configuration import ItemHeadConfig, Patcher, PatchRecConfig, Similarity, check_patcher
from .distillation import choice_twin_divergence, twin_divergence
from .encoding import IGNORED_LABEL
from .hub_files import check_device_map, check_path, explained_lookup, hub_kwargs
from .item_head import ItemHead
from .item_loss import FIXED_POINT, NOT_DRAWN, Features, item_loss
from .patchers import make_patcher
from .progress import no_bars_in_files
from .prompts import PATCH_TOKEN, Prompt, tokenizer_fingerprint
from .sharding import is_plain_linear
from .time_gaps import TimeGaps
from .title_states import first_layers
from .tree_attention import TreeAttentionMixin


if TYPE_CHECKING:
    from .processing import PatchRecProcessor


@dataclass
class PatchRecOutput(CausalLMOutputWithPast):
    """
    Output of [`PatchRecForCausalLM`]: a [`~transformers.modeling_outputs.CausalLMOutputWithPast`] and

    Args:
        title_loss (`torch.FloatTensor` of shape `()`, *optional*):
            Loss of the labels, which are title tokens.
        item_loss (`torch.FloatTensor` of shape `()`, *optional*):
            Loss of the item targets.
        choice_entropy (`torch.FloatTensor` of shape `()`, *optional*):
            With choices: summed entropy of the predictions, in nats.
        choice_hits (`torch.LongTensor` of shape `()`, *optional*):
            With choices: number of labels that are the most probable token of their choice.
        divergence (`torch.FloatTensor` of shape `()`, *optional*):
            With teachers: summed divergence of the students' predictions, in nats, without its weight (see
            [`twin_divergence`]).
    """

    title_loss: torch.Tensor | None = None
    item_loss: torch.Tensor | None = None
    choice_entropy: torch.Tensor | None = None
    choice_hits: torch.Tensor | None = None
    divergence: torch.Tensor | None = None


class PatchRecForCausalLM(TreeAttentionMixin, PatchRecPreTrainedModel, GenerationMixin):
    """
    A causal language model that reads patches: [`PatchRecModel`] and the backbone's head.

    Args:
        config ([`PatchRecConfig`]):
            The model's configuration.
        backbone ([`~transformers.PreTrainedModel`], *optional*):
            The causal language model whose modules the model uses. Built from `config.text_config` if not given. To
            start from a backbone, use [`PatchRecForCausalLM.from_backbone`].
    """

    def __init__(self, config: PatchRecConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if backbone is None:
            backbone = AutoModelForCausalLM.from_config(config.text_config)
        decoder: Any = backbone.base_model
        self.model = PatchRecModel(config, decoder)
        self.lm_head = backbone.get_output_embeddings()
        # Backbones name their embedding tables differently.
        embeddings = self.get_input_embeddings()
        if isinstance(embeddings, nn.Embedding):
            # An embedding that pads gets no gradient. Padding is masked anyway, and a backbone may pad with a word.
            embeddings.padding_idx = None
        table = next(name for name, module in self.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"{table}.weight"} if config.tie_word_embeddings else {}
        head = config.item_head_config
        self.item_head: Any = None if head is None else ItemHead(head, config.decoder_config.hidden_size)
        """[`ItemHead`], or `None`."""
        self.post_init()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike, *model_args: Any, **kwargs: Any
    ) -> PatchRecForCausalLM:
        """
        Loads a PatchRec checkpoint; see [`~transformers.PreTrainedModel.from_pretrained`]. Weights are read from
        safetensors only, unless `use_safetensors` is set otherwise.

        Raises:
            ValueError: If the checkpoint is not a PatchRec checkpoint.
        """
        check_path(pretrained_model_name_or_path, kwargs)
        check_device_map(kwargs)
        kwargs.setdefault("use_safetensors", True)
        if kwargs.get("config") is None:
            with explained_lookup(pretrained_model_name_or_path, kwargs):
                config, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **hub_kwargs(kwargs))
            if config.get("model_type") != PatchRecConfig.model_type:
                raise ValueError(
                    f"{pretrained_model_name_or_path} is not a PatchRec checkpoint: its model type is "
                    f"{config.get('model_type')!r}. To start from it, use `PatchRecForCausalLM.from_backbone`."
                )
        with no_bars_in_files():
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    @classmethod
    def from_backbone(
        cls,
        backbone: str | os.PathLike | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> PatchRecForCausalLM:
        """
        Makes a PatchRec model from any decoder-only causal language model.

        The special tokens are added to the tokenizer if it lacks them. The embeddings of special tokens that are new
        to the backbone start as the mean of all embeddings.

        Args:
            backbone (`str`, `os.PathLike` or [`~transformers.PreTrainedModel`]):
                A repository of the Hub, a directory, or a causal language model, whose modules the new model uses.
            tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
                The backbone's tokenizer, changed in place. If `backbone` is a path, it may be left out, and is
                loaded from there. If `backbone` is a model, a special token that its tokenizer already has counts as
                trained if the embedding table has a row for it.
            **kwargs:
                Passed to [`~transformers.AutoModelForCausalLM.from_pretrained`] if `backbone` is a path.
                `use_safetensors` is `True` if not given: weights in pickles are refused. To train all weights, pass
                `dtype="float32"` unless the weights were saved in float32.

        Returns:
            [`PatchRecForCausalLM`]

        Raises:
            ValueError: If the model is not a decoder-only causal language model with a key-value cache, if a model is
                given without its tokenizer, or if the backbone computes its logits in a way that this wrapper does
                not reproduce (checked on a few tokens).
        """
        backbone, tokenizer = load_backbone(backbone, tokenizer, **kwargs)
        patch_token_id = tokenizer.get_vocab()[PATCH_TOKEN]
        # A composite configuration resets the implementations in its sub-configuration, so they are restored below.
        attention, experts = backbone.config._attn_implementation, backbone.config._experts_implementation
        config = PatchRecConfig(
            text_config=backbone.config,
            patch_token_id=patch_token_id,
            tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
            dtype=backbone.dtype,
        )
        config._attn_implementation, backbone.config._experts_implementation = attention, experts
        config.name_or_path = backbone.config.name_or_path  # adapters save it as the name of their base model
        with no_init_weights():
            model = cls(config, backbone)
        quantizer = getattr(backbone, "hf_quantizer", None)
        if quantizer is not None:
            model.hf_quantizer = quantizer
            quantizer.postprocess_model(model)
        model.generation_config = backbone.generation_config
        model.train(backbone.training)
        if not is_deepspeed_zero3_enabled():
            check_logits(model, backbone)
        return model

    def add_item_head(
        self,
        catalog: Catalog,
        residual_size: int | None = None,
        similarity: Similarity = "cosine",
        dropout: float = 0.0,
        residual_dropout: float = 0.0,
        title_similarity: bool = False,
    ) -> None:
        """
        Adds an untrained item head, and residuals of all items. Without training, the residuals change nothing.

        Args:
            catalog ([`Catalog`]):
                The items to learn.
            residual_size (`int`, *optional*):
                See [`ItemHeadConfig`]. The hidden size if not given; 0 for no residuals.
            similarity, dropout, residual_dropout, title_similarity:
                See [`ItemHeadConfig`].

        Raises:
            ValueError: If the model has an item head already, or a setting is wrong.
        """
        if self.item_head is not None:
            raise ValueError("The model has an item head already; a second one would replace what it has learned.")
        residual_size = self.config.decoder_config.hidden_size if residual_size is None else residual_size
        self.make_item_head(
            ItemHeadConfig(len(catalog), residual_size, similarity, dropout, residual_dropout, title_similarity)
        )
        head: Any = self.item_head
        head.item_ids.copy_(torch.tensor(catalog.id_numbers))

    def make_item_head(self, config: ItemHeadConfig) -> None:
        """Adds the modules of an item head, untrained, in the dtype and on the device of the embeddings."""
        self.config.item_head = asdict(config)
        table: Any = self.get_input_embeddings().weight
        dtype = table.dtype if table.dtype.is_floating_point else torch.float32
        self.item_head = ItemHead(config, self.config.decoder_config.hidden_size).to(table.device, dtype)
        self.model.add_item_residual()
        if self.model.item_residual is not None:
            self.model.item_residual.to(table.device, dtype)

    def add_time_gaps(self, num_buckets: int) -> None:
        """
        Adds the vectors of time gaps to the model. All are zero, so the model is the same before training.

        Args:
            num_buckets (`int`):
                Number of buckets (see [`gap_buckets`]); the processor's `time_gaps`.

        Raises:
            ValueError: If the model has time gaps already.
        """
        if self.model.time_gaps is not None:
            raise ValueError("The model has time gaps already; new ones would replace what it has learned.")
        self.config.num_time_gaps = num_buckets
        table: Any = self.get_input_embeddings().weight
        dtype = table.dtype if table.dtype.is_floating_point else torch.float32
        self.model.time_gaps = TimeGaps(num_buckets, self.config.decoder_config.hidden_size).to(table.device, dtype)

    def add_patcher(self, patcher: Patcher, num_layers: int = 1) -> None:
        """
        Replaces the mean by another patcher. Before training, patches stay the mean.

        Args:
            patcher (`"mean"`, `"attention"` or `"contextual"`):
                See [`PatchRecConfig`]. `"mean"` changes nothing.
            num_layers (`int`, *optional*, defaults to `1`):
                With `patcher="contextual"`: the number of the backbone's first layers that read titles.

        Raises:
            ValueError: If there is no such patcher, the model has another one than the mean already, or the backbone's
                first layers cannot be run alone.
        """
        check_patcher(patcher, num_layers)
        if self.model.patcher is not None:
            raise ValueError(
                f"The model has the patcher {self.config.patcher!r} already; another one would replace what it has "
                "learned."
            )
        if patcher == "contextual":
            first_layers(self.model.language_model, num_layers)  # raises here where it cannot run
        self.config.patcher, self.config.patcher_layers = patcher, num_layers
        self.model.patcher = make_patcher(patcher, self.config.decoder_config.hidden_size)
        if self.model.patcher is not None:
            table: Any = self.get_input_embeddings().weight
            dtype = table.dtype if table.dtype.is_floating_point else torch.float32
            self.model.patcher.to(table.device, dtype)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Returns the head that projects hidden states to the vocabulary."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    def prepare_inputs_embeds(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        """See [`PatchRecModel.prepare_inputs_embeds`]."""
        return self.model.prepare_inputs_embeds(*args, **kwargs)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """
        Projects hidden states of shape `(..., H)` to logits of shape `(..., V)`, scaled and capped as the backbone
        does.
        """
        return scale_logits(self.lm_head(hidden_states), self.config.text_config)

    def compute_token_logits(self, hidden_states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """
        Projects hidden states to the logits of some tokens, as [`PatchRecForCausalLM.compute_logits`] does to all.
        Only these tokens' rows of the head are read, unless the head is sharded, quantized, offloaded or adapted.

        Args:
            hidden_states (`torch.Tensor` of shape `(n, H)`):
                Hidden states.
            tokens (`torch.LongTensor` of shape `(m,)`):
                Token ids.

        Returns:
            `torch.Tensor` of shape `(n, m)`.
        """
        head: Any = self.lm_head
        if not is_plain_linear(head):
            return self.compute_logits(hidden_states)[:, tokens.to(hidden_states.device)]
        tokens = tokens.to(head.weight.device)
        bias = None if head.bias is None else head.bias[tokens]
        logits = F.linear(hidden_states.to(head.weight.device), head.weight[tokens], bias)
        return scale_logits(logits, self.config.text_config)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        patch_token_ids: torch.Tensor | None = None,
        patch_positions: torch.Tensor | None = None,
        patch_divisors: torch.Tensor | None = None,
        patch_title_starts: torch.Tensor | None = None,
        supervised_positions: torch.Tensor | None = None,
        shift_labels: torch.Tensor | None = None,
        shift_choices: torch.Tensor | None = None,
        choice_starts: torch.Tensor | None = None,
        choice_columns: torch.Tensor | None = None,
        choice_token_ids: torch.Tensor | None = None,
        title_temperature: float | None = None,
        shift_teachers: torch.Tensor | None = None,
        distillation_weight: float = 1.0,
        distillation_temperature: float = 1.0,
        item_positions: torch.Tensor | None = None,
        item_targets: torch.Tensor | None = None,
        candidate_items: torch.Tensor | None = None,
        candidate_log_inclusion: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> PatchRecOutput:
        """
        Computes the logits of next tokens and, if there are labels or item targets, the loss.

        Args:
            input_ids, patch_token_ids, patch_positions, patch_divisors, patch_title_starts, supervised_positions:
                See [`PatchRecModel.forward`]. With `supervised_positions`, only those positions are projected.
            labels (`torch.LongTensor` of shape `(B, T)`, *optional*):
                Next tokens before shifting, -100 where there is none. Used only if `shift_labels` is not given.
            shift_labels (`torch.LongTensor` of shape `(B, S)`, *optional*):
                The next token of each of `supervised_positions`, -100 where there is none.
            shift_choices (`torch.LongTensor` of shape `(B, S)`, *optional*):
                For each label, the number of its choice, -100 where there is no label. With it, a label is predicted
                among the tokens of its choice, and not among the whole vocabulary.
            choice_starts, choice_columns, choice_token_ids (`torch.LongTensor`, *optional*):
                The tokens of the choices, of shapes `(1, K + 1)`, `(1, P)` and `(1, U)` (see [`Choices`]).
            title_temperature (`float`, *optional*):
                With choices: by what logits are divided. The configuration's if not given.
            shift_teachers (`torch.LongTensor` of shape `(B, S)`, *optional*):
                1 where a label is predicted by a teacher, and 0 where it is predicted by a student, who also learns
                the teacher's distribution (see [`twin_divergence`]). Half of the labels are the teachers'.
            distillation_weight, distillation_temperature (`float`, *optional*, defaults to `1.0`):
                With teachers: the weight of the divergence in the loss, and by what logits are divided in it.
            item_positions (`torch.LongTensor` of shape `(B, P)`, *optional*):
                Positions whose state predicts the next item.
            item_targets (`torch.LongTensor` of shape `(B, P)`, *optional*):
                Catalog indices of these items, -100 where there is none. With it, the candidates must be given, with
                their tokens (see [`PatchRecModel.fold_inputs`]).
            candidate_items (`torch.LongTensor` of shape `(1, C)`, *optional*):
                Catalog indices among which each item target is predicted, ascending.
            candidate_log_inclusion (`torch.LongTensor` of shape `(1, C)`, *optional*):
                See [`item_loss`], in millionths; [`NOT_DRAWN`] stands for infinity. Not given if the candidates are
                not a sample.
            features (`torch.LongTensor` of shape `(1, m, 4)`, *optional*):
                Rows, columns, kinds and values of [`Features`], the values in millionths.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to `0`):
                Number of last positions that are projected; 0 for all. With `shift_labels`, only the positions that
                have a label are projected.
            attention_mask, position_ids, past_key_values, inputs_embeds:
                As the backbone takes them.
            **kwargs:
                Further tensors of a packed batch (see [`PatchRecModel.forward`]), and arguments of the backbone.

        Returns:
            [`PatchRecOutput`]: logits of shape `(B, T, V)`, `(B, S, V)` with `supervised_positions`, or `(1, n, V)`
            with `shift_labels`, for the n positions that have a label; `(1, n, U)` with choices. `loss` is the sum of
            the mean loss of the labels, the mean loss of the item targets and, with teachers, the weighted mean
            divergence of the students' labels.

        Raises:
            ValueError: If item targets are given and the model has no item head, if only a part of the tensors of
                item targets or choices is given, or if teachers are given without `shift_labels`.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        num_item_targets = kwargs.pop("num_item_targets", None)
        if supervised_positions is not None and labels is not None and shift_labels is None:
            raise ValueError("With `supervised_positions`, pass the labels of those positions as `shift_labels`.")
        read_positions = supervised_positions
        predicts_items = item_targets is not None
        num_labels = 0
        if predicts_items:
            if self.item_head is None:
                raise ValueError("The batch has item targets, but the model has no item head (see `add_item_head`).")
            if item_positions is None or supervised_positions is None or candidate_items is None or features is None:
                raise ValueError(
                    "Item targets need `item_positions`, `supervised_positions`, the candidates and `features`, as "
                    "the collators make them."
                )
            num_labels = supervised_positions.shape[1]
            read_positions = torch.cat([supervised_positions, item_positions], dim=1)
        choices: Any = (shift_choices, choice_starts, choice_columns, choice_token_ids)
        predicts_choices = any(tensor is not None for tensor in choices)
        if predicts_choices and (shift_labels is None or any(tensor is None for tensor in choices)):
            raise ValueError(
                "Choices need `shift_labels`, `shift_choices`, `choice_starts`, `choice_columns` and "
                "`choice_token_ids`, as the collators make them; one is missing."
            )
        if shift_teachers is not None and shift_labels is None:
            raise ValueError("`shift_teachers` says who predicts `shift_labels`, but these are missing.")
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            patch_token_ids=patch_token_ids,
            patch_positions=patch_positions,
            patch_divisors=patch_divisors,
            patch_title_starts=patch_title_starts,
            supervised_positions=read_positions,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        mean_item_loss = None
        if predicts_items:
            hidden_states, item_states = hidden_states[:, :num_labels], hidden_states[:, num_labels:]
            mean_item_loss = self._mean_item_loss(
                item_states,
                item_targets,
                outputs.candidate_patches,
                candidate_items,
                candidate_log_inclusion,
                features,
                num_item_targets,
            )
        logits = title_loss = choice_scores = divergence = mean_divergence = None
        if not predicts_items or num_labels > 0:  # else no title is a target
            if shift_labels is not None:
                shift_labels = shift_labels.to(hidden_states.device)  # another one if layers are on several devices
                has_label = shift_labels != IGNORED_LABEL
                hidden_states, shift_labels = hidden_states[has_label][None], shift_labels[has_label][None]
            else:
                kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
                hidden_states = hidden_states[:, kept]
            is_teacher = None
            if shift_teachers is not None:
                is_teacher = shift_teachers.to(has_label.device)[has_label] == 1
            if predicts_choices:
                of_labels = choices[0].to(has_label.device)[has_label]
                logits, choice_scores, divergence = self._score_choices(
                    hidden_states[0],
                    shift_labels,
                    (of_labels, *choices[1:]),
                    title_temperature,
                    is_teacher,
                    distillation_temperature,
                )
                count = logits.shape[1] if num_items_in_batch is None else num_items_in_batch
                title_loss = choice_scores.loss / torch.as_tensor(count, device=logits.device).clamp(min=1)
            else:
                logits = self.compute_logits(hidden_states)
                if labels is not None or shift_labels is not None:
                    title_loss = self.loss_function(
                        logits=logits,
                        labels=labels,
                        vocab_size=logits.shape[-1],
                        num_items_in_batch=num_items_in_batch,
                        shift_labels=shift_labels,
                    )
                if is_teacher is not None:
                    divergence = twin_divergence(logits[0], is_teacher.to(logits.device), distillation_temperature)
            if divergence is not None:
                count = logits.shape[1] if num_items_in_batch is None else num_items_in_batch
                num_students = torch.as_tensor(count, device=logits.device).clamp(min=1) / 2
                mean_divergence = distillation_weight * divergence / num_students
        losses = [loss for loss in (title_loss, mean_item_loss, mean_divergence) if loss is not None]
        return PatchRecOutput(
            loss=torch.stack(losses).sum() if len(losses) > 1 else next(iter(losses), None),
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            title_loss=title_loss,
            item_loss=mean_item_loss,
            choice_entropy=None if choice_scores is None else choice_scores.entropy,
            choice_hits=None if choice_scores is None else choice_scores.num_correct,
            divergence=None if divergence is None else divergence.detach(),
        )

    def _score_choices(
        self,
        states: torch.Tensor,
        labels: Any,
        choices: Any,
        temperature: float | None,
        is_teacher: torch.Tensor | None,
        distillation_temperature: float,
    ) -> tuple[torch.Tensor, ChoiceScores, torch.Tensor | None]:
        """
        Returns the logits of the choices' tokens where n labels are predicted, `(1, n, U)`, their loss and, with
        teachers, the divergence of the twins.
        """
        of_labels, (starts,), (columns,), (token_ids,) = choices
        logits = self.compute_token_logits(states, token_ids)
        # The batch may be on another device if layers are on several.
        labels, *parts = (part.to(logits.device) for part in (labels[0], of_labels, starts, columns, token_ids))
        temperature = self.config.title_temperature if temperature is None else temperature
        divergence = None
        if is_teacher is not None:
            divergence = choice_twin_divergence(
                logits / temperature, Choices(*parts), is_teacher.to(logits.device), distillation_temperature
            )
        return logits[None], choice_loss(logits, labels, Choices(*parts), temperature), divergence

    def _mean_item_loss(
        self,
        states: torch.Tensor,
        targets: Any,
        patches: Any,
        candidates: Any,
        log_inclusion: torch.Tensor | None,
        features: Any,
        num_targets: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """Returns the loss of the item targets, divided by `num_targets` if given. See `forward` for the arguments."""
        device = states.device  # the batch may be on another one if layers are on several devices
        targets, candidates = targets.to(device), candidates[0].to(device)
        has_target = targets != IGNORED_LABEL
        states = F.dropout(states[has_target], self.config.item_head_config.dropout, self.training)
        users, items, weights = self.item_head(states, patches.to(device), candidates)
        if log_inclusion is not None:
            units = log_inclusion[0].to(device)
            log_inclusion = torch.where(units == NOT_DRAWN, torch.inf, units / FIXED_POINT)
        rows, columns, kinds, values = features[0].to(device).T.contiguous()
        loss = item_loss(
            users,
            items,
            torch.searchsorted(candidates, targets[has_target]),
            Features(weights, rows, columns, kinds, values / FIXED_POINT),
            log_inclusion,
        )
        return loss / (max(len(users), 1) if num_targets is None else num_targets)

    def check_processor(self, processor: PatchRecProcessor) -> None:
        """
        Checks that a processor was made for this model: that its tokenizer is the model's, that it marks patches with
        the token that the model expects, and numbers the items that the model has learned as the model does. A model
        of an earlier version of the library does not know its tokenizer.

        Args:
            processor ([`PatchRecProcessor`]):
                The processor that feeds the model.

        Raises:
            ValueError: If model and processor do not belong together.
        """
        if self.config.tokenizer_fingerprint not in (None, processor.tokenizer_fingerprint):
            raise ValueError(
                "The processor's tokenizer is not the model's: the same ids stand for other tokens (fingerprints "
                f"{processor.tokenizer_fingerprint} and {self.config.tokenizer_fingerprint}). Load both from one "
                "checkpoint, or make both from one backbone with `PatchRecProcessor.from_backbone` and "
                "`PatchRecForCausalLM.from_backbone(backbone, processor.tokenizer)`."
            )
        self.check_prompt(processor.prompt)
        residual = self.model.item_residual
        num_residuals = 0 if residual is None or self.item_head is None else len(self.item_head.item_ids)
        if self.item_head is not None:
            check_learned_items(processor.catalog, self.item_head.item_ids.cpu().numpy())
        if processor.num_residuals != num_residuals:
            raise ValueError(
                f"The model has residuals for {num_residuals} items, but the processor writes them for "
                f"{processor.num_residuals}. Load both from one checkpoint, or make the processor with "
                f"`item_residuals={num_residuals > 0}`."
            )
        if processor.num_time_gaps != self.config.num_time_gaps:
            raise ValueError(
                f"The model reads {self.config.num_time_gaps} kinds of time gaps, but the processor writes "
                f"{processor.num_time_gaps}. Load both from one checkpoint, or make the processor with "
                f"`time_gaps={self.config.num_time_gaps}`."
            )

    @property
    def max_length(self) -> int | None:
        """Longest sequence that the backbone reads, in tokens; `None` if its configuration sets no limit."""
        return getattr(self.config.decoder_config, "max_position_embeddings", None)

    def check_prompt(self, prompt: Prompt) -> None:
        """
        Checks that a prompt marks patches with the token that this model expects.

        Args:
            prompt ([`Prompt`]):
                The prompt of the processor that feeds the model.

        Raises:
            ValueError: If model and prompt have different ids for `<|patch|>`.
        """
        if self.config.patch_token_id != prompt.patch_id:
            raise ValueError(
                f"The model's {PATCH_TOKEN} is token {self.config.patch_token_id}, but the processor's is "
                f"{prompt.patch_id}: they were not made for each other. Make the model with "
                "`from_backbone(backbone, processor.tokenizer)`, or load both from one checkpoint."
            )

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Any,
        past_key_values: Cache | None = None,
        attention_mask: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        model_inputs = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        if holds_prompt(past_key_values):
            for key in ("patch_token_ids", "patch_positions", "patch_divisors", "patch_title_starts"):
                model_inputs.pop(key, None)
        return model_inputs
