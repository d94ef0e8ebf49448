"""Models behind an OpenAI-compatible address, against servers on this machine: what is sent, what is read, what fails how."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import torch

from chat_server import Reply, error, says, serving
from plaudit.errors import ConfigError, PolicyError
from plaudit.feedback.records import Context, Item, Text
from plaudit.policies import CausalLM, Endpoint, Sampling, TextSample
from plaudit.policies.chat_completions import Unanswered

from .conftest import ask, chat

SHORT = Sampling(max_new_tokens=5)
KEY = "sk-very-secret-0123456789"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(endpoint: Endpoint, contexts=None, n: int = 1, sampling: Sampling = SHORT):
    return endpoint.sample(contexts or [ask("Hi")], n, generator=generator(), sampling=sampling)


# --- what is asked --------------------------------------------------------------------------------------------------


def test_the_request_says_what_the_protocol_has_fields_for():
    sampling = Sampling(max_new_tokens=9, temperature=0.7, top_p=0.9, stop=("\n\n", "END"))
    turns = Context(content=chat(("system", "Be brief."), ("user", "Hi")))
    with serving([says("a", "b")]) as server:
        sample(Endpoint(server.url, "tiny"), [turns], 2, sampling)
    (asked,) = server.requests
    assert asked["path"] == "/v1/chat/completions"
    assert "Authorization" not in asked["headers"]
    assert {name: asked[name] for name in asked if name not in ("headers", "path", "time", "seed")} == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "temperature": 0.7,
        "top_p": 0.9,
        "stop": ["\n\n", "END"],
        "n": 2,
    }


def test_samples_come_in_the_order_of_their_contexts_and_become_outputs():
    contexts = [ask(f"question {index}") for index in range(20)]

    def answer(asked: dict) -> Reply:
        text = asked["messages"][0]["content"]
        reply = says(f" to {text}\n", "cut", finish="length" if text.endswith("7") else "stop")
        reply.hang_s = 0.05 if text.endswith("0") else 0.0
        return reply

    with serving(answer) as server:
        endpoint = Endpoint(server.url + "/chat/completions/", "tiny")
        groups = sample(endpoint, contexts, 2)
    expected = [f"to question {index}" for index in range(20)]
    assert [group[0].text for group in groups] == expected
    assert [group[0].finished for group in groups] == [not text.endswith("7") for text in expected]
    output = endpoint.output(groups[7][0], SHORT)
    assert output.content == Text(text="to question 7")
    assert output.producer.model == "tiny"
    assert output.producer.sampler == {"url": server.url, "finished": False, **SHORT.settings()}
    assert endpoint.usage.requests == 20
    assert (endpoint.usage.prompt_tokens, endpoint.usage.completion_tokens) == (200, 60)


def test_seeds_come_from_the_generator_and_nothing_else_random_is_touched():
    state = torch.random.get_rng_state()
    contexts = [ask("a"), ask("b")]
    seeds = []
    for seed in (5, 5, 6):
        with serving([says("x")]) as server:
            Endpoint(server.url, "m", concurrency=1).sample(contexts, 1, generator=generator(seed), sampling=SHORT)
        seeds.append([asked["seed"] for asked in server.requests])
    assert seeds[0] == seeds[1] != seeds[2]
    assert len({*seeds[0], *seeds[2]}) == 4
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_server_that_knows_no_n_is_asked_again_with_the_next_seed():
    answers = iter(["first", "second", "third"])
    with serving(lambda _: says(next(answers))) as server:
        endpoint = Endpoint(server.url, "m")
        ((*group,),) = sample(endpoint, n=3)
    assert [one.text for one in group] == ["first", "second", "third"]
    assert [asked.get("n", 1) for asked in server.requests] == [3, 2, 1]
    assert len({asked["seed"] for asked in server.requests}) == 3
    with serving([says("a", "b", "c", "d")]) as server:  # one that gives more than it was asked for
        assert [one.text for one in sample(Endpoint(server.url, "m"), n=2)[0]] == ["a", "b"]


def test_no_more_requests_are_under_way_than_allowed():
    def slow(_: dict) -> Reply:
        reply = says("x")
        reply.hang_s = 0.03
        return reply

    with serving(slow) as server:
        sample(Endpoint(server.url, "m", concurrency=3), [ask(str(index)) for index in range(15)])
    assert server.most_at_once == 3


def test_it_works_inside_a_running_event_loop():
    async def notebook(url: str) -> list[list[TextSample]]:
        return sample(Endpoint(url, "m"))

    with serving([says("x")]) as server:
        assert asyncio.run(notebook(server.url)) == [[TextSample("x", finished=True)]]


def test_no_contexts_no_requests():
    with serving([says("x")]) as server:
        endpoint = Endpoint(server.url, "m")
        assert endpoint.sample([], 2, generator=generator()) == []
        with pytest.raises(ValueError, match="n: expected a whole number >= 1, got 0"):
            endpoint.sample([ask("Hi")], 0, generator=generator())
    assert server.requests == []


# --- failures that pass ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [error(429, "slow down"), error(503, "overloaded"), Reply(b"<html>Bad gateway</html>", 502), Reply(b'{"choi')],
    ids=["429", "503", "502 in HTML", "cut JSON"],
)
def test_a_failure_that_passes_is_tried_again(failure):
    with serving([failure, failure, says("at last")]) as server:
        endpoint = Endpoint(server.url, "m")
        assert sample(endpoint)[0][0].text == "at last"
    assert endpoint.usage.requests == 3
    assert endpoint.usage.retries == 2
    times = [asked["time"] for asked in server.requests]
    assert times[1] - times[0] >= 0.25  # half a second, less the jitter
    assert times[2] - times[1] >= 0.5


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(form):
    wanted = "2" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    with serving([error(429, "slow down", Retry_After=wanted), says("x")]) as server:
        sample(Endpoint(server.url, "m"))
    first, second = (asked["time"] for asked in server.requests)
    assert second - first >= 1.9


def test_a_wait_beyond_the_deadline_is_not_begun():
    started = time.monotonic()
    with serving([error(429, "slow down", Retry_After="3600")]) as server:
        with pytest.raises(PolicyError, match=r"429.*slow down.*next attempt would be in 3600 s, after the deadline"):
            sample(Endpoint(server.url, "m", deadline_s=5))
        assert len(server.requests) == 1
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("slow", ["hangs", "drips"])
def test_a_server_that_hangs_or_drips_costs_no_more_than_the_deadline(slow):
    reply = says("x" * 400)
    reply.hang_s, reply.drip_s = (30, 0) if slow == "hangs" else (0, 0.05)
    started = time.monotonic()
    with serving([reply]) as server:
        with pytest.raises(PolicyError, match=r"does not answer: no answer within 0\.3 s.*timeout_s, deadline_s"):
            sample(Endpoint(server.url, "m", timeout_s=0.3, deadline_s=1.5, retries=20))
        assert len(server.requests) > 1
    assert time.monotonic() - started < 3


def test_a_broken_server_is_given_up_after_the_retries():
    with serving([error(500, "it is on fire")]) as server:
        with pytest.raises(PolicyError, match=r"status 500: .*it is on fire.*given up after 1 retries"):
            sample(Endpoint(server.url, "m", retries=1))
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"choices": []}, "choices: List should have at least 1"),
        ({"result": "x"}, "choices: Field required"),
        ({"choices": [{"message": {"content": 3}}]}, r"choices\.0\.message\.content: Input should be a valid string"),
        (b"<html>Welcome</html>", "body: Invalid JSON"),
    ],
    ids=["no choices", "other fields", "a number for text", "a web page"],
)
def test_a_reply_that_is_no_chat_completion_is_named(body, place):
    with serving([Reply(body)]) as server, pytest.raises(PolicyError, match=f"no chat completion \\({place}"):
        sample(Endpoint(server.url, "m", retries=0))


def test_one_lost_answer_costs_no_other_its_own_and_is_no_sample():
    def answer(asked: dict) -> Reply:
        text = asked["messages"][0]["content"]
        return {"long": error(400, "context_length_exceeded"), "filtered": says(None, finish="content_filter")}.get(
            text, says(f"to {text}")
        )

    contexts = [ask("a"), ask("long"), ask("filtered"), ask("b")]
    done: list[int] = []
    with serving(answer) as server:
        endpoint = Endpoint(server.url, "m", retries=0)
        replies = endpoint.ask(contexts, 1, generator=generator(), sampling=SHORT, progress=done.append)
        with pytest.raises(PolicyError, match=r"did not answer contexts\[1\]: status 400.*context_length_exceeded"):
            sample(endpoint, contexts)
    assert [isinstance(reply, Unanswered) for reply in replies] == [False, True, True, False]
    assert replies[3][0].text == "to b"
    assert "content_filter" in replies[2].reason
    assert sum(done) == 4


def test_a_request_that_the_server_does_not_take_is_said_in_the_servers_words():
    with serving([error(400, "temperature must be 1 for this model")]) as server:
        with pytest.raises(PolicyError, match=r"answered none of 1 requests.*400.*temperature must be 1"):
            sample(Endpoint(server.url, "m"))
        assert len(server.requests) == 1


# --- failures that stay ---------------------------------------------------------------------------------------------


def test_an_unknown_model_is_told_what_there_is():
    with (
        serving([error(404, "The model `gtp-4` does not exist")], models=["gpt-4", "gpt-5"]) as server,
        pytest.raises(PolicyError, match=r"serves no model 'gtp-4'.*It serves: gpt-4, gpt-5\."),
    ):
        sample(Endpoint(server.url, "gtp-4"))


def test_a_wrong_address_is_told_what_a_right_one_looks_like():
    with serving([says("x")]) as server:
        wrong = server.url.removesuffix("/v1") + "/api"
        with pytest.raises(PolicyError, match=r"/api/chat/completions is no address of an OpenAI-compatible API"):
            sample(Endpoint(wrong, "m"))
        assert len(server.requests) == 1


def test_a_redirect_is_not_followed():
    with serving([Reply("moved", 307, {"Location": "http://127.0.0.1:1/"})]) as server:
        with pytest.raises(PolicyError, match=r"no address of an OpenAI-compatible API \(status 307"):
            sample(Endpoint(server.url, "m"))
        assert len(server.requests) == 1


def test_an_address_that_cannot_be_one():
    with pytest.raises(PolicyError, match=r"url: 'http://…/v1' is no address \(Invalid IDNA"):
        sample(Endpoint("http://…/v1", "m"))


def test_nobody_at_the_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(PolicyError, match=r"does not answer: the connection failed.*Look whether the server runs"):
        sample(Endpoint(f"http://127.0.0.1:{port}/v1", "m", retries=0))


def test_the_first_lasting_failure_ends_all_requests():
    with serving([error(401, "no")]) as server:
        with pytest.raises(PolicyError, match=r"refuses access \(status 401.*no key was sent"):
            sample(Endpoint(server.url, "m", concurrency=2), [ask(str(index)) for index in range(50)])
        assert len(server.requests) <= 4


# --- the key --------------------------------------------------------------------------------------------------------


def test_the_key_goes_to_the_server_and_nowhere_else(monkeypatch, capfd, caplog):
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(0)
    with serving([says("x"), error(401, f"Incorrect API key provided: {KEY}")]) as server:
        endpoint = Endpoint(server.url, "m", api_key_env="MY_KEY")
        (group,) = sample(endpoint)
        with pytest.raises(PolicyError, match=r"the key in MY_KEY was sent") as caught:
            sample(endpoint)
    assert server.requests[0]["headers"]["Authorization"] == f"Bearer {KEY}"
    captured = capfd.readouterr()
    frames = [frame for frame in caught.traceback if "plaudit" in frame.path.parts]
    assert frames
    said = [str(caught.value), repr([frame.locals for frame in frames]), repr(endpoint), caplog.text]
    said += [captured.out, captured.err, endpoint.output(group[0], SHORT).model_dump_json(), str(vars(endpoint))]
    assert not any(KEY in text for text in said)


def test_a_missing_key_is_named_by_its_variable(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ConfigError, match="api_key_env: the environment variable MY_KEY is not set"):
        sample(Endpoint("http://127.0.0.1:9/v1", "m", api_key_env="MY_KEY"))


def test_a_key_that_is_none_is_named_by_its_variable(monkeypatch):
    monkeypatch.setenv("MY_KEY", "two words")
    with pytest.raises(ConfigError, match="api_key_env: MY_KEY holds characters that are in no key") as caught:
        sample(Endpoint("http://127.0.0.1:9/v1", "m", api_key_env="MY_KEY"))
    assert "two words" not in str(caught.value)


@pytest.mark.parametrize("options", [{"api_key_env": KEY}, {"api_key_env": "gsk_0123456789"}])
def test_a_key_in_the_place_of_its_variable_is_refused_without_repeating_it(options):
    with pytest.raises(ConfigError, match="api_key_env: expected the name of an environment variable") as caught:
        Endpoint("http://127.0.0.1:9/v1", "m", **options)
    assert options["api_key_env"] not in str(caught.value)


@pytest.mark.parametrize("url", [f"https://me:{KEY}@host/v1", f"https://host/v1?key={KEY}", f"https://host/v1#{KEY}"])
def test_a_secret_in_the_address_is_refused_without_repeating_it(url):
    with pytest.raises(ConfigError, match="url: expected no user name, password, query or fragment") as caught:
        Endpoint(url, "m")
    assert KEY not in str(caught.value)


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"url": "127.0.0.1:8000"}, "url: expected an address such as"),
        ({"url": "ftp://host/v1"}, "url: expected an address such as"),
        ({"url": "http://127.0.0.1:99999/v1"}, "url: expected an address such as .*, and a port up to 65535"),
        ({"model": ""}, "model: expected the model's name at the server, got ''"),
        ({"concurrency": 0}, "concurrency: expected a whole number >= 1, got 0"),
        ({"timeout_s": 0}, "timeout_s: expected a number > 0, got 0"),
        ({"deadline_s": -1}, "deadline_s: expected a number > 0, got -1"),
        ({"retries": -1}, "retries: expected a whole number >= 0, got -1"),
    ],
)
def test_settings_that_cannot_be_used_are_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        Endpoint(**{"url": "http://127.0.0.1:9/v1", "model": "m", **setting})


@pytest.mark.parametrize(("setting", "value"), [("top_k", 5), ("min_p", 0.1), ("repetition_penalty", 1.2)], ids=str)
def test_settings_without_a_field_in_the_protocol_are_refused(setting, value):
    with pytest.raises(ConfigError, match=f"{setting}: chat completions have no field for it, got {value}"):
        sample(Endpoint("http://127.0.0.1:9/v1", "m"), sampling=Sampling(**{setting: value}))


def test_only_text_and_chats_can_be_asked():
    with pytest.raises(PolicyError, match="asked with text or chat, got a context of type item"):
        sample(Endpoint("http://127.0.0.1:9/v1", "m"), [Context(content=Item(id="film"))])


# --- transformers serve ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers_server(tiny_model, tmp_path_factory):
    """`transformers serve` on a port of this machine: its address, and the tiny model with a will to sample."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    pytest.importorskip("openai")
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    file = folder / "generation_config.json"  # without do_sample this server takes the likeliest, whatever it is sent
    file.write_text(json.dumps({**json.loads(file.read_text()), "do_sample": True}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(folder)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen(
        [*command, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        for _ in range(600):
            if process.poll() is not None:
                pytest.fail(f"transformers serve ended: {process.stdout.read()[-3000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_transformers_serve_gives_the_answers_of_the_model_itself(transformers_server, tiny_model):
    """More than five seconds: another process imports torch and loads the model, as a user's server does."""
    contexts, greedy = [ask("Hi"), ask("2 + 2?")], Sampling(max_new_tokens=6, temperature=0)
    policy = CausalLM.load(tiny_model, dtype="float32")
    own = policy.sample(contexts, 1, generator=generator(), sampling=greedy)
    endpoint = Endpoint(*transformers_server, concurrency=1)
    groups = endpoint.sample(contexts, 2, generator=generator(), sampling=greedy)
    for mine, theirs in zip(own, groups, strict=True):
        assert [one.text for one in theirs] == [mine[0].text] * 2
        assert [one.finished for one in theirs] == [mine[0].finished] * 2
    assert endpoint.usage.requests == 4  # this server takes no n
    assert endpoint.usage.prompt_tokens == 2 * sum(len(policy.encoder.context(context)) for context in contexts)
    assert endpoint.usage.completion_tokens == 2 * sum(len(group[0].token_ids) for group in own)


@pytest.mark.slow
def test_transformers_serve_repeats_a_seed(transformers_server):
    """Shares the server of the test above."""
    endpoint = Endpoint(*transformers_server, concurrency=1)
    draws = [endpoint.sample([ask("Hi")], 2, generator=generator(seed), sampling=SHORT) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert draws[0][0][0] != draws[0][0][1]
