"""Chat templates, and a tokenizer of characters that knows the marks of ChatML."""

from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from volley.schemas.run_spec import ChatFrame

SPECIAL_TOKENS = ("<pad>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
CHARACTERS = "".join(map(chr, range(32, 127))) + "\n"
IDS = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *TAGS, *CHARACTERS))}
CONTEXT_LENGTH = 1024

# A tool of a user's.
ADD = '''
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b
'''

# As Qwen2.5 and Qwen3 write it: results of tools in a row are one message of the user.
CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{- (tool.function | tojson) + '\\n' }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

# As Qwen3 does it, too: what was thought before the user's last message is left out.
FORGETFUL = CHATML.replace(
    "m.content + '<|im_end|>",
    "(m.content.split('</think>')[-1].lstrip() if messages[-1].role == 'user' else m.content)"
    " + '<|im_end|>",
)

USER_FRAME = ChatFrame(
    opening="<|im_end|>\n<|im_start|>user\n",
    between="<|im_end|>\n<|im_start|>user\n",
    closing="<|im_end|>\n<|im_start|>assistant\n",
)
TOOL_FRAME = ChatFrame(
    opening="<|im_end|>\n<|im_start|>user\n<tool_response>\n",
    between="\n</tool_response>\n<tool_response>\n",
    closing="\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
)


def save_chat_model(folder: Path, template: str = CHATML) -> Path:
    """A model of a few thousand weights that could chat, had it learnt to."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(IDS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=IDS["<pad>"],
        eos_token_id=IDS["<|im_end|>"],
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    save_chat_tokenizer(folder, template)
    return folder


def save_chat_tokenizer(folder: Path, template: str = CHATML) -> PreTrainedTokenizerFast:
    """One token per character and per mark; the tags are added and not special."""
    tokenizer = Tokenizer(WordLevel(IDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(tag, special=False) for tag in TAGS])
    chatting = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|endoftext|>"],
        chat_template=template,
    )
    chatting.save_pretrained(folder)
    return chatting
