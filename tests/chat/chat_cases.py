"""Small byte-level tokenizers with the special tokens of chat templates."""

from pathlib import Path

from corpus import topics

CHAT_TOKENS = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TEMPLATES = ("llama3", "chatml")
OWN = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}]"
    "{% if message.role == 'assistant' %}{% generation %} {{ message.content }}<|eot_id|>{% endgeneration %}"
    "{% else %} {{ message.content | trim }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
"""A template as others write them: it trims, knows bos_token, marks generations, and has roles as plain text."""


def write_tokenizer(directory: Path, tokens: tuple[str, ...] = CHAT_TOKENS) -> Path:
    """A byte-level BPE of 500 tokens, trained by the tokenizers package itself; digits stand alone."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from tatara.data.tokenizer.directory import save
    from tatara.data.tokenizer.splits import SPLITS

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLITS["qwen3.5"].pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", *tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(topics().values())[:20], trainer)
    save(tokenizer, directory, 128)
    return directory
