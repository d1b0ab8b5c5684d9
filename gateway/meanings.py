"""What the parameters of requests mean, in the words of the documentation page and of the OpenAPI document."""

from __future__ import annotations

from gateway.completions import CHOICES_LIMIT
from gateway.embeddings import INPUTS_LIMIT

# In the order in which people read of them.
OF_PARAMETERS = {
    "model": "The id of a model.",
    "messages": "The conversation so far, oldest first. Each has a `role` (`system`, `developer`, `user`, `assistant` "
    "or `tool`) and a `content`: text, or parts such as `text` and `image_url` (a public URL, or `data:`).",
    "prompt": "A text, several texts, a list of token ids, or several of those. Each prompt gets `n` answers, at most "
    f"{CHOICES_LIMIT} together.",
    "input": f"A text, or up to {INPUTS_LIMIT:,} texts. Token ids are refused: they belong to a vocabulary.",
    "max_tokens": "The most tokens to generate for each answer; no more than the model can write.",
    "max_completion_tokens": "The newer name of `max_tokens`. Give one of them.",
    "temperature": "0 always takes the likeliest token, 2 is very random.",
    "top_p": "Nucleus sampling: only the likeliest tokens that together have this probability are considered.",
    "stream": "Send the answer as server-sent events, while it is written.",
    "stream_options": '`{"include_usage": true}` asks for one more event at the end, with usage and cost.',
    "stop": "One text or several; the answer ends before any of them.",
    "n": "How many answers to generate. Each is paid, the prompt once.",
    "presence_penalty": "Above 0, what was mentioned already comes up less.",
    "frequency_penalty": "Above 0, what was mentioned often comes up less.",
    "response_format": "Text, any JSON, or JSON that follows a schema.",
    "tools": "Functions that the model may ask for, each with a name and a JSON schema.",
    "tool_choice": "Whether it may, must or must not ask for one, or the one to ask for.",
    "parallel_tool_calls": "Whether it may ask for several at the same time.",
    "reasoning_effort": "How long to think before the answer, for models that do.",
    "seed": "The same seed and request give much the same answer.",
    "logprobs": "Tell how likely the chosen tokens were.",
    "top_logprobs": "And so many likely others, for each token.",
    "logit_bias": "Token ids and how much more or less likely each becomes, from -100 to 100.",
    "modalities": "What the answer is made of, for models that speak.",
    "metadata": "Notes of yours. Passed on, and kept nowhere by us.",
    "user": "An id of your own user. Passed on, and kept nowhere by us.",
    "suffix": "What comes after the generated text, for models that fill a gap.",
    "echo": "Only `false`: put the prompt before the answer yourself.",
    "best_of": "Not above `n`: ask for `n` answers and choose.",
    "encoding_format": "Numbers, or base64 of 32-bit floats, which OpenAI's SDKs ask for by themselves.",
    "dimensions": "The length of the vectors, where the model can choose it.",
    "functions": "The older form of `tools`.",
    "function_call": "The older form of `tool_choice`.",
}

# What is taken for a parameter that is absent, where no form says it.
DEFAULTS = {"n": 1, "stream": False, "encoding_format": "float"}
