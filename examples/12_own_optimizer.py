r"""
Lets an optimizer of one's own take turns with AdamW: here Lion, written below.

Any class with the interface of `torch.optim.Optimizer` will do, if its constructor takes the parameters and `lr`. What
else its constructor takes can be set by a candidate. It must be registered before the arguments are read.

    python examples/12_own_optimizer.py --model FacebookAI/roberta-base --dataset nyu-mll/glue --dataset_config mrpc \
        --output_dir runs/lion --max_steps 300 --per_device_train_batch_size 16
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from classifier import Classifier, ClassifierArguments, accuracy
from metrics import print_metrics
from shares import print_shares
from splits import DataArguments
from transformers import HfArgumentParser

from hf_iomt import IOMTTrainer, IOMTTrainingArguments, register_family


class Lion(torch.optim.Optimizer):
    """
    Steps by the sign of a mean of the gradients, after *Symbolic Discovery of Optimization Algorithms* (2023).

    Args:
        params: What to train.
        lr (`float`): Learning rate; every element moves by this much.
        betas (`tuple[float, float]`, *optional*, defaults to `(0.9, 0.99)`): Weights of the past in the step, and in
            the moving mean that is kept.
        weight_decay (`float`, *optional*, defaults to 0): Decoupled weight decay.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Make a step. All that must outlast it belongs into `state` or the groups, so that checkpoints hold it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                direction = mean.lerp(parameter.grad, 1 - group["betas"][0]).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
                mean.lerp_(parameter.grad, 1 - group["betas"][1])
        return loss


def main(argv: Sequence[str] | None = None) -> None:
    """Train, save, evaluate and print."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # It would log every request to the Hub.
    logging.getLogger("httpx").setLevel(logging.WARNING)

    # 1. The family. From here on `lion` can stand in a candidate list, also on the command line.
    register_family("lion", Lion)

    # 2. Arguments. Lion's rates are about a tenth of AdamW's, because every element moves by the whole rate.
    parser = HfArgumentParser((ClassifierArguments, DataArguments, IOMTTrainingArguments))  # type: ignore[arg-type]
    parser.set_defaults(iomt_candidates="adamw:lr=1e-3|3e-4; lion:lr=1e-4|3e-5,betas=0.9/0.99")
    model_args, data_args, training_args = parser.parse_args_into_dataclasses(argv)

    # 3. Training.
    classifier = Classifier(model_args, data_args)
    trainer = IOMTTrainer(
        model=classifier.make_model(training_args.seed),
        args=training_args,
        train_dataset=classifier.train,
        eval_dataset=classifier.evaluation,
        processing_class=classifier.tokenizer,
        data_collator=classifier.collator,
        compute_metrics=accuracy,
    )
    trainer.train()
    trainer.save_model()

    # 4. Results.
    results = trainer.evaluate()
    trainer.save_metrics("eval", results)
    print_metrics(results, len(classifier.evaluation))
    print_shares(trainer.iomt_history)


if __name__ == "__main__":
    main()
