"""A random Llama of about two million parameters with a tokenizer trained on the spot: a real model directory."""

from pathlib import Path

TEXT = [
    "the quick brown fox jumps over the lazy dog and runs home",
    "a furnace turns iron sand into steel, one charge after another",
    "def add(first, second): return first + second",
    "numbers 0 1 2 3 4 5 6 7 8 9 and signs + - * / = ( ) [ ] { }",
]


def write_tiny_llama(directory: Path, vocabulary: int = 2048, context: int = 512, seed: int = 0) -> Path:
    """Write a Hugging Face model directory.

    Args:
        directory: Made if it is not there.
        vocabulary: Size of the embedding; the tokenizer learns fewer merges from so little text.
        context: Longest sequence in tokens.
        seed: Of the random weights.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    end = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[end], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=end)
    fast.save_pretrained(directory)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory
