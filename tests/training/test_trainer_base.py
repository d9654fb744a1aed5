"""The attributes that the trainer's parts share."""

from peft import LoraConfig

from patchrec_hf import PatchFinetuneTrainer, PatchRecForCausalLM


def test_the_model_of_this_library_is_found_within_others(make_trainer, rows):
    trainer = make_trainer("finetune")
    assert trainer._patchrec_model is trainer.model
    adapted = PatchFinetuneTrainer(
        trainer.model,
        trainer.args,
        train_dataset=rows,
        processing_class=trainer.processing_class,
        peft_config=LoraConfig(task_type="CAUSAL_LM"),
    )
    assert isinstance(adapted._patchrec_model, PatchRecForCausalLM)
    assert adapted._patchrec_model is not adapted.model
