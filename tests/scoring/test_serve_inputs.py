"""What a served model reads of a request and answers, without a server."""

import json

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from pipelines.dataset.examples.example import Part
from pipelines.scoring.serve import AS_PARTS, _join, _read_inputs

DIALOGUE = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
ANSWERED = [*DIALOGUE, {"role": "assistant", "content": "b"}]
PARTS = (Part("system", "s"), Part("prompt", "a"), Part("response", "b"))


@pytest.mark.parametrize(
    "messages", [ANSWERED, [{"role": part.name, "content": part.text} for part in PARTS]]
)
def test_prompt_and_response_are_turns_of_user_and_assistant(messages):
    (document,) = _read_inputs(pd.DataFrame({"messages": [messages]}), AS_PARTS["prompt_response"])
    assert document.parts == PARTS


def test_a_chat_keeps_its_roles_and_reads_texts_beside_messages():
    rows = pd.DataFrame({"messages": [DIALOGUE, None], "text": [None, "hi"]})
    document, text = _read_inputs(rows, {})
    assert (document.parts, text) == ((Part("system", "s"), Part("user", "a")), "hi")


def test_a_row_with_messages_and_text_is_refused():
    rows = pd.DataFrame({"messages": [DIALOGUE], "text": ["hi"]})
    with pytest.raises(MlflowException, match="row 0 has messages and text; give one"):
        _read_inputs(rows, {})
    assert _read_inputs(rows, None) == ["hi"]  # a model that reads no dialogues


def test_parts_with_other_columns_are_joined_as_json():
    vectors = pd.DataFrame({"prediction": ["b"], "score": [0.5], "embedding": [[0.6, 0.8]]}, index=[1])
    classes = pd.DataFrame({"prediction": ["a", "c"], "score": [1.0, 0.25]}, index=[0, 2])
    answer = _join([vectors, classes])
    text = json.dumps(answer.to_dict("list"), allow_nan=False)
    assert json.loads(text)["embedding"] == [None, [0.6, 0.8], None]
    assert json.loads(text)["prediction"] == ["a", "b", "c"]


def test_an_empty_request_is_answered_by_an_empty_frame():
    answer = _join([])
    assert (list(answer.columns), len(answer)) == (["prediction", "score"], 0)
