"""Which responses are right, by grader, whatever way Unicode has of writing them; and how a grader is found."""

import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xopd.data import AudioFile, Item
from xopd.errors import UserError
from xopd.evals.graders.exact import ExactMatch, FinalAnswer, final_answer
from xopd.evals.graders.normal_form import written_alike
from xopd.evals.graders.registry import GRADERS, grader_named

FORMS = ("NFC", "NFD", "NFKC", "NFKD")
COMBINED = st.text(st.sampled_from("aeo\u0301\u0308\u0327\u0323 .-5éÅΩﬁ²½½ßİǆ가가\u0345Ǳ’“—\u00a0"), max_size=12)

CLIP = AudioFile(uri="a.flac", sha256="0" * 64, seconds=1.0, sample_rate=16000)
ITEM = Item(id="a", family="f", split="test", text="say it", audio=CLIP, answer="x")


def asking_for(answer: str) -> Item:
    return ITEM.model_copy(update={"answer": answer})


def is_correct(response: str, answer: str) -> bool:
    return FinalAnswer().grade(response, asking_for(answer))


def can_be_right(answer: str) -> bool:
    return FinalAnswer().can_be_right(asking_for(answer))


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("one and two . answer three . answer four", "four"),
        ("so answer Twenty  One .", "twenty one"),
        ("answer u.s.", "U.S."),
        ("answer U.S. .", "U.S."),
        ("answer U.S", "U.S."),
        ("answer 5 p.m.", "5 p.m."),
        ("answer 5 P.M.", "5 p.m."),
        ("ANSWER no", "No."),
        ("answer No.", "no"),
        ("answer caf\u00e9", "cafe\u0301"),
        ("answer cafe\u0301", "caf\u00e9"),
        ("answer \u212b", "\u00c5"),
        ("answer ﬁve", "five"),
        ("answer ５", "5"),
        ("ａｎｓｗｅｒ 5", "5"),
        ("answer STRASSE", "Straße"),
        ("answer ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("answer İ", "i\u0307"),
        ("answer it’s", "it's"),
        ("answer it`s", "it´s"),
        ("answer “yes”", '"yes"'),
        ("answer «yes»", '"yes"'),
        ("answer 5″", '5"'),
        ("answer twenty‑one", "twenty-one"),
        ("answer twenty–one", "twenty-one"),
        ("answer −3", "-3"),
        ("answer a\u00a0b\u202fc\u2007d", "a b c d"),
        ("answer a\tb\nc", "a b c"),
        ("answer a\u00adb\u200b\u2060\ufeff", "ab"),
        ("answer 5。", "5"),
        ("answer 5…", "5"),
        ("answer … 5", "5"),
        ("answer . . 5 . .", "5"),
        ("answer .5", ".5"),
        ("answer .5.", ".5"),
        ("answer 10²", "10^2"),
        ("answer 10¹²", "10^12"),
        ("answer 10⁻²", "10^-2"),
        ("answer 1½", "1 1/2"),
        ("answer ½", "1/2"),
        ("answer H₂O", "H2O"),
        ("answer the answer is five . answer five", "five"),
        ("answer -", "-"),
    ],
)
def test_right(response, answer):
    assert is_correct(response, answer)
    assert can_be_right(answer)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("twenty one", "twenty one"),
        ("answer", "two"),
        ("", "two"),
        ("answers two", "two"),
        ("answer two three", "two"),
        ("answer two . and three", "two"),
        ("answer two . answer", "two"),
        ("answer 15", "1.5"),
        ("answer 1.5", "15"),
        ("answer 3", "-3"),
        ("answer -3", "3"),
        ("answer −3", "3"),
        ("answer .5", "5"),
        ("answer 5", ".5"),
        ("answer ...5", ".5"),
        ("answer 10²", "102"),
        ("answer 10⁻²", "10-2"),
        ("answer 10₂", "102"),
        ("answer 1½", "11/2"),
        ("answer 1 1/2", "11/2"),
        ("answer us", "u.s."),
        ("answer resume", "résumé"),
        ("answer ab", "a b"),
        ("answer", ""),
        ("answer .", "."),
        ("answer .", ""),
        ("answer", "answer"),
    ],
)
def test_wrong(response, answer):
    assert not is_correct(response, answer)


@pytest.mark.parametrize(
    "answer",
    ["", " ", ".", ". .", "…", "。", "\u00a0", "\u200b", "answer", "ANSWER", "ａｎｓｗｅｒ", "the answer",
     "answer five", "five answer", "the answer is five", "five . answer ."],
)  # fmt: skip
def test_what_can_never_be_right(answer):
    assert not can_be_right(answer)
    assert not is_correct(f"answer {answer}", answer)


def test_words_that_hold_the_marker_are_none():
    assert can_be_right("answers") and can_be_right("unanswered") and can_be_right("answer-phone")


def test_a_final_answer():
    assert final_answer("one and two . answer three . answer Four .") == "four"
    assert final_answer("four") is None
    assert final_answer("answer .") == ""


@settings(max_examples=300, deadline=None)
@given(
    gold=st.text(max_size=20) | COMBINED,
    before=st.text(max_size=20),
    after=st.text(st.sampled_from(" .\u00a0"), max_size=4),
)
def test_the_gold_itself_is_right_wherever_it_can_be(gold, before, after):
    assume(can_be_right(gold))
    assert is_correct(f"{before} answer {gold}", gold)
    assert is_correct(f"{before} answer {gold} {after}", gold)
    assert is_correct(f"{before}\nAnswer  {gold}.", gold)


@settings(max_examples=300, deadline=None)
@given(gold=st.text(max_size=20) | COMBINED)
def test_a_gold_that_cannot_be_right_is_empty_or_holds_the_marker(gold):
    words = unicodedata.normalize("NFKC", gold).casefold().split()
    assert can_be_right(gold) or written_alike(gold) == "" or "answer" in words


@settings(max_examples=300, deadline=None)
@given(gold=st.text(max_size=20) | COMBINED, one=st.sampled_from(FORMS[:2]), other=st.sampled_from(FORMS[:2]))
def test_canonical_forms_are_alike_on_both_sides(gold, one, other):
    assert written_alike(unicodedata.normalize(one, gold)) == written_alike(unicodedata.normalize(other, gold))
    assert can_be_right(unicodedata.normalize(one, gold)) == can_be_right(gold)
    assume(can_be_right(gold))
    assert is_correct(f"answer {unicodedata.normalize(one, gold)}", unicodedata.normalize(other, gold))


@settings(max_examples=200, deadline=None)
@given(words=st.lists(st.text(st.sampled_from("abcXYZ'-\"19"), min_size=1, max_size=5), min_size=1, max_size=3))
def test_case_spaces_quotes_and_dashes_do_not_count(words):
    gold = " ".join(words)
    other = "\u00a0 ".join(words).swapcase().replace("'", "’").replace('"', "“").replace("-", "–")
    assume(can_be_right(gold))
    assert is_correct(f"answer {other}", gold)
    assert is_correct(f"answer {gold}", other)


NUMBER = st.from_regex(r"[-−]?([0-9]{1,3}(\.[0-9]{1,2})?|\.[0-9]{1,2})\.?", fullmatch=True, alphabet="0123456789.-−")


@settings(max_examples=500, deadline=None)
@given(said=NUMBER, gold=NUMBER)
def test_numbers_of_other_values_are_never_alike(said, gold):
    value, wanted = (float(text.replace("−", "-").rstrip(".")) for text in (said, gold))
    assert value == wanted or not is_correct(f"answer {said}", gold)
    assert is_correct(f"answer {said}", said)


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("Four.", "four", True),
        ("  cafe\u0301 ", "caf\u00e9", True),
        ("the answer", "The answer", True),
        ("answer four", "four", False),
        ("four, I think", "four", False),
        ("15", "1.5", False),
        ("", "", False),
        (".", ".", False),
    ],
)
def test_an_exact_match_is_of_the_whole_response(response, answer, right):
    assert ExactMatch().grade(response, asking_for(answer)) is right


@pytest.mark.parametrize(("answer", "can"), [("four", True), ("the answer is five", True), ("", False), (". .", False)])
def test_what_an_exact_match_can_be_of(answer, can):
    assert ExactMatch().can_be_right(asking_for(answer)) is can


def test_graders_are_found_by_name():
    assert {name: grader_named(name).name for name in GRADERS} == {n: n for n in ("final_answer", "exact_match")}
    with pytest.raises(UserError, match=r"^evals.grader 'judge': .*choose one of exact_match, final_answer\.$"):
        grader_named("judge")
