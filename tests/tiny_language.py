"""A small language model with a tokenizer, for the tests of trainers that tokenize."""

from __future__ import annotations

import os
from pathlib import Path

import peft
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NAME = "stories260K"
WORDS = (
    *("once", "there", "was", "a", "little", "girl", "who", "had", "big", "red", "ball", "and"),
    *("dog", "that", "ran", "far", "away", "in", "the", "park"),
)
END = "</s>"


def word_tokenizer():
    """A tokenizer with a token for each word, made here."""
    vocabulary = {word: number for number, word in enumerate(("<unk>", "<s>", END, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token=END, pad_token=END
    )


def llama_config():
    """The shape of the pre-trained model."""
    return LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        # Predictions that differ from text to text, as those of a trained model do.
        initializer_range=0.06,
        bos_token_id=1,
        eos_token_id=2,
    )


def language_model(pretrained=True):
    """The pre-trained LLaMA of `$HF_IOMT_WEIGHTS`, else one of the same shape; and its tokenizer."""
    folder = Path(os.environ.get("HF_IOMT_WEIGHTS", "")) / NAME
    if pretrained and "HF_IOMT_WEIGHTS" in os.environ and folder.is_dir():
        return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    return LlamaForCausalLM(llama_config()), word_tokenizer()


def sentences(count, seed=0):
    """Sentences of 3 to 9 words."""
    generator = torch.Generator().manual_seed(seed)

    def draw(limit):
        return int(torch.randint(limit, (), generator=generator))

    return [" ".join(WORDS[draw(len(WORDS))] for _ in range(3 + draw(7))) for _ in range(count)]


def texts(count=48):
    return Dataset.from_dict({"text": sentences(count)})


def preferences(count=48):
    """What follows a prompt: sentences about a dog are preferred."""
    prompts, ends = sentences(count), sentences(count, seed=1)
    return Dataset.from_dict(
        {
            "prompt": prompts,
            "chosen": [f" a dog {end}" for end in ends],
            "rejected": [f" a ball {end}" for end in ends],
        }
    )


def adapter(**settings):
    return peft.LoraConfig(
        **{"r": 2, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **settings}
    )
