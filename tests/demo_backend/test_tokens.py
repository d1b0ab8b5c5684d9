from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from flint.sandbox.demo_backend import prompts, tokens

parts = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, st.text()),
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, st.text()),
    st.just({}),
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "x", ""]), "content": st.one_of(st.none(), st.text(), st.lists(parts))},
    optional={"tool_calls": st.lists(st.dictionaries(st.text(), st.text()))},
)


@settings(max_examples=50)
@given(st.text())
def test_tokens_are_the_text_and_never_more_than_its_bytes(text: str) -> None:
    split = tokens.split(text)
    assert "".join(split) == text
    assert tokens.count(text) == len(split) <= len(text.encode())


@settings(max_examples=50)
@given(st.lists(messages, min_size=1), st.none() | st.lists(st.dictionaries(st.text(), st.text())))
def test_a_prompt_never_has_more_tokens_than_bytes(asked: list[Any], tools: list[Any] | None) -> None:
    body: dict[str, Any] = {"model": "m", "messages": asked}
    if tools is not None:
        body["tools"] = tools
    prompt = prompts.read(msgspec.json.encode(body))
    prompt_tokens, cached_tokens = prompts.PrefixCache().count(prompt)
    byte_length = len(msgspec.json.encode(asked)) + len(msgspec.json.encode(tools or ""))
    assert 0 <= cached_tokens <= prompt_tokens <= byte_length
