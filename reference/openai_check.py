#!/usr/bin/env python3
"""Checks a running server with the `openai` package, unchanged.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install openai
    milpa serve BUNDLE &
    /tmp/venv/bin/python reference/openai_check.py --url http://127.0.0.1:8080/v1

Exit code 0 means that all checks held. `--key` is sent where the server needs one.
"""

import argparse
import math
import sys

import openai

PROMPT = "Había una vez, en un pueblo de la sierra,"
MESSAGES = [{"role": "user", "content": PROMPT}]


def check_models(client):
    models = client.models.list().data
    assert len(models) == 1, models
    assert client.models.retrieve(models[0].id).id == models[0].id
    try:
        client.models.retrieve("no-such-model")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error.code
    else:
        raise AssertionError("a model that is not there was found")
    return models[0].id


def check_chat(client, model):
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=12, temperature=0.7, top_p=0.9, seed=1)
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length"), choice.finish_reason
    assert 0 < answer.usage.completion_tokens <= 12, answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    # The conversation goes on with the answer as it came.
    more = MESSAGES + [choice.message, {"role": "user", "content": "y entonces"}]
    client.chat.completions.create(model=model, messages=more, max_completion_tokens=4)
    return choice.message.content


def check_stream(client, model, whole):
    stream = client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=12, temperature=0.7, top_p=0.9, seed=1,
        stream=True, stream_options={"include_usage": True})
    text, reason, usage, pieces = "", None, None, 0
    for chunk in stream:
        if chunk.usage:
            usage = chunk.usage
        if not chunk.choices:
            continue
        reason = chunk.choices[0].finish_reason or reason
        piece = chunk.choices[0].delta.content or ""
        pieces += bool(piece)
        text += piece
    assert text == whole, f"streamed {text!r}, whole {whole!r}"
    assert reason in ("stop", "length") and usage.completion_tokens <= 12
    assert pieces > 1, "the stream came in one piece"


def check_seed(client, model):
    def ask(seed):
        answer = client.chat.completions.create(
            model=model, messages=MESSAGES, max_tokens=24, temperature=1.0, seed=seed)
        return answer.choices[0].message.content

    assert ask(5) == ask(5), "the same seed gave another text"
    assert len({ask(seed) for seed in range(6)}) > 1, "all seeds gave the same text"


def check_stop(client, model):
    common = {"model": model, "messages": MESSAGES, "max_tokens": 24, "seed": 3}
    text = client.chat.completions.create(**common).choices[0].message.content
    middle = len(text) // 2
    stop = text[middle:middle + 3]
    assert stop, f"the answer is too short to stop in: {text!r}"
    for value in (stop, ["\u0000never\u0000", stop]):
        choice = client.chat.completions.create(**common, stop=value).choices[0]
        assert choice.message.content == text[:text.index(stop)], choice.message.content
        assert choice.finish_reason == "stop", choice.finish_reason


def check_logprobs(client, model):
    answer = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=6, temperature=0, logprobs=3)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == answer.usage.completion_tokens, logprobs
    assert all(value <= 0 for value in logprobs.token_logprobs), logprobs.token_logprobs
    assert all(len(top) <= 3 for top in logprobs.top_logprobs)
    for token, value, top in zip(
            logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        # At temperature 0 the most probable token is taken.
        assert math.isclose(max(top.values()), value, abs_tol=1e-6), (token, value, top)
    chat = client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=4, logprobs=True, top_logprobs=2)
    for token in chat.choices[0].logprobs.content:
        assert token.logprob <= 0 and isinstance(token.bytes, list) and len(token.top_logprobs) <= 2


def check_completion_stream(client, model):
    common = {"model": model, "prompt": PROMPT, "max_tokens": 8, "seed": 2}
    whole = client.completions.create(**common).choices[0].text
    text = "".join(chunk.choices[0].text for chunk in client.completions.create(**common, stream=True))
    assert text == whole, f"streamed {text!r}, whole {whole!r}"


def check_refusals(client, model):
    def refused(code, **extra):
        try:
            client.chat.completions.create(**({"model": model, "messages": MESSAGES} | extra))
        except openai.BadRequestError as error:
            assert error.status_code == 400 and error.type == "invalid_request_error"
            assert code is None or error.code == code, error.code
            return error.message
        raise AssertionError(f"{str(extra)[:80]} was not refused")

    long = [{"role": "user", "content": "palabra tras palabra, " * 40_000}]
    message = refused("context_length_exceeded", messages=long, max_tokens=8)
    assert any(character.isdigit() for character in message), message
    refused("context_length_exceeded", max_tokens=1_000_000)
    refused("unsupported_parameter", n=2)
    refused("unsupported_parameter", response_format={"type": "json_object"})
    refused("unsupported_parameter", logit_bias={"1": 5})
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    refused("unsupported_parameter", tools=[tool])
    refused("unknown_parameter", extra_body={"mirostat": 2})
    refused(None, temperature=9)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--key", default="none")
    args = parser.parse_args()
    client = openai.OpenAI(base_url=args.url, api_key=args.key)
    model = check_models(client)
    print("ok  models")
    whole = check_chat(client, model)
    print("ok  chat")
    for name, check in (
        ("stream", lambda: check_stream(client, model, whole)),
        ("seed", lambda: check_seed(client, model)),
        ("stop", lambda: check_stop(client, model)),
        ("logprobs", lambda: check_logprobs(client, model)),
        ("completion stream", lambda: check_completion_stream(client, model)),
        ("refusals", lambda: check_refusals(client, model)),
    ):
        check()
        print(f"ok  {name}")
    print(f"openai {openai.__version__} works with {model}")


if __name__ == "__main__":
    sys.exit(main())
