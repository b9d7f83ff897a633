import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judges.raw_server import chat_answer, token

from palate.judges.replies import Malformed, answer_of, first_of_logprobs, letter_of, read_reply, why_none


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"), (" b.\n", "B"), ("**A**", "A"), ("(A)", "A"), ("`B`", "B"), ('"A"', "A"), ("A)", "A"), ("[[B]]", "B"), ("> B", "B"),
        ("- A", "A"), ("# B", "B"), ("__A__", "A"), ("$\\boxed{B}$", "B"), ("\\boxed{\\text{A}}", "A"), ("a", "A"),
        ("Answer: B", "B"), ("**Answer:** B", "B"), ("**Answer: B**", "B"), ("### Answer\n\nB", "B"), ("answer: b", "B"), ("Answer: (A)", "A"),
        ("The answer is A.", "A"), ("The correct answer is **B**", "B"), ("Final Answer: A", "A"), ("My choice is B", "B"), ("So the answer is A", "A"),
        ("Picture B", "B"), ("Image A.", "A"), ("The better picture is B.", "B"), ("I prefer Picture A.", "A"), ("I would choose B", "B"),
        ("Picture B is better.", "B"), ("**B** is the better picture", "B"), ('{"answer": "A"}', "A"), ('```json\n{"choice": "B"}\n```', "B"),
        ("<answer>B</answer>", "B"),
        ("<think>Picture A is too dark. A? No.</think>\n\nB", "B"), ("so it is A\n</think>B", "B"), ("◁think▷A◁/think▷ B", "B"),
        ("<think>a</think><think>b</think>**A**", "A"),
        ("The first is dark.\nThe second is sharp.\n\nAnswer: B", "B"), ("It is close.\n**Final answer: A**", "A"), ("Words.\n$\\boxed{A}$", "A"),
        ("Words.\n<answer>b</answer>", "B"),
    ],
)  # fmt: skip
def test_a_reply_that_is_an_answer_counts(text, letter):
    assert letter_of(text) == letter


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "**", "C", "AB", "A B", "A/B", "A or B", "A, B", "Both", "Neither", "A and B are alike", "A?", "~~A~~", "not A", "А",  # noqa: RUF001 Cyrillic
        "Picture A is too dark. B", "Picture B is too dark. A", "A picture of a dog", "a picture", "I'm sorry, I can't judge a picture of people",
        "I cannot help with that.", "As an AI, I have no preference.", "The worse picture is A", "Picture A is worse", "Not Picture B",
        "<think>Picture A is better", "<think>A", "<think>B</think>", "<think>B</think> A or B?", "A</think>",
        "Answer: A\nAnswer: B", "Answer: A or B", "Answer: A\nNo, wait.", "Answer: unknown", "The answer is a matter of taste", "B\n\nBecause A is dark.",
        "Vitamin A", "Plan B", "grade: A", "A+", "A-B", "1. A\n2. B", '{"answer": "A", "other": "B"}',
    ],
)  # fmt: skip
def test_a_reply_that_says_more_or_something_else_does_not(text):
    assert letter_of(text) is None


def as_tokens(text: str) -> list[dict]:
    return [token(part) for part in re.findall(r" ?[A-Za-z']+|\s+|[^A-Za-z\s]", text)]


def reply_of(text, tokens=None, **choice):
    return read_reply(chat_answer(text, tokens, **choice))


@pytest.mark.parametrize(
    "text", ["Picture A is too dark. B", "I'm sorry, I can't judge a picture of people", "A picture of B"]
)
def test_both_routes_agree_that_a_sentence_with_letters_is_no_answer(text):
    reply = reply_of(text, as_tokens(text))
    assert answer_of(reply) is None and first_of_logprobs(reply) is None
    assert "neither A nor B" in why_none(reply, reply.text, 16)


def test_the_probability_is_that_of_the_letter_that_answers():
    answer = token(" B", _A=0.25, _B=0.5, A=0.05, a=0.1, _The=0.1)
    for before in ("", "Answer:", "**Answer:**", "<think>Picture A is a bit dark</think>"):
        reply = reply_of(f"{before} B", [*as_tokens(before), answer, token("<|im_end|>")])
        assert first_of_logprobs(reply) == pytest.approx(0.3 / 0.8), before  # the article "a" is not an A


def test_reasoning_that_a_server_took_out_of_the_text_is_passed_over():
    tokens = [
        *as_tokens("Picture A is dark. A"),
        token("</think>"),
        token("\n\n"),
        token("B", A=0.2, B=0.6),
        token("</s>"),
    ]
    reply = reply_of("B", tokens, message={"content": "B", "reasoning_content": "Picture A is dark. A"})
    assert first_of_logprobs(reply) == pytest.approx(0.25)


def test_log_probabilities_that_do_not_end_in_the_reply_give_none():
    reply = reply_of("B", [token("B"), token(" or"), token(" not")])
    assert answer_of(reply) == "B" and first_of_logprobs(reply) is None
    assert "no token of its own" in why_none(reply, reply.text, 16)
    assert first_of_logprobs(reply_of("Answer: B", [token("Answer"), token(": B.")])) is None
    assert first_of_logprobs(reply_of("B", [{"token": "B", "logprob": -math.inf}])) is None


def test_a_reply_that_was_cut_or_refused_is_no_answer():
    cut = reply_of("A", [token("A")], finish_reason="length")
    assert answer_of(cut) is None and first_of_logprobs(cut) is None
    assert "max_tokens=16" in why_none(cut, cut.text, 16) and "max_tokens=128" in why_none(cut, cut.text, 16)
    refused = reply_of(None, message={"content": None, "refusal": "No people."})
    assert answer_of(refused) is None and "refused: 'No people.'" in why_none(refused, refused.refusal, 16)


@given(st.floats(-50, 50), st.floats(0.01, 0.99))
def test_log_probabilities_far_below_zero_keep_their_ratio(shift, share):
    ways = {"A": math.log(share) + shift - 700, "B": math.log(1 - share) + shift - 700}
    top = [{"token": way, "logprob": logprob} for way, logprob in ways.items()]
    assert first_of_logprobs(reply_of("A", [{**top[0], "top_logprobs": top}])) == pytest.approx(share)


def test_spellings_of_a_letter_are_added_and_other_tokens_passed_over():
    assert first_of_logprobs(
        reply_of("\nA", [token("\n"), token("A", A=0.3, _A=0.3, B=0.2, The=0.2)])
    ) == pytest.approx(0.75)
    assert first_of_logprobs(reply_of("B", [token("B", B=0.9)])) == 0
    assert first_of_logprobs(reply_of(" A", [{"token": "ĠA", "logprob": -0.1, "top_logprobs": None}])) == 1
    assert first_of_logprobs(reply_of("b", [token("b", b=0.6, a=0.2, A=0.2)])) == pytest.approx(0.25)


GOOD = {"choices": [{"message": {"content": "A"}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"\xff\xfe", b"{", b'"A"', b"[" * 100_000, b'{"choices": ' + b"[" * 100_000, b"1" * 5_000,
        *[json.dumps(value).encode() for value in (
            {"choices": []}, {"choices": {}}, {"choices": "A"}, {"choices": [None]}, {"choices": [{"message": "A"}]}, {"choices": [{"text": "A"}]},
            {"choices": [{"message": {"content": 5}}]}, {"choices": [{"message": {"content": {"text": "A"}}}]}, {"choices": [{"message": {"content": [5]}}]},
            {"choices": [{"message": {"content": "A"}, "logprobs": 5}]}, {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [5]}}]},
            {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"token": "A"}]}}]},
            {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"token": "A", "logprob": math.nan}]}}]},
            {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"token": "A", "logprob": 10**400}]}}]},
            {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"token": ["A"], "logprob": -1}]}}]},
            {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"token": 5, "logprob": -1}]}}]},
            {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"token": "A", "logprob": "x"}]}}]},
            {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"token": "A", "logprob": -1, "top_logprobs": 7}]}}]},
        )],
    ],
)  # fmt: skip
def test_what_is_not_of_the_protocol_is_malformed_and_nothing_else(body):
    with pytest.raises(Malformed):
        read_reply(body)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        5,
        "x",
        [],
        {"prompt_tokens": "9"},
        {"prompt_tokens": -1},
        {"prompt_tokens": 10**400},
        {"prompt_tokens": True},
    ],
)
def test_an_account_that_cannot_be_is_left_out_and_the_answer_counts(usage):
    reply = read_reply(json.dumps(GOOD | {"usage": usage}).encode())
    assert answer_of(reply) == "A" and reply.usage == {}


def test_parts_of_text_are_one_reply():
    assert reply_of([{"type": "text", "text": "Answer: "}, {"type": "text", "text": "A"}]).text == "Answer: A"
